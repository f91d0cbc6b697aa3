"""What Dagster and MLflow add to a trial, on the embedded MovieLens and a data root of its own.

Prints one JSON object. Run by bench.py in a process of its own; trials have one epoch.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import dagster as dg

from fparec_pipeline.config import load_config
from fparec_pipeline.datasets.sources import fetch_raw
from fparec_pipeline.datasets.splits import make_splits, read_splits
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.running.context import open_context
from fparec_pipeline.running.materialization import materialize
from fparec_pipeline.tracking import Tracker
from fparec_pipeline.training.trial import run_trial

DATASET, MODEL = "ml-latest-small", "fparec"
SEEDS = range(3)  # the first one warms up and does not count
ONE_EPOCH = "[defaults]\nmin_epochs = 1\nmax_epochs = 1\n"
LOAD = "import fparec_pipeline.definitions"


def load_seconds() -> float:
    """A fresh interpreter that loads the code location, from start to end."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", LOAD], check=True)  # noqa: S603
    return time.perf_counter() - started


def prepared(folder: Path) -> DataRoot:
    """A data root with splits, and trials of one epoch."""
    data = DataRoot(folder)
    folder.mkdir()
    (folder / "models.toml").write_text(ONE_EPOCH)
    dataset = load_config(data).datasets[DATASET]
    make_splits(DATASET, dataset, fetch_raw(DATASET, dataset, data), data)
    return data


def bare_trials(data: DataRoot) -> list[float]:
    """Seconds of each seed's trial without Dagster and MLflow."""
    seconds = []
    for seed in SEEDS:
        started = time.perf_counter()
        trial = load_config(data).trial(DATASET, MODEL, seed)
        run_trial(trial, read_splits(data.splits(DATASET)), data, device="cpu")
        seconds.append(time.perf_counter() - started)
    return seconds


def materialized_trials(data: DataRoot) -> list[float]:
    """Seconds of the same trials as Dagster assets, MLflow's runs included."""
    Tracker(None, data).initialise()
    seconds = []
    with open_context(data) as context:
        for seed in SEEDS:
            partition = dg.MultiPartitionKey({"dataset": DATASET, "seed": str(seed)})
            started = time.perf_counter()
            key = f"trained/{MODEL}"
            if error := materialize([key], context, "train_benchmark", partition=partition):
                raise RuntimeError(error)
            seconds.append(time.perf_counter() - started)
    return seconds


def syncs(data: DataRoot) -> list[float]:
    """Seconds of bringing each finished trial, unknown to MLflow, into its store."""
    tracker = Tracker(None, data)
    tracker.initialise()
    seconds = []
    for seed in SEEDS:
        started = time.perf_counter()
        tracker.sync_trial(data.trial(DATASET, MODEL, seed))
        seconds.append(time.perf_counter() - started)
    return seconds


def main() -> None:
    """Measure and print."""
    loads = [load_seconds() for _ in range(4)][1:]
    with tempfile.TemporaryDirectory() as folder:
        alone = prepared(Path(folder) / "alone")
        bare = bare_trials(alone)
        managed = materialized_trials(prepared(Path(folder) / "managed"))
        synced = syncs(alone)
    added = [a - b for a, b in zip(managed, bare, strict=True)]
    result = {
        "code_location_seconds": statistics.median(loads),
        "materialization_seconds": statistics.median(added[1:]),
        "sync_seconds": statistics.median(synced[1:]),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
