"""The seeds of one arm trained as one stacked batch of models: for GPUs, which launches bind.

Notable:
* The weights of S seeds lie in one tensor each, with the model first; the network runs once for
  all (`torch.vmap`), Adam steps once, and the loss is written by hand with a leading model
  dimension. Models never meet: each has its own initialisation, order of batches, validation, early
  stopping and folder, and without dropout the numbers of a trial of its own up to rounding. Dropout
  draws other masks (one stream for the stack), so results are recorded as `stacked` and only
  statistically equal.
* Batches of one step are padded to the longest of them, on CUDA to the whole window and the whole
  batch: one shape, which is compiled once and captured as one CUDA graph. A step is then a copy of
  S · b row numbers and a replay.
* A seed that has ended is written at once; its later steps change nothing that is kept. The stack
  goes on until the last seed has ended.
* Each seed has a checkpoint of its own. After a kill the unfinished seeds go on from there, those
  that stand at the same epoch as one stack: to the same bits where it is the stack of before, else
  with other dropout masks. A seed that is left over goes on alone (`run_trial`).

Here belongs what differs for a stack. All that a single trial does too belongs to `trial.py`.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from fparec_pipeline.config import Hyperparameters, Trial
from fparec_pipeline.datasets.splits import Splits
from fparec_pipeline.models.dropout import Dropout
from fparec_pipeline.models.networks import Network, build_network
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training.batches import Batches, derived_seed
from fparec_pipeline.training.blocks import block_size
from fparec_pipeline.training.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from fparec_pipeline.training.evaluation import EvaluationSet
from fparec_pipeline.training.metrics import metrics_from_ranks
from fparec_pipeline.training.record import (
    Attempt,
    TrialRecord,
    lock_trial,
    read_record,
)
from fparec_pipeline.training.trial import (
    CheckpointPace,
    Observer,
    Silent,
    adopt_finished,
    choose_device,
    diverged,
    ended,
    epochs_kept,
    new_attempt,
    next_folder,
    outcome_of,
    parameter_groups,
    progress_of,
    ranks_of,
    resume_or_begin,
    write_trained,
)

COMPILES = True  # the network, by torch.compile on CUDA
CAPTURES = True  # the step, as a CUDA graph
FUSES = True  # the loss, by the kernels of `fused.py` on CUDA
PRECISION = "tf32x3"  # of their products
REPEATS = True  # no atomic additions on CUDA: equal input gives equal bits on one machine

# --- the network and the loss with a leading model dimension --------------------------------------


class Stack:
    """S networks of one architecture, their weights stacked: tensors (S, …) that Adam can step."""

    def __init__(self, models: Sequence[Network]) -> None:
        """Takes the weights of `models`; these stay as they are."""
        parameters, self.buffers = stack_module_state(list(models))
        self.parameters = {n: p.detach().requires_grad_() for n, p in parameters.items()}
        self.template = models[0]
        _use_torch_dropout(self.template)
        self.forward = torch.vmap(self._one, randomness="different")
        if COMPILES and next(iter(self.parameters.values())).is_cuda:
            self.forward = compiled(self.forward)

    def _one(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(self.template, (parameters, buffers), (x,))

    def __call__(self, items: Tensor) -> Tensor:
        """Training mode: (S, L, b) item ids, each model its own → (S, L, b, d)."""
        self.template.train()
        hidden: Tensor = self.forward(self.parameters, self.buffers, items)
        return hidden

    def output_weights(self) -> Tensor:
        """(S, |V|, d): each model's `Network.output_weights`."""

        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
            state = {f"network.{n}": t for n, t in (parameters | buffers).items()}
            weight: Tensor = functional_call(_OutputWeights(self.template), state, ())
            return weight

        weights: Tensor = torch.vmap(one)(self.parameters, self.buffers)
        return weights

    def weights(self, model: int) -> dict[str, Tensor]:
        """A copy of one model's weights, under the names of its `state_dict`."""
        return {name: p.detach()[model].clone() for name, p in self.parameters.items()}


