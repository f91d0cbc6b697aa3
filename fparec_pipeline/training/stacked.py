"""The seeds of one arm trained as one stacked batch of models: for GPUs, which launches bind.

Notable:
* The weights of S seeds lie in one tensor each, with the model first; the network runs once for
  all (`torch.vmap`), Adam steps once, and the loss is written by hand with a leading model
  dimension, in blocks. Models never meet: each has its own initialisation, order of batches,
  validation, early stopping and folder, and without dropout the numbers of a trial of its own up to
  rounding. Dropout draws other masks (one stream for the stack), so results are recorded as
  `stacked` and only statistically equal.
* Batches of one step are padded to the longest of them, on CUDA to the whole window: one shape,
  which `torch.compile` compiles once. All sizes are known on the host, so that no step waits for
  the device.
* A seed that has ended is written at once; its later steps change nothing that is kept. The stack
  goes on until the last seed has ended.
* A stack has no checkpoint: after a kill its unfinished seeds are trained again, from the start.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from fparec_pipeline.config import Hyperparameters, Trial
from fparec_pipeline.datasets.splits import Splits
from fparec_pipeline.models.dropout import Dropout
from fparec_pipeline.models.network import Recommender
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training.batches import Batches, derived_seed
from fparec_pipeline.training.checkpoint import TrainingState
from fparec_pipeline.training.evaluation import EvaluationSet
from fparec_pipeline.training.loss import block_size
from fparec_pipeline.training.metrics import metrics_from_ranks
from fparec_pipeline.training.record import (
    Attempt,
    TrialRecord,
    lock_trial,
    read_record,
)
from fparec_pipeline.training.trial import (
    PARTS,
    Observer,
    Silent,
    adopt_finished,
    begin_attempt,
    diverged,
    ended,
    new_attempt,
    next_folder,
    progress_of,
    ranks_of,
    write_trained,
)

# --- the network and the loss with a leading model dimension --------------------------------------


class Stack:
    """S networks of one architecture, their weights stacked: tensors (S, …) that Adam can step."""

    def __init__(self, models: Sequence[Recommender]) -> None:
        """Takes the weights of `models`; these stay as they are."""
        parameters, self.buffers = stack_module_state(list(models))
        self.parameters = {n: p.detach().requires_grad_() for n, p in parameters.items()}
        self.template = models[0]
        _use_torch_dropout(self.template)
        self.forward = torch.vmap(self._one, randomness="different")
        if self.parameters["item_embedding.weight"].is_cuda:
            self.forward = torch.compile(self.forward)

    def _one(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(self.template, (parameters, buffers), (x,))

    def __call__(self, items: Tensor) -> Tensor:
        """Training mode: (S, L, b) item ids, each model its own → (S, L, b, d)."""
        self.template.train()
        hidden: Tensor = self.forward(self.parameters, self.buffers, items)
        return hidden

    def weights(self, model: int) -> dict[str, Tensor]:
        """A copy of one model's weights, under the names of its `state_dict`."""
        return {name: p.detach()[model].clone() for name, p in self.parameters.items()}


def _use_torch_dropout(module: nn.Module) -> None:
    """`vmap` cannot look into the NumPy masks of `models.dropout`."""
    for name, child in module.named_children():
        if isinstance(child, Dropout):
            setattr(module, name, nn.Dropout(child.rate))
        else:
            _use_torch_dropout(child)


def stacked_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, scale: float) -> Tensor:
    """Each model's scale · Σ_t −log softmax(hidden_t · weightᵀ)[target_t], in blocks of targets.

    Args:
        hidden: (S, T, d).
        weight: (S, |V|, d) item embeddings, without padding.
        targets: (S, T) int64 rows of `weight`; −1 is no target and counts nothing.
        scale: the weight of each target.

    Returns:
        (S,) losses that back-propagate into `hidden` and `weight`. Never all scores are held.
    """
    losses: Tensor = _StackedCrossEntropy.apply(hidden, weight, targets, scale)
    return losses


