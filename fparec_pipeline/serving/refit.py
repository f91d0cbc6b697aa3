"""The champion trained once more, on all interactions: what is recommended next is after the last.

Notable:
* As many epochs as validation chose for the trial; no validation and no test, since both sets are
  trained on. Its record says whose scores it stands on.
* The folder's rules are a trial's: an flock, `attempt.json`, checkpoints that are resumed to the
  same bits, and a record, written last, with the checksums of its files.

Here belongs the refit's folder and its end. A step and a batch are `training/`'s.
"""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
from safetensors.torch import save_file

from fparec_pipeline.config import Trial
from fparec_pipeline.datasets.files import write_atomically
from fparec_pipeline.datasets.splits import Splits
from fparec_pipeline.training.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from fparec_pipeline.training.record import (
    CHECKPOINT,
    HISTORY,
    HISTORY_SCHEMA,
    WEIGHTS,
    Attempt,
    Progress,
    TrialRecord,
    write_parquet,
)
from fparec_pipeline.training.trial import (
    CheckpointPace,
    Epochs,
    halving,
    memory_errors,
    new_attempt,
    resume_or_begin,
)

OnEpoch = Callable[[Progress], None]


def whole(splits: Splits) -> Splits:
    """The splits with every interaction among the training items, and no item cold any more."""
    each = np.arange(splits.n_users + 1)  # leave-one-out: one interaction of each user
    windows = [splits.windows[p].offsets if splits.windows else each for p in ("valid", "test")]
    parts = (splits.train_offsets, *windows)
    users = np.concatenate([np.repeat(np.arange(splits.n_users), np.diff(o)) for o in parts])
    items = np.concatenate([splits.train_items, splits.valid, splits.test])
    counts = np.bincount(users, minlength=splits.n_users)
    return dataclasses.replace(
        splits,
        n_items=max(splits.n_items, int(items.max())),
        train_items=items[users.argsort(kind="stable")],
        train_offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        windows={},
    )


def refit(
    trial: Trial,
    chosen: TrialRecord,
    splits: Splits,
    folder: Path,
    *,
    device: str = "auto",
    on_epoch: OnEpoch | None = None,
) -> tuple[Attempt, TrainingState]:
    """Train the weights in `folder`, whose lock the caller holds; a checkpoint there is resumed.

    Args:
        trial: today's, of the same fingerprint as `chosen`.
        chosen: the finished trial; its best epoch is how long is trained.
        splits: today's, of the same data.
        folder: named by the champion's fingerprint; its files are `attempt.json`,
            `history.parquet` and `model.safetensors` afterwards.
        device: as `choose_device` takes it.
        on_epoch: told after each epoch.

    Raises:
        TrainingDiverged: the loss is not finite.
        OutOfMemory: memory ran out a second time.
        TrialCorrupt: the checkpoint is damaged.
    """
    new = new_attempt(trial, splits, device).model_copy(
        update={"fingerprint": folder.name, "block_parts": chosen.block_parts}
    )
    attempt = resume_or_begin(folder, new)
    everything, last = whole(splits), chosen.best_epoch
    return halving(
        lambda each: _train(trial, everything, last, folder, each, on_epoch), folder, attempt
    )


def _train(
    trial: Trial,
    splits: Splits,
    last: int,
    folder: Path,
    attempt: Attempt,
    on_epoch: OnEpoch | None,
) -> tuple[Attempt, TrainingState]:
    """Train to the end of the epoch `last`, and write what is left of it."""
    epochs = Epochs(trial, splits, attempt)
    state = load_checkpoint(folder, epochs.model, epochs.optimizer, attempt.attempt)
    pace = CheckpointPace()
    with memory_errors(trial, state):
        while state.epoch < last:
            started = time.perf_counter()
            state.epoch += 1
            loss = epochs.train(state.epoch)
            _note(state, loss, time.perf_counter() - started, epochs.batches.targets_per_epoch)
            if on_epoch:
                on_epoch(_progress(trial, state, last))
            if pace.is_due():
                with pace.writing():
                    save_checkpoint(folder, state, epochs.model, epochs.optimizer, attempt.attempt)
    write_parquet(folder / HISTORY, pl.DataFrame(state.history, schema=HISTORY_SCHEMA))
    with write_atomically(folder / WEIGHTS) as part:
        weights = epochs.model.state_dict()
        save_file({name: tensor.cpu().contiguous() for name, tensor in weights.items()}, part)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return attempt, state


def _note(state: TrainingState, loss: float, seconds: float, targets: int) -> None:
    state.seconds += seconds
    state.history.append(
        {
            "epoch": state.epoch,
            "loss": loss,
            "valid_hr_at_10": None,
            "valid_ndcg_at_10": None,
            "seconds": seconds,
            "targets_per_second": targets / seconds,
        }
    )


def _progress(trial: Trial, state: TrainingState, last: int) -> Progress:
    rate = state.history[-1]["targets_per_second"]
    return Progress(trial.id, state.epoch, last, last, None, rate)