def compiled(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The network by torch.compile, for one shape: as if it were the process's first.

    At a second window it would compile for any length, which dropout under `vmap` cannot; at the
    ninth it would stop compiling.
    """
    torch.compiler.reset()
    found: Callable[..., Tensor] = torch.compile(forward)
    return found


class _OutputWeights(nn.Module):
    """`functional_call` calls a module: this one asks a network for its output weights."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self) -> Tensor:
        return self.network.output_weights()


def _use_torch_dropout(module: nn.Module) -> None:
    """`vmap` cannot look into the NumPy masks of `models.dropout`."""
    for name, child in module.named_children():
        if isinstance(child, Dropout):
            setattr(module, name, nn.Dropout(child.rate))
        else:
            _use_torch_dropout(child)


def stacked_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, scale: float) -> Tensor:
    """Each model's scale · Σ_t −log softmax(hidden_t · weightᵀ)[target_t].

    On CUDA by the kernels of `fused.py`, elsewhere in blocks of targets: never all scores are held.

    Args:
        hidden: (S, T, d).
        weight: (S, |V|, d) item embeddings, without padding.
        targets: (S, T) int64 rows of `weight`; −1 is no target and counts nothing.
        scale: the weight of each target.

    Returns:
        (S,) losses that back-propagate into `hidden` and `weight`.
    """
    losses: Tensor = _StackedCrossEntropy.apply(hidden, weight, targets, scale)
    return losses


def losses_and_gradients(
    hidden: Tensor, weight: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Each model's Σ_t −log softmax(hidden_t · weightᵀ)[target_t], (S,), and its gradients."""
    if hidden.is_cuda and FUSES:
        from fparec_pipeline.training import fused  # needs Triton

        each, d_hidden, d_weight = fused.losses_and_gradients(
            hidden.contiguous(), weight, targets, PRECISION
        )
        return each.sum(1), d_hidden, d_weight
    losses = hidden.new_zeros(len(hidden))
    d_hidden, d_weight = torch.empty_like(hidden), torch.zeros_like(weight)
    size = block_size(len(hidden) * weight.shape[1], hidden.device)
    for start in range(0, hidden.shape[1], size):
        block = slice(start, start + size)
        rows, wanted = hidden[:, block], targets[:, block].unsqueeze(-1)  # (S, R, ·)
        counts = (wanted >= 0).to(hidden.dtype)  # 1 at targets, else 0
        index = wanted.clamp_min(0)
        log_shares = torch.log_softmax(torch.bmm(rows, weight.mT), 2)  # (S, R, |V|)
        losses -= (log_shares.gather(2, index) * counts).sum((1, 2))
        shares = log_shares.exp_().scatter_add_(2, index, -torch.ones_like(counts))
        d_hidden[:, block] = torch.bmm(shares, weight) * counts
        d_weight.baddbmm_(shares.mT, rows * counts)
    return losses, d_hidden, d_weight


class _StackedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, scale: float) -> Tensor:
        losses, d_hidden, d_weight = losses_and_gradients(hidden, weight, targets)
        ctx.save_for_backward(d_hidden, d_weight)
        ctx.scale = scale
        return losses * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        d_hidden, d_weight = ctx.saved_tensors
        factor = (gradients[0] * ctx.scale).view(-1, 1, 1)
        return d_hidden * factor, d_weight * factor, None, None


# --- batches of all seeds, step by step -----------------------------------------------------------


def epoch_rows(batches: Batches, seeds: Sequence[int], epoch: int) -> Tensor:
    """The rows of every step of an epoch, each seed's own: (steps, S, b) int64 on the device.

    The order is each seed's own, as `Batches.rows` gives it. −1 stands for no row: an epoch's last
    batch is smaller.
    """
    plan = zip(*(batches.rows(seed, epoch) for seed in seeds), strict=True)
    width = batches.batch_size
    table = torch.stack([torch.stack([_filled(rows, width) for rows in step]) for step in plan])
    return table.to(batches.values.device)  # all steps at once: later copies would wait


