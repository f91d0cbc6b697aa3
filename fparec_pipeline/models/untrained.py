"""Untrained reference rows: what no training at all achieves, to stand beneath every table.

Each scorer maps right-aligned inputs (L, u) to blocks of scores (≤ u, |V|), column i − 1 for item
i. Equal scores count against them, as against every model.

Here belong their scores. How they are ranked belongs to `training/evaluation.py`.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from fparec_pipeline.datasets.splits import Splits

USERS_AT_ONCE = 128
LAST = 10


def popularity(splits: Splits) -> Tensor:
    """How often each item occurs in training, (|V|,) float32."""
    counts = np.bincount(splits.train_items, minlength=splits.n_items + 1)[1:]
    return torch.from_numpy(counts.astype(np.float32))


def popularity_scorer(splits: Splits) -> Callable[[Tensor], Iterator[Tensor]]:
    """Every user gets the most frequent training items."""
    counts = popularity(splits)

    def score(items: Tensor) -> Iterator[Tensor]:
        for block in items.split(USERS_AT_ONCE, dim=1):
            yield counts.repeat(block.shape[1], 1)

    return score


def last_ten_scorer(splits: Splits) -> Callable[[Tensor], Iterator[Tensor]]:
    """The last ten distinct items of the history, the most recent first; all others score 0.

    A user whose input window holds fewer than ten distinct items recommends those there are.
    """

    def score(items: Tensor) -> Iterator[Tensor]:
        for block in items.split(USERS_AT_ONCE, dim=1):
            L, u = block.shape
            # An item's recency is that of its latest occurrence: later rows overwrite earlier ones.
            recency = torch.zeros(u, splits.n_items + 1)
            step = torch.arange(1, L + 1, dtype=torch.float32).unsqueeze(1).expand(L, u)
            recency.scatter_reduce_(1, block.T, step.T, reduce="amax")
            recency = recency[:, 1:]
            top = recency.topk(min(LAST, splits.n_items), dim=1)
            yield torch.zeros_like(recency).scatter_(1, top.indices, top.values)

    return score


def transitions_scorer(splits: Splits) -> Callable[[Tensor], Iterator[Tensor]]:
    """How often an item follows the user's last one in training, ties broken by popularity."""
    previous, following = _transitions(splits)
    order = np.argsort(previous, kind="stable")
    nexts = torch.from_numpy(following[order].astype(np.int64))
    starts = torch.from_numpy(np.searchsorted(previous[order], np.arange(splits.n_items + 2)))
    counts = popularity(splits)
    fraction = counts / (counts.max() + 1)  # below one transition

    def score(items: Tensor) -> Iterator[Tensor]:
        for block in items.split(USERS_AT_ONCE, dim=1):
            last = block[-1]
            scores = fraction.repeat(len(last), 1)
            lengths = starts[last + 1] - starts[last]
            rows = torch.arange(len(last)).repeat_interleave(lengths)
            within = torch.arange(len(rows)) - (lengths.cumsum(0) - lengths)[rows]
            columns = nexts[starts[last][rows] + within] - 1
            yield scores.index_put_((rows, columns), torch.ones(len(rows)), accumulate=True)

    return score


def _transitions(splits: Splits) -> tuple[np.ndarray, np.ndarray]:
    """All (item, next item) pairs of the training sequences."""
    inner = np.ones(len(splits.train_items), bool)
    inner[splits.train_offsets[1:] - 1] = False  # a user's last item has no successor
    places = np.flatnonzero(inner)
    return splits.train_items[places], splits.train_items[places + 1]


SCORERS: dict[str, Callable[[Splits], Callable[[Tensor], Iterator[Tensor]]]] = {
    "popularity": popularity_scorer,
    "last_ten": last_ten_scorer,
    "transitions": transitions_scorer,
}
