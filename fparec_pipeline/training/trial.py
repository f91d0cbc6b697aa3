"""One trial, from its resolved configuration to its finished folder.

Notable:
* Adam on the blocked cross-entropy, or another configured loss; early stopping on validation
  NDCG@10 (all users, history kept) with patience and a floor of epochs; the test set is looked at
  once, for the best epoch.
* A finished, intact folder of the same fingerprint is returned as it is. An unfinished one of the
  same fingerprint is resumed from its checkpoint. Anything else is trained anew.
* A new attempt is trained in a folder of its own beside the old result and takes its place at the
  end, so that a result is never lost to a training that does not finish.
* When memory runs out, the trial goes on from its last checkpoint with blocks of half the size,
  once. Its record says so: other blocks round differently.
* On a CPU, equal configuration, threads and machine give equal bits.

Here belong the loop and its rules. Batches, losses, metrics and the folder have modules of their
own.
"""

import logging
import shutil
import statistics
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import polars as pl
import torch
from safetensors.torch import save_file
from torch import Tensor

from fparec_pipeline.config import (
    TRAINING_VERSION,
    ConfigError,
    Hyperparameters,
    Trial,
    reference_fingerprint,
)
from fparec_pipeline.datasets.files import write_atomically
from fparec_pipeline.datasets.splits import Splits
from fparec_pipeline.models.networks import Network, build_network
from fparec_pipeline.models.untrained import SCORERS
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training.batches import Batches, derived_seed
from fparec_pipeline.training.beyond import beyond_accuracy, lists_table
from fparec_pipeline.training.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from fparec_pipeline.training.evaluation import (
    EvaluationSet,
    NonFiniteScores,
    Ranks,
    network_scorer,
    rank_targets,
    ranks_table,
    top_lists,
)
from fparec_pipeline.training.losses import Step, build_loss
from fparec_pipeline.training.memory import keep_freed_memory
from fparec_pipeline.training.metrics import metrics_from_ranks, metrics_of_table
from fparec_pipeline.training.record import (
    ATTEMPT,
    CHECKPOINT,
    HISTORY,
    HISTORY_SCHEMA,
    LISTS,
    RANKS,
    RECORD,
    WEIGHTS,
    Attempt,
    Progress,
    Resumed,
    TrialRecord,
    checkpoint_history,
    commit,
    hardware,
    lock_trial,
    now,
    read_attempt,
    read_record,
    sha256,
    versions,
    write_parquet,
    write_sealed,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

CHECKPOINT_SECONDS = 10.0  # between two checkpoints at least
CHECKPOINT_SHARE = 0.05  # of the time goes into them at most: a large one is written more rarely
PROVENANCE = ("commit", "versions", "hardware", "stacked")  # the same bits need the same
LEARNED_LOGITS = ("R", "R1", "R2")  # of equations 6 and 7


class TrainingDiverged(ArithmeticError):
    """The loss or a score became NaN or infinite."""


class OutOfMemory(RuntimeError):
    """Memory ran out while the trial was trained or ranked."""


@dataclass(frozen=True)
class Outcome:
    """What is known of a trial's best epoch at the end."""

    valid: Ranks
    test: Ranks
    lists: pl.DataFrame  # `beyond.lists_table` of the test
    n_items: int  # the catalogue


class Observer(Protocol):
    """Is told of epochs and checkpoints while a trial trains; an exception ends the training."""

    def on_epoch(self, progress: Progress) -> None: ...
    def on_checkpoint(self, folder: Path) -> None: ...


class Silent:
    """The observer that does nothing."""

    def on_epoch(self, progress: Progress) -> None:
        pass

    def on_checkpoint(self, folder: Path) -> None:
        pass


def choose_device(device: str = "auto") -> str:
    """The device asked for; "auto" is `cuda` where it is there, else `cpu`.

    `mps` has to be asked for: nobody has seen it work.

    Raises:
        ValueError: the device asked for is not there.
    """
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if device == "auto":
        return next(name for name in ("cuda", "cpu") if there[name])
    if not there.get(device.split(":")[0]):
        usable = ", ".join(name for name, available in there.items() if available)
        raise ValueError(f"device {device!r} is not there; usable: auto, {usable}")
    return device


def run_trial(
    trial: Trial,
    splits: Splits,
    data: DataRoot,
    *,
    device: str = "auto",
    retrain: bool = False,
    observer: Observer | None = None,
) -> TrialRecord:
    """Train, evaluate and record one trial; if it is finished already, return its record.

    An interrupted trial resumes from its last checkpoint.

    Args:
        trial: from `Config.trial`.
        splits: of the trial's dataset.
        data: the data root, where the trial's folder is.
        device: "auto", "cpu", "cuda" or "mps".
        retrain: train it even if it is finished.
        observer: is told of every epoch and checkpoint.

    Raises:
        TrialLocked: another process is training this trial.
        TrainingDiverged: the loss or a score is not finite; names the epoch and the arm.
        OutOfMemory: memory ran out a second time; names the epoch and the arm.
        TrialCorrupt: the finished folder is damaged.
    """
    folder = data.trial(*trial.id)
    fingerprint = trial.fingerprint(splits.stats["data_hash"])
    with ExitStack() as locks:
        locks.enter_context(lock_trial(folder))
        adopt_finished(folder)
        done = read_record(folder)
        if done and done.fingerprint == fingerprint and not retrain:
            return done
        work = next_folder(folder) if done else folder
        if work != folder:
            locks.enter_context(lock_trial(work))
        new = new_attempt(trial, splits, device)
        attempt = resume_or_begin(work, new)
        record = _train(trial, splits, work, attempt, observer or Silent())
        if work != folder:
            adopt_finished(folder)
        return record


def run_reference(dataset: str, reference: str, splits: Splits, data: DataRoot) -> TrialRecord:
    """Evaluate one untrained reference row; its folder is that of a trial of seed 0.

    Raises:
        TrialLocked: another process is evaluating it.
    """
    folder = data.trial(dataset, reference, 0)
    data_hash = splits.stats["data_hash"]
    fingerprint = reference_fingerprint(dataset, reference, data_hash)
    with lock_trial(folder):
        done = read_record(folder)
        if done and done.fingerprint == fingerprint:
            return done
        started = time.perf_counter()
        attempt = Attempt(
            dataset=dataset,
            model=reference,
            seed=0,
            fingerprint=fingerprint,
            arm_fingerprint=fingerprint,
            data_hash=data_hash,
            hyperparameters={},
            trained=False,
            **_provenance("cpu"),
        )
        begin_attempt(folder, attempt)
        scorer = SCORERS[reference](splits)
        test_cases = splits.cases("test")
        longest = int((test_cases.ends - test_cases.starts).max())  # the whole history is seen
        valid = EvaluationSet(splits, "valid", longest)
        test = EvaluationSet(splits, "test", longest)
        outcome = Outcome(
            rank_targets(scorer, valid),
            rank_targets(scorer, test),
            lists_table(*top_lists(scorer, test), splits),
            splits.n_items,
        )
        return _write_result(folder, attempt, outcome, seconds=time.perf_counter() - started)


def next_folder(folder: Path) -> Path:
    """Where a new attempt trains while the folder still holds the old result."""
    return folder.with_name(f"{folder.name}.next")


def adopt_finished(folder: Path) -> None:
    """Let a finished new attempt take the old result's place, its record last.

    A kill in between leaves the rest to the next call; until then readers see the old result, or
    files that do not fit its checksums.
    """
    work = next_folder(folder)
    if not (work / RECORD).exists():
        return
    for name in (ATTEMPT, HISTORY, WEIGHTS, RANKS, LISTS, RECORD):
        if (work / name).exists():
            (work / name).replace(folder / name)
    shutil.rmtree(work)


def _provenance(device: str) -> dict[str, Any]:
    return {
        "attempt": uuid.uuid4().hex,
        "training_version": TRAINING_VERSION,
        "commit": commit(),
        "versions": versions(),
        "hardware": hardware(device),
        "device": device,
        "started": now(),
    }


def new_attempt(trial: Trial, splits: Splits, device: str, stacked: int = 1) -> Attempt:
    """An attempt that starts now; `stacked` is how many seeds are trained as one."""
    data_hash = splits.stats["data_hash"]
    return Attempt(
        dataset=trial.dataset,
        model=trial.arm,
        seed=trial.seed,
        fingerprint=trial.fingerprint(data_hash),
        arm_fingerprint=trial.fingerprint(data_hash, with_seed=False),
        data_hash=data_hash,
        hyperparameters=trial.hyperparameters.model_dump(),
        trained=True,
        stacked=stacked,
        **_provenance(choose_device(device)),
    )


def epochs_kept(folder: Path, fingerprint: str) -> int:
    """Of how many epochs of such a trial the folder has a checkpoint.

    Raises:
        TrialCorrupt: the attempt or its checkpoint is damaged.
    """
    begun = read_attempt(folder)
    alike = begun is not None and begun.fingerprint == fingerprint
    return checkpoint_history(folder).height if alike else 0


def resume_or_begin(folder: Path, new: Attempt) -> Attempt:
    """The folder's attempt, if it has a checkpoint of such a trial; else `new`, begun.

    Where it goes on by another commit, with other versions, on another machine or device, or in
    another stack, its record will say so. One that is begun again has the name of before, under
    which MLflow has its run.

    Raises:
        TrialCorrupt: the attempt or its checkpoint is damaged.
    """
    begun, kept = read_attempt(folder), epochs_kept(folder, new.fingerprint)
    if begun is None:
        return begin_attempt(folder, new)
    if not kept:
        of_both = [(each.fingerprint, each.stacked, each.published) for each in (begun, new)]
        name = begun.attempt if of_both[0] == of_both[1] else new.attempt
        return begin_attempt(folder, new.model_copy(update={"attempt": name}))
    resumed = _resumed(begun, new, kept + 1)
    if resumed and resumed[-1].epoch == kept + 1:
        logger.warning(
            "%s goes on %s. That is not what began it: its numbers may differ from those of a "
            "trial that was not interrupted. Its record says so.",
            begun.id,
            resumed[-1].words,
        )
    attempt = begun.model_copy(update={"resumed": resumed, "device": new.device})
    return begun if attempt == begun else write_sealed(folder / ATTEMPT, attempt)


def _resumed(begun: Attempt, new: Attempt, epoch: int) -> tuple[Resumed, ...]:
    """`begun.resumed` as it is once `new` trains from `epoch` on."""
    earlier = tuple(each for each in begun.resumed if each.epoch < epoch)
    here = Resumed(epoch=epoch, **{name: getattr(new, name) for name in PROVENANCE})
    last = earlier[-1] if earlier else begun
    same = all(getattr(last, name) == getattr(here, name) for name in PROVENANCE)
    return earlier if same else (*earlier, here)


def begin_attempt(folder: Path, attempt: Attempt) -> Attempt:
    """Empty the folder of what another attempt left there, and write this one's `attempt.json`."""
    for name in (RECORD, CHECKPOINT, HISTORY, RANKS, LISTS, WEIGHTS):
        (folder / name).unlink(missing_ok=True)
    return write_sealed(folder / ATTEMPT, attempt)


def parameter_groups(
    named: Iterable[tuple[str, Tensor]], h: Hyperparameters
) -> list[dict[str, Any]]:
    """All parameters in one group, or R, R1 and R2 in a second with a learning rate of its own.

    Raises:
        ConfigError: there is a learning rate for them, but no parameter of these names.
    """
    named = list(named)
    if h.attention_learning_rate is None:
        return [{"params": [parameter for _, parameter in named]}]
    learned = [parameter for name, parameter in named if name.split(".")[-1] in LEARNED_LOGITS]
    if not learned:
        raise ConfigError(
            f"attention_learning_rate is for parameters named {', '.join(LEARNED_LOGITS)}, and "
            f"mixer {h.mixer!r} has none of them. Remove it, or rename the mixer's parameter."
        )
    others = [parameter for name, parameter in named if name.split(".")[-1] not in LEARNED_LOGITS]
    return [{"params": others}, {"params": learned, "lr": h.attention_learning_rate}]


def _train(
    trial: Trial, splits: Splits, folder: Path, attempt: Attempt, observer: Observer
) -> TrialRecord:
    return halving(
        lambda attempt: _Training(trial, splits, folder, attempt, observer).run(), folder, attempt
    )


def halving(train: Callable[[Attempt], T], folder: Path, attempt: Attempt) -> T:
    """`train`'s result; when memory runs out, once more from its checkpoint in half blocks.

    Raises:
        OutOfMemory: memory ran out in half blocks too.
    """
    try:
        return train(attempt)
    except OutOfMemory as error:
        if attempt.block_parts > 1:
            raise
        logger.warning("%s It resumes from its last checkpoint in half blocks.", str(error))
    # Not in the handler above, where the error still holds the memory of the step that failed.
    return train(write_sealed(folder / ATTEMPT, attempt.model_copy(update={"block_parts": 2})))


@contextmanager
def memory_errors(trial: Trial, state: TrainingState) -> Iterator[None]:
    """Memory that runs out inside raises `OutOfMemory`, which names the trial and the epoch."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"{_where(trial, state.epoch)}: memory ran out "
            f"({str(error).strip().partition(chr(10))[0]}). A smaller batch_size than "
            f"{trial.hyperparameters.batch_size}, or fewer trials at once, need less."
        ) from error


class Epochs:
    """A network with its optimizer and batches, trained an epoch at a time."""

    def __init__(self, trial: Trial, splits: Splits, attempt: Attempt) -> None:
        """The network as the trial's seed initialises it, on the attempt's device."""
        h = trial.hyperparameters
        torch.set_num_threads(h.threads)
        keep_freed_memory()
        self.trial, self.attempt = trial, attempt
        self.batches = Batches(splits, h.n, h.batch_size, attempt.device)
        torch.manual_seed(derived_seed(trial.seed, 0))
        self.model = build_network(h, splits.n_items).to(attempt.device)
        self.optimizer = torch.optim.Adam(
            parameter_groups(self.model.named_parameters(), h),
            lr=h.learning_rate,
            betas=(0.9, h.beta2),
            fused=True,
        )
        self.loss = build_loss(h, splits, attempt.device, attempt.block_parts)

    def train(self, epoch: int) -> float:
        """One epoch of steps; returns the mean loss of a target, in nats.

        Raises:
            TrainingDiverged: the loss is not finite.
        """
        self.model.train()
        seed = self.trial.seed
        torch.manual_seed(derived_seed(seed, epoch))  # dropout, negatives
        total = torch.zeros((), device=self.attempt.device)
        for rows in self.batches.rows(seed, epoch):
            loss = self._loss(rows)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            total += loss.detach()
        mean = float(total) / self.batches.steps_per_epoch
        if not np.isfinite(mean):
            raise diverged(self.trial, epoch, f"the loss is {mean}")
        return mean

    def _loss(self, rows: Tensor) -> Tensor:
        """The configured loss of one batch, divided by the mean number of targets a step."""
        items, targets = self.batches.batch(rows)
        valid = targets != 0
        return self.loss(
            Step(
                hidden=self.model(items)[valid],
                weight=self.model.output_weights(),
                targets=targets[valid] - 1,
                users=lambda: self.batches.users[rows.to(valid.device)].expand_as(valid)[valid],
                scale=1 / self.batches.targets_per_step,
            )
        )


def checkpoint_interval(seconds: float) -> float:
    """Seconds until the next checkpoint, when the last one took `seconds`."""
    return max(CHECKPOINT_SECONDS, seconds / CHECKPOINT_SHARE)


class CheckpointPace:
    """When the next checkpoint is due: the rarer, the longer the last one took."""

    def __init__(self) -> None:
        self.saved, self.interval = time.perf_counter(), checkpoint_interval(0.0)

    def is_due(self) -> bool:
        """Whether the interval has passed."""
        return time.perf_counter() - self.saved > self.interval

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around what a checkpoint takes."""
        started = time.perf_counter()
        yield
        self.saved = time.perf_counter()
        self.interval = checkpoint_interval(self.saved - started)


class _Training:
    """The loop over epochs, from a checkpoint or from the start, to the written result."""

    def __init__(
        self, trial: Trial, splits: Splits, folder: Path, attempt: Attempt, observer: Observer
    ) -> None:
        self.trial, self.folder, self.attempt, self.observer = trial, folder, attempt, observer
        n, device = trial.hyperparameters.n, attempt.device
        self.splits = splits
        self.valid = EvaluationSet(splits, "valid", n, device)
        self.epochs = Epochs(trial, splits, attempt)
        self.model = self.epochs.model
        self.state = load_checkpoint(folder, self.model, self.epochs.optimizer, attempt.attempt)
        self.pace = CheckpointPace()

    def run(self) -> TrialRecord:
        with memory_errors(self.trial, self.state):
            return self._run()

    def _run(self) -> TrialRecord:
        self.observer.on_checkpoint(self.folder)  # the start
        while not ended(self.trial, self.state):
            self.state.epoch += 1
            self._epoch()
            self._tell()
            if self.pace.is_due():
                self._checkpoint()
        record = self._finish()
        self.observer.on_checkpoint(self.folder)
        return record

    def _epoch(self) -> None:
        started = time.perf_counter()
        loss = self.epochs.train(self.state.epoch)
        trained = time.perf_counter()
        ranks = self._ranks(self.valid)
        metrics = metrics_from_ranks(ranks.kept, ranks.users)
        self.state.note(
            loss,
            metrics,
            self.model.state_dict(),
            seconds=time.perf_counter() - started,
            targets_per_second=self.epochs.batches.targets_per_epoch / (trained - started),
        )

    def _ranks(self, users: EvaluationSet) -> Ranks:
        parts = self.attempt.block_parts
        return ranks_of(self.model, users, self.trial, self.state.epoch, parts)

    def _tell(self) -> None:
        self.observer.on_epoch(progress_of(self.trial, self.state))

    def _checkpoint(self) -> None:
        with self.pace.writing():
            save_checkpoint(
                self.folder, self.state, self.model, self.epochs.optimizer, self.attempt.attempt
            )
            self.observer.on_checkpoint(self.folder)

    def _finish(self) -> TrialRecord:
        self.model.load_state_dict(self.state.best_weights)
        n, device = self.trial.hyperparameters.n, self.attempt.device
        outcome = outcome_of(
            self.model,
            self.valid,
            EvaluationSet(self.splits, "test", n, device),  # no memory while training
            self.splits,
            self.trial,
            self.state.epoch,
            self.attempt.block_parts,
        )
        return write_trained(self.trial, self.folder, self.attempt, self.state, outcome)


def out_of_patience(trial: Trial, state: TrainingState) -> bool:
    """Whether validation has not become better for `patience` epochs, past `min_epochs`."""
    h = trial.hyperparameters
    waited = state.epoch - state.best_epoch
    return state.epoch >= h.min_epochs and waited >= h.patience


def ended(trial: Trial, state: TrainingState) -> bool:
    """Whether the trial has no further epoch."""
    return out_of_patience(trial, state) or state.epoch >= trial.hyperparameters.max_epochs


def ranks_of(
    model: Network, users: EvaluationSet, trial: Trial, epoch: int, parts: int = 1
) -> Ranks:
    """Every user's rank by the model; `parts` is as in `block_size`.

    Raises:
        TrainingDiverged: a score is not finite.
    """
    model.eval()
    try:
        return rank_targets(network_scorer(model, parts), users)
    except NonFiniteScores as error:
        raise diverged(trial, epoch, str(error)) from error


def outcome_of(
    model: Network,
    valid: EvaluationSet,
    test: EvaluationSet,
    splits: Splits,
    trial: Trial,
    epoch: int,
    parts: int = 1,
) -> Outcome:
    """What a model with its best weights comes to, the one look at the test set.

    Raises:
        TrainingDiverged: a score is not finite.
    """
    valid_ranks, test_ranks = (
        ranks_of(model, users, trial, epoch, parts) for users in (valid, test)
    )
    lists = lists_table(*top_lists(network_scorer(model, parts), test), splits)
    return Outcome(valid_ranks, test_ranks, lists, splits.n_items)


def diverged(trial: Trial, epoch: int, reason: str) -> TrainingDiverged:
    """The error that names the trial and the epoch."""
    return TrainingDiverged(
        f"{_where(trial, epoch)}: {reason}. "
        f"A smaller learning_rate than {trial.hyperparameters.learning_rate} may help."
    )


def _where(trial: Trial, epoch: int) -> str:
    return f"{trial.id}, epoch {epoch}"


def _is_out_of_memory(error: Exception) -> bool:
    """CUDA has a class for it; of torch's errors on a CPU only the text tells."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or "can't allocate memory" in str(error)


def progress_of(trial: Trial, state: TrainingState) -> Progress:
    """The news of the last epoch."""
    return Progress(
        trial=trial.id,
        epoch=state.epoch,
        max_epochs=trial.hyperparameters.max_epochs,
        best_epoch=state.best_epoch,
        valid_ndcg_at_10=state.history[-1]["valid_ndcg_at_10"],
        targets_per_second=state.history[-1]["targets_per_second"],
    )


def write_trained(
    trial: Trial, folder: Path, attempt: Attempt, state: TrainingState, outcome: Outcome
) -> TrialRecord:
    """The finished folder of a trained trial: history, weights, ranks, lists, the record last."""
    write_parquet(folder / HISTORY, pl.DataFrame(state.history, schema=HISTORY_SCHEMA))
    with write_atomically(folder / WEIGHTS) as part:
        save_file({n: t.contiguous() for n, t in state.best_weights.items()}, part)
    record = _write_result(
        folder,
        attempt,
        outcome,
        seconds=state.seconds,
        targets_per_second=statistics.median(r["targets_per_second"] for r in state.history),
        epochs=state.epoch,
        best_epoch=state.best_epoch,
        hit_cap=not out_of_patience(trial, state),
    )
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return record


def _write_result(folder: Path, attempt: Attempt, outcome: Outcome, **numbers: Any) -> TrialRecord:
    """Ranks and lists, then the record with metrics and checksums, which makes it finished."""
    ranks = ranks_table(outcome.valid, outcome.test)
    write_parquet(folder / RANKS, ranks)
    write_parquet(folder / LISTS, outcome.lists)
    written = [name for name in (HISTORY, RANKS, LISTS, WEIGHTS) if (folder / name).exists()]
    record = TrialRecord(
        **attempt.model_dump(),
        **numbers,
        finished=now(),
        metrics=metrics_of_table(ranks) | beyond_accuracy(outcome.lists, ranks, outcome.n_items),
        files={name: sha256(folder / name) for name in written},
    )
    return write_sealed(folder / RECORD, record)