def _filled(rows: Tensor, width: int) -> Tensor:
    return torch.cat([rows, rows.new_full((width - len(rows),), -1)])


def gathered(batches: Batches, rows: Tensor, L: int) -> tuple[Tensor, Tensor]:
    """(S, b) rows, −1 for none → items and targets, (S, L, b), right-aligned, 0 for none."""
    known = rows.clamp_min(0)
    lengths = batches.device_lengths[known].masked_fill(rows < 0, 0).unsqueeze(1)  # (S, 1, b)
    back = torch.arange(L, 0, -1, device=rows.device).unsqueeze(1)  # (L, 1)
    valid = back <= lengths  # (S, L, b)
    index = batches.ends[known].unsqueeze(1) - back  # negative only where invalid
    items = batches.values[(index - 1).clamp_min(0)].long().masked_fill_(~valid, 0)
    targets = batches.values[index.clamp_min(0)].long().masked_fill_(~valid, 0)
    return items, targets


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
        observers: seed → who is told of its epochs and checkpoints.

    Returns:
        The records, in the order of `trials`.

    Raises:
        ValueError: the trials differ in more than the seed, or their arm is not stackable.
        TrialLocked: another process is training one of them.
        TrainingDiverged: a seed's loss or score is not finite; ends the whole stack.
        TrialCorrupt: a finished folder or a checkpoint is damaged.
    """
    _require_one_arm(trials)
    records: dict[int, TrialRecord] = {}
    with ExitStack() as locks:
        waiting = []
        for trial in trials:
            folder = data.trial(*trial.id)
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
        with _repeatable(device):
            for stack in _stacks(waiting, splits, device):
                seats = [
                    _Seat(trial, work, new_attempt(trial, splits, device, len(stack)), observers)
                    for trial, work in stack
                ]
                _StackedTraining(seats, splits).run()
                for seat in seats:
                    adopt_finished(data.trial(*seat.trial.id))
                    records[seat.trial.seed] = seat.result()
    return [records[trial.seed] for trial in trials]


def _stacks(
    waiting: Sequence[tuple[Trial, Path]], splits: Splits, device: str
) -> list[list[tuple[Trial, Path]]]:
    """What trains together: each by itself, or those whose checkpoints are of one epoch."""
    if waiting and _trains_alone(waiting[0][0].hyperparameters, device):
        return [[each] for each in waiting]
    by_epoch: dict[int, list[tuple[Trial, Path]]] = {}
    for trial, folder in waiting:
        kept = epochs_kept(folder, trial.fingerprint(splits.stats["data_hash"]))
        by_epoch.setdefault(kept, []).append((trial, folder))
    return list(by_epoch.values())


def _trains_alone(h: Hyperparameters, device: str) -> bool:
    """Whether the arm's seeds are trained one after the other, each as a stack of its own.

    On an H100 with PyTorch 2.11, three self-attention networks that were compiled as one did not
    learn with dropout, while each alone did; the cause is not known.
    """
    return h.mixer == "self_attention" and choose_device(device).startswith("cuda")


@contextmanager
def _repeatable(device: str) -> Iterator[None]:
    """PyTorch's deterministic algorithms while a stack trains on CUDA; a CPU needs none."""
    if not (REPEATS and choose_device(device).startswith("cuda")):
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    # Filling memory that nothing reads would cost a pass.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def _require_one_arm(trials: Sequence[Trial]) -> None:
    arms = {(t.dataset, t.arm, t.hyperparameters) for t in trials}
    if len(arms) != 1 or len({trial.seed for trial in trials}) != len(trials):
        raise ValueError("a stack is of one dataset and arm, each seed once")
    h = trials[0].hyperparameters
    if not is_stackable(h):
        raise ValueError(f"{trials[0].arm} cannot be stacked: its loss is {h.loss!r}")