class _StackedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, scale: float) -> Tensor:
        S, T = hidden.shape[:2]
        losses = hidden.new_zeros(S)
        d_hidden, d_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        size = block_size(S * weight.shape[1], hidden.device)
        for start in range(0, T, size):
            block = slice(start, start + size)
            rows, wanted = hidden[:, block], targets[:, block].unsqueeze(-1)  # (S, R, ·)
            counts = (wanted >= 0).to(hidden.dtype)  # 1 at targets, else 0
            index = wanted.clamp_min(0)
            scores = torch.bmm(rows, weight.mT)  # (S, R, |V|)
            shares, log_total = _softmax_(scores, scores.gather(2, index))
            losses += (log_total * counts).sum((1, 2))
            shares *= counts
            shares.scatter_add_(2, index, -counts)
            torch.bmm(shares, weight, out=d_hidden[:, block])
            d_weight.baddbmm_(shares.mT, rows)
        ctx.save_for_backward(d_hidden, d_weight)
        ctx.scale = scale
        return losses * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        d_hidden, d_weight = ctx.saved_tensors
        factor = (gradients[0] * ctx.scale).view(-1, 1, 1)
        return d_hidden * factor, d_weight * factor, None, None


def _softmax_(scores: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """In place the softmax of (S, R, |V|) scores; and −log of the share of `wanted` (S, R, 1)."""
    top = scores.amax(2, keepdim=True)
    total = scores.sub_(top).exp_().sum(2, keepdim=True)
    return scores.div_(total), total.log() + top - wanted


# --- batches of all seeds, step by step -----------------------------------------------------------


def stacked_steps(
    batches: Batches, seeds: Sequence[int], epoch: int, length: int | None = None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The steps of an epoch, at each every seed's own batch, padded to one shape.

    Args:
        batches: the data; the order is each seed's own, as `Batches.rows` gives it.
        seeds: S of them.
        epoch: which one.
        length: L, at least the longest batch's; None: the longest of the step.

    Yields:
        items (S, L, b), right-aligned; places (S, T) of the targets in an input flattened to L · b;
        targets (S, T) rows of the catalogue, −1 where a seed has fewer than T.
    """
    plan = list(zip(*(batches.rows(seed, epoch) for seed in seeds), strict=True))
    lengths = [[batches.lengths[rows] for rows in step] for step in plan]
    width = batches.batch_size
    table = torch.stack([torch.stack([_filled(rows, width) for rows in step]) for step in plan])
    table = table.to(batches.values.device)  # all steps at once: later copies would wait
    for rows, step in zip(table, lengths, strict=True):
        longest = length or max(int(each.max()) for each in step)
        yield _gathered(batches, rows, longest, max(int(each.sum()) for each in step))


def _filled(rows: Tensor, width: int) -> Tensor:
    """(b,) rows and −1 up to `width`: an epoch's last batch is smaller."""
    return torch.cat([rows, rows.new_full((width - len(rows),), -1)])


def _gathered(batches: Batches, rows: Tensor, L: int, T: int) -> tuple[Tensor, Tensor, Tensor]:
    """(S, b) rows on the device, −1 for none → what `stacked_steps` yields; nothing waits."""
    known = rows.clamp_min(0)
    lengths = batches.device_lengths[known].masked_fill(rows < 0, 0).unsqueeze(1)  # (S, 1, b)
    back = torch.arange(L, 0, -1, device=rows.device).unsqueeze(1)  # (L, 1)
    valid = back <= lengths  # (S, L, b)
    index = batches.ends[known].unsqueeze(1) - back  # negative only where invalid
    items = batches.values[(index - 1).clamp_min(0)].long().masked_fill_(~valid, 0)
    targets = batches.values[index.clamp_min(0)].long().masked_fill_(~valid, 0)
    # The valid places first, in their order: a sort, because `nonzero` would wait for its size.
    places = valid.flatten(1).byte().argsort(dim=1, descending=True, stable=True)[:, :T]
    return items, places, targets.flatten(1).gather(1, places) - 1


# --- the stack's training, from trials to finished folders ----------------------------------------


def run_stacked(
    trials: Sequence[Trial],
    splits: Splits,
    data: DataRoot,
    *,
    device: str = "auto",
    retrain: bool = False,
    observers: Mapping[int, Observer] | None = None,
) -> list[TrialRecord]:
    """Train the seeds of one arm together, each into its own folder; `run_trial` for several.

    Seeds whose intact record of the same fingerprint is there are left out, unless `retrain`.

    Args:
        trials: equal but for the seed.
        splits: their data.
        data: where the folders lie.
        device: as in `run_trial`.
        retrain: train also what is there.
        observers: seed → who is told of its epochs; a stack has no checkpoints, so `on_checkpoint`
            comes at the start and at the end.

    Returns:
        The records, in the order of `trials`.

    Raises:
        ValueError: the trials differ in more than the seed, or their arm is not stackable.
        TrialLocked: another process is training one of them.
        TrainingDiverged: a seed's loss or score is not finite; ends the whole stack.
        TrialCorrupt: a finished folder is damaged.
    """
    _require_one_arm(trials)
    records: dict[int, TrialRecord] = {}
    with ExitStack() as locks:
        waiting = []
        for trial in trials:
            folder = trial.id.folder(data)
            locks.enter_context(lock_trial(folder))
            adopt_finished(folder)
            done = read_record(folder)
            same = done and done.fingerprint == trial.fingerprint(splits.stats["data_hash"])
            if done and same and not retrain:
                records[trial.seed] = done
                continue
            work = next_folder(folder) if done else folder
            if work != folder:
                locks.enter_context(lock_trial(work))
            waiting.append((trial, work))
        seats = [
            _Seat(trial, work, new_attempt(trial, splits, device, len(waiting)), observers or {})
            for trial, work in waiting
        ]
        if seats:
            _StackedTraining(seats, splits).run()
        for seat in seats:
            adopt_finished(seat.trial.id.folder(data))
            records[seat.trial.seed] = seat.result()
    return [records[trial.seed] for trial in trials]


def _require_one_arm(trials: Sequence[Trial]) -> None:
    arms = {(t.dataset, t.arm, t.hyperparameters) for t in trials}
    if len(arms) != 1 or len({trial.seed for trial in trials}) != len(trials):
        raise ValueError("a stack is of one dataset and arm, each seed once")
    h = trials[0].hyperparameters
    if not is_stackable(h):
        raise ValueError(
            f"{trials[0].arm} cannot be stacked: its loss is {h.loss!r}, its "
            f"attention_learning_rate {h.attention_learning_rate}"
        )


def is_stackable(h: Hyperparameters) -> bool:
    """Whether `run_stacked` trains such an arm: the full cross-entropy, one learning rate."""
    return h.loss == "cross_entropy" and h.attention_learning_rate is None


class _Seat:
    """One seed of a stack: its folder, its state, and in the end its record."""

    def __init__(
        self, trial: Trial, folder: Path, attempt: Attempt, observers: Mapping[int, Observer]
    ) -> None:
        self.trial, self.folder = trial, folder
        self.attempt = begin_attempt(folder, attempt)
        self.observer = observers.get(trial.seed) or Silent()
        self.state = TrainingState()
        self.record: TrialRecord | None = None

    def result(self) -> TrialRecord:
        assert self.record  # noqa: S101
        return self.record


class _StackedTraining:
    """The loop over epochs of all seats."""

    def __init__(self, seats: Sequence[_Seat], splits: Splits) -> None:
        trial, device = seats[0].trial, seats[0].attempt.device
        self.seats, self.h = seats, trial.hyperparameters
        torch.set_num_threads(self.h.threads)
        self.batches = Batches(splits, self.h.n, self.h.batch_size, device)
        self.valid, self.test = (EvaluationSet(splits, part, self.h.n, device) for part in PARTS)
        self.model = Recommender(self.h, splits.n_items).to(device)  # ranks one seat after another
        self.stack = Stack([self._initialised(seat.trial.seed, splits) for seat in seats])
        self.optimizer = torch.optim.Adam(
            self.stack.parameters.values(),
            lr=self.h.learning_rate,
            betas=(0.9, self.h.beta2),
            fused=True,
        )
        # One shape for the compiler; on a CPU padding is work.
        self.length = self.h.n if device.startswith("cuda") else None

    def _initialised(self, seed: int, splits: Splits) -> Recommender:
        torch.manual_seed(derived_seed(seed, 0))  # as the trial of its own
        return Recommender(self.h, splits.n_items).to(self.batches.values.device)

    def run(self) -> None:
        for seat in self.seats:
            seat.observer.on_checkpoint(seat.folder)
        epoch = 0
        while running := [seat for seat in self.seats if seat.record is None]:
            epoch += 1
            started = time.perf_counter()
            losses = self._train(epoch)
            seconds = time.perf_counter() - started
            for seat, loss in zip(self.seats, losses, strict=True):
                if seat in running:
                    self._after_epoch(seat, epoch, loss, seconds)

    def _train(self, epoch: int) -> list[float]:
        """One epoch of steps; returns each seat's mean loss of a target, in nats."""
        seeds = [seat.trial.seed for seat in self.seats]
        torch.manual_seed(derived_seed(seeds[0], epoch))  # dropout, one stream for the stack
        scale = 1 / self.batches.targets_per_step
        total = torch.zeros(len(seeds), device=self.batches.values.device)
        for items, places, targets in stacked_steps(self.batches, seeds, epoch, self.length):
            losses = self._losses(items, places, targets, scale)
            self.optimizer.zero_grad(set_to_none=True)
            losses.sum().backward()
            self.optimizer.step()
            total += losses.detach()
        means: list[float] = (total / self.batches.steps_per_epoch).tolist()
        return means

    def _losses(self, items: Tensor, places: Tensor, targets: Tensor, scale: float) -> Tensor:
        hidden = self.stack(items).flatten(1, 2)  # (S, L · b, d)
        hidden = hidden.gather(1, places.unsqueeze(-1).expand(-1, -1, self.h.d))
        weight = self.stack.parameters["item_embedding.weight"][:, 1:]
        return stacked_cross_entropy(hidden, weight, targets, scale)

    def _after_epoch(self, seat: _Seat, epoch: int, loss: float, shared: float) -> None:
        """Validate one seat, note its epoch, and write its folder when it has ended.

        The seconds of an epoch are the seat's own validation and its share of the training.
        """
        state, started = seat.state, time.perf_counter()
        state.epoch = epoch
        if not np.isfinite(loss):
            raise diverged(seat.trial, epoch, f"the loss is {loss}")
        weights = self.stack.weights(self.seats.index(seat))
        self.model.load_state_dict(weights)
        ranks = ranks_of(self.model, self.valid, seat.trial, epoch)
        metrics = metrics_from_ranks(ranks.kept, ranks.users)
        share = shared / len(self.seats)
        state.note(
            loss,
            metrics,
            weights,
            seconds=share + time.perf_counter() - started,
            targets_per_second=self.batches.targets_per_epoch / share,
        )
        seat.observer.on_epoch(progress_of(seat.trial, state))
        if ended(seat.trial, state):
            seat.record = self._finish(seat)
            seat.observer.on_checkpoint(seat.folder)

    def _finish(self, seat: _Seat) -> TrialRecord:
        self.model.load_state_dict(seat.state.best_weights)
        parts = (self.valid, self.test)
        valid, test = (ranks_of(self.model, part, seat.trial, seat.state.epoch) for part in parts)
        return write_trained(seat.trial, seat.folder, seat.attempt, seat.state, valid, test)
