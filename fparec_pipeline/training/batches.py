"""Training batches from flat arrays: values and offsets, no Python for each sequence.

Notable:
* A user's m training items give the input items[:-1] and the targets items[1:], cut to the last n
  and right-aligned. A batch is as long as its longest sequence.
* An epoch is a permutation of the users, sorted by length within pools of `POOL_BATCHES` batches,
  the batches then shuffled: little padding, and still another grouping each epoch. Every target
  keeps its weight, since the loss is divided by the mean number of targets a step.
* The arrays live on the device; a batch is a few gathers. The order depends on (seed, epoch) only.

Here belongs what a batch holds and in what order. What is drawn for a loss belongs to the loss.
"""

import hashlib
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fparec_pipeline.datasets.splits import Splits

POOL_BATCHES = 16


class Batch(NamedTuple):
    """`items` and `targets`, (L, b) int64, right-aligned; 0 is padding and "no target"."""

    items: Tensor
    targets: Tensor


def derived_seed(seed: int, epoch: int) -> int:
    """The 63-bit seed of one epoch of a trial; epoch 0 is the initialisation."""
    digest = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class Batches:
    """The training sequences of a dataset, cut to the window n, ready to be batched."""

    def __init__(self, splits: Splits, n: int, batch_size: int, device: str = "cpu") -> None:
        offsets = torch.from_numpy(splits.train_offsets)
        lengths = (offsets.diff() - 1).clamp(0, n)  # inputs a user, as many as targets
        trained = lengths > 0
        if not trained.any():
            raise ValueError(f"{splits.name}: no user has two training items, nothing to train on")
        self.batch_size = batch_size
        self.users = trained.nonzero().squeeze(1).to(device)  # counted from 0
        self.lengths = lengths[trained]
        self.values = torch.from_numpy(splits.train_items).to(device)
        self.ends = offsets[1:][trained].to(device)  # one past a user's last training item
        self.device_lengths = self.lengths.to(device)

    @property
    def targets_per_epoch(self) -> int:
        return int(self.lengths.sum())

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.lengths) / self.batch_size)

    @property
    def targets_per_step(self) -> float:
        """The mean number of targets a step: the constant that divides every batch's loss."""
        return self.targets_per_epoch / self.steps_per_epoch

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch, each user once. The same (seed, epoch) gives the same ones."""
        return map(self.batch, self.rows(seed, epoch))

    def rows(self, seed: int, epoch: int) -> Iterator[Tensor]:
        """The rows of `lengths` (and `users`) that make each batch of the epoch, (b,) int64."""
        generator = torch.Generator().manual_seed(derived_seed(seed, epoch))
        order = torch.randperm(len(self.lengths), generator=generator)
        pools = [
            pool[self.lengths[pool].argsort(stable=True)]
            for pool in order.split(POOL_BATCHES * self.batch_size)
        ]
        batches = [batch for pool in pools for batch in pool.split(self.batch_size)]
        for i in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[i]

    def batch(self, rows: Tensor) -> Batch:
        """The batch of these rows of `lengths`, (b,) int64 on the CPU."""
        longest = int(self.lengths[rows].max())
        rows = rows.to(self.values.device)
        back = torch.arange(longest, 0, -1, device=self.values.device).unsqueeze(1)  # L … 1
        valid = back <= self.device_lengths[rows]
        target_index = self.ends[rows] - back  # (L, b), negative only where invalid
        items = self.values[(target_index - 1).clamp_min(0)].long()
        targets = self.values[target_index.clamp_min(0)].long()
        return Batch(items.masked_fill_(~valid, 0), targets.masked_fill_(~valid, 0))