def is_stackable(h: Hyperparameters) -> bool:
    """Whether `run_stacked` trains such an arm: one with the full cross-entropy."""
    return h.loss == "cross_entropy"


class _Seat:
    """One seed of a stack: its folder, its state, and in the end its record."""

    def __init__(
        self,
        trial: Trial,
        folder: Path,
        attempt: Attempt,
        observers: Mapping[int, Observer] | None,
    ) -> None:
        self.trial, self.folder = trial, folder
        self.attempt = resume_or_begin(folder, attempt)
        self.observer = (observers or {}).get(trial.seed) or Silent()
        self.state = TrainingState()
        self.record: TrialRecord | None = None

    def result(self) -> TrialRecord:
        assert self.record  # noqa: S101
        return self.record


class _Captured:
    """A stack's step as one CUDA graph: captured at the first call, replayed at every later one."""

    def __init__(self, training: "_StackedTraining") -> None:
        self.training = training
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, rows: Tensor) -> None:
        if self.graph is None:
            self.rows = rows.clone()
            self.graph = self._capture()
        self.rows.copy_(rows)
        self.graph.replay()

    def _capture(self) -> torch.cuda.CUDAGraph:
        """The recorded step; weights, moments, sums and random state are as before."""
        training = self.training
        state = torch.cuda.get_rng_state()
        parameters = list(training.stack.parameters.values())
        before = [parameter.detach().clone() for parameter in parameters]
        moments_before = [
            {key: moment.clone() for key, moment in training.optimizer.state[parameter].items()}
            for parameter in parameters
        ]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # compiles, tunes, and makes Adam's moments
                training._step(self.rows)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        training.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            training._step(self.rows)
        with torch.no_grad():
            for parameter, values in zip(parameters, before, strict=True):
                parameter.copy_(values)
            for parameter, values in zip(parameters, moments_before, strict=True):
                for key, moment in training.optimizer.state[parameter].items():
                    moment.copy_(values.get(key, torch.zeros_like(moment)))
            training.total.zero_()
        torch.cuda.set_rng_state(state)
        return graph


