"""This project's trainer: `run_trial` as it is; a batch of the protocol is a whole epoch.

The seconds are the trainer's own, which leave the validation after each epoch out, as the peers'
loops have none.

Usage: own.py <dataset> <model> <epochs> <threads>
"""

import sys
import tempfile
from pathlib import Path

from gate import Gate

gate = Gate()

import polars as pl  # noqa: E402
import torch  # noqa: E402

from fparec_pipeline.config import load_config  # noqa: E402
from fparec_pipeline.datasets.splits import read_splits  # noqa: E402
from fparec_pipeline.paths import DataRoot  # noqa: E402
from fparec_pipeline.training.batches import Batches  # noqa: E402
from fparec_pipeline.training.record import HISTORY, Progress  # noqa: E402
from fparec_pipeline.training.trial import run_trial  # noqa: E402

gate.imported()


class Turns:
    """Passes the gate after each epoch."""

    def __init__(self, targets: int) -> None:
        self.targets = targets

    def on_epoch(self, progress: Progress) -> None:
        gate.batch(self.targets, seconds=self.targets / progress.targets_per_second)

    def on_checkpoint(self, folder: Path) -> None:
        pass


dataset, model, epochs, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
data = DataRoot.default()
trial = load_config(data).trial(dataset, model, 0)
changes = {"threads": threads, "min_epochs": epochs, "max_epochs": epochs}
h = trial.hyperparameters.model_copy(update=changes)
trial = trial.model_copy(update={"hyperparameters": h})
splits = read_splits(data.splits(dataset))
targets = Batches(splits, h.n, h.batch_size).targets_per_epoch
gate.ready(
    versions=f"torch {torch.__version__}",
    threads=threads,
    batch=f"{h.batch_size} users",
    epoch_targets=targets,
)
with tempfile.TemporaryDirectory() as folder:
    kept = DataRoot(Path(folder))
    run_trial(trial, splits, kept, device="cpu", observer=Turns(targets))
    history = pl.read_parquet(kept.trial(dataset, model, 0) / HISTORY)
gate.finished(losses=history["loss"].to_list())
