"""Times every arm of Table 3, its three seeds stacked, and projects the table's 75 trials.

    python benchmarks/gpu.py                        # CUDA, all five datasets' shapes
    python benchmarks/gpu.py --device cpu --small   # a look at whether it runs

Needs torch, numpy, polars, pydantic, safetensors and filelock, and no network: users, items and
mean lengths are the paper's Table 2, the sequences are drawn. The time of a step does not depend on
what is in them; how many epochs a trial needs does, so the projection states its epochs
(`--epochs`, `--epochs-ml-1m`). An epoch is training and the validation of all three seeds.
"""

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from fparec_pipeline.config import Hyperparameters, Trial, load_config
from fparec_pipeline.datasets.splits import Splits, logical_hash
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training.record import Progress, hardware, versions
from fparec_pipeline.training.stacked import run_stacked

RESULTS = Path(__file__).parent / "results"
WARM_UP = 1  # epochs that compile and do not count


def drawn_splits(name: str, users: int, items: int, interactions: int) -> Splits:
    """Sequences of a dataset's size: lengths geometric from 5, items uniform."""
    draw = np.random.default_rng(0)
    lengths = 5 + draw.geometric(1 / (interactions / users - 4), users) - 1
    train = lengths - 2
    splits = Splits(
        name=name,
        n_users=users,
        n_items=items,
        train_items=draw.integers(1, items + 1, train.sum(), dtype=np.int32),
        train_offsets=np.concatenate([[0], np.cumsum(train)]).astype(np.int64),
        valid=draw.integers(1, items + 1, users, dtype=np.int32),
        test=draw.integers(1, items + 1, users, dtype=np.int32),
        stats={},
    )
    splits.stats["data_hash"] = logical_hash(splits)
    return splits


class Clock:
    """Notes when an epoch's last seed has been validated."""

    def __init__(self, seeds: int) -> None:
        self.seeds, self.ticks = seeds, [time.perf_counter()]
        self.told = 0

    def on_epoch(self, progress: Progress) -> None:
        self.told += 1
        if self.told % self.seeds == 0:
            self.ticks.append(time.perf_counter())

    def on_checkpoint(self, folder: Path) -> None:
        pass


def seconds_an_epoch(trials: list[Trial], splits: Splits, device: str, epochs: int) -> float:
    """The mean after the warm-up, of a stack that trains WARM_UP + `epochs` epochs."""
    changes = {"min_epochs": 1, "max_epochs": WARM_UP + epochs}
    short = [
        trial.model_copy(
            update={"hyperparameters": trial.hyperparameters.model_copy(update=changes)}
        )
        for trial in trials
    ]
    clock = Clock(len(short))
    with tempfile.TemporaryDirectory() as folder:
        observers = {trial.seed: clock for trial in short}
        run_stacked(short, splits, DataRoot(Path(folder)), device=device, observers=observers)
    return (clock.ticks[-1] - clock.ticks[WARM_UP]) / epochs


def small(h: Hyperparameters) -> Hyperparameters:
    """Narrow enough for a look on a CPU."""
    return h.model_copy(update={"n": 20, "d": 16, "k": 8})


def main() -> None:
    """Measure, print, and write results/gpu.json."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="a fiftieth of the users, n 20, d 16")
    parser.add_argument("--measured", type=int, default=2, help="epochs measured of each arm")
    parser.add_argument("--epochs", type=int, default=100, help="of a trial, for the projection")
    parser.add_argument("--epochs-ml-1m", type=int, default=400, help="the same on ML-1M")
    options = parser.parse_args()
    config = load_config()
    study = config.studies["table_3"]
    datasets = [name for name in study.datasets if name in config.paper["table_3"]]
    share = 50 if options.small else 1
    rows = []
    for dataset in datasets:
        size = config.datasets[dataset].expected
        assert size  # noqa: S101
        splits = drawn_splits(
            dataset, size.users // share, size.items // share, size.interactions // share
        )
        for model in study.arms:
            trials = [config.trial(dataset, model, seed) for seed in study.seeds]
            if options.small:
                trials = [
                    t.model_copy(update={"hyperparameters": small(t.hyperparameters)})
                    for t in trials
                ]
            seconds = seconds_an_epoch(trials, splits, options.device, options.measured)
            epochs = options.epochs_ml_1m if dataset == "ml-1m" else options.epochs
            rows.append({"dataset": dataset, "model": model, "seconds": seconds, "epochs": epochs})
            print(f"{dataset:8} {model:17} {seconds:9.3f} s an epoch of {len(trials)} seeds")
    total = sum(row["seconds"] * row["epochs"] for row in rows)
    trials_in_all = len(rows) * len(study.seeds)
    where = hardware(options.device)
    print(
        f"\n{trials_in_all} trials, {options.epochs} epochs each ({options.epochs_ml_1m} on "
        f"ML-1M): {total / 60:.1f} minutes projected{' (small: no figure)' * options.small}\n"
        f"{where}; torch {torch.__version__}, CUDA {torch.version.cuda}, {platform.platform()}"
    )
    RESULTS.mkdir(exist_ok=True)
    content = {
        "device": where,
        "versions": versions() | {"cuda": torch.version.cuda},
        "small": options.small,
        "arms": rows,
        "trials": trials_in_all,
        "projected_seconds": total,
    }
    (RESULTS / "gpu.json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