class _StackedTraining:
    """The loop over epochs of all seats."""

    def __init__(self, seats: Sequence[_Seat], splits: Splits) -> None:
        trial, device = seats[0].trial, seats[0].attempt.device
        self.seats, self.h = seats, trial.hyperparameters
        torch.set_num_threads(self.h.threads)
        self.batches = Batches(splits, self.h.n, self.h.batch_size, device)
        self.splits = splits
        self.valid = EvaluationSet(splits, "valid", self.h.n, device)
        self.model = build_network(self.h, splits.n_items).to(device)  # ranks seat after seat
        self.stack = Stack([self._initialised(seat.trial.seed, splits) for seat in seats])
        cuda = device.startswith("cuda")
        self.optimizer = torch.optim.Adam(
            parameter_groups(self.stack.parameters.items(), self.h),
            lr=self.h.learning_rate,
            betas=(0.9, self.h.beta2),
            fused=True,
            capturable=cuda,
        )
        self._resume()
        self.total = torch.zeros(len(seats), device=device)  # of the epoch's losses
        self.pace = CheckpointPace()
        self.step: Callable[[Tensor], None] = _Captured(self) if cuda and CAPTURES else self._step

    @cached_property
    def test(self) -> EvaluationSet:
        """Made when the first seat ends: no memory while training."""
        return EvaluationSet(self.splits, "test", self.h.n, self.valid.values.device)

    def _initialised(self, seed: int, splits: Splits) -> Network:
        torch.manual_seed(derived_seed(seed, 0))  # as the trial of its own
        return build_network(self.h, splits.n_items).to(self.batches.values.device)

    def run(self) -> None:
        for seat in self.seats:
            seat.observer.on_checkpoint(seat.folder)
            if ended(seat.trial, seat.state):  # killed between its last epoch and its record
                seat.record = self._finish(seat)
        epoch = self.seats[0].state.epoch
        while running := self._running():
            epoch += 1
            started = time.perf_counter()
            losses = self._train(epoch)
            seconds = time.perf_counter() - started
            for seat, loss in zip(self.seats, losses, strict=True):
                if seat in running:
                    self._after_epoch(seat, epoch, loss, seconds)
            if self.pace.is_due():
                self._checkpoint()

    def _running(self) -> list["_Seat"]:
        return [seat for seat in self.seats if seat.record is None]

    def _checkpoint(self) -> None:
        """Each running seat's, as if it trained alone."""
        with self.pace.writing():
            for seat in self._running():
                model, adam = self._as_single(seat)
                save_checkpoint(seat.folder, seat.state, model, adam, seat.attempt.attempt)
                seat.observer.on_checkpoint(seat.folder)

    def _as_single(self, seat: "_Seat") -> tuple[Network, torch.optim.Adam]:
        """The seat's weights and moments as a network with an optimizer of its own."""
        place = self.seats.index(seat)
        self.model.load_state_dict(self.stack.weights(place))
        adam = torch.optim.Adam(self.model.parameters())
        for name, parameter in self.model.named_parameters():
            if moments := self.optimizer.state.get(self.stack.parameters[name]):
                adam.state[parameter] = {
                    key: moment[place] if moment.dim() else moment  # the step is all models'
                    for key, moment in moments.items()
                }
        return self.model, adam

    def _resume(self) -> None:
        """Bring each seat to its checkpoint; all are of one epoch, 0 where there is none."""
        moments: dict[str, list[dict[str, Tensor]]] = {}
        for place, seat in enumerate(self.seats):
            adam = torch.optim.Adam(self.model.parameters())
            seat.state = load_checkpoint(seat.folder, self.model, adam, seat.attempt.attempt)
            if seat.state.epoch == 0:
                return
            for name, parameter in self.model.named_parameters():
                self.stack.parameters[name].data[place] = parameter.detach()
                if parameter in adam.state:
                    moments.setdefault(name, []).append(adam.state[parameter])
        for name, of_seats in moments.items():
            self.optimizer.state[self.stack.parameters[name]] = {
                "step": of_seats[0]["step"],
                "exp_avg": torch.stack([m["exp_avg"] for m in of_seats]),
                "exp_avg_sq": torch.stack([m["exp_avg_sq"] for m in of_seats]),
            }

    def _train(self, epoch: int) -> list[float]:
        """One epoch of steps; returns each seat's mean loss of a target, in nats."""
        seeds = [seat.trial.seed for seat in self.seats]
        torch.manual_seed(derived_seed(seeds[0], epoch))  # dropout, one stream for the stack
        self.total.zero_()
        for rows in epoch_rows(self.batches, seeds, epoch):
            self.step(rows)
        means: list[float] = (self.total / self.batches.steps_per_epoch).tolist()
        return means

    def _step(self, rows: Tensor) -> None:
        """One step of Adam on each seat's batch, (S, b) rows; adds the losses to `total`."""
        longest = self.h.n  # on a CPU padding is work, and its length is known
        if not rows.is_cuda:
            longest = int(self.batches.lengths[rows.clamp_min(0)].max())
        items, targets = gathered(self.batches, rows, longest)
        hidden = self.stack(items)
        if rows.is_cuda:  # user after user: padding lies together, and the kernels skip its tiles
            hidden, targets = hidden.transpose(1, 2), targets.transpose(1, 2)
        hidden, targets = hidden.flatten(1, 2), targets.flatten(1)  # (S, L · b, d)
        weight = self.stack.output_weights()
        scale = 1 / self.batches.targets_per_step
        losses = stacked_cross_entropy(hidden, weight, targets - 1, scale)
        self.optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        self.optimizer.step()
        self.total += losses.detach()

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
        outcome = outcome_of(
            self.model, self.valid, self.test, self.splits, seat.trial, seat.state.epoch
        )
        return write_trained(seat.trial, seat.folder, seat.attempt, seat.state, outcome)
