"""Does the order of the models depend on how the data is split?

    python benchmarks/protocols.py train ROOT [DATASET …]    # what ROOT does not hold, one by one
    python benchmarks/protocols.py show ROOT [DATASET …]     # medians, Kendall's tau, paired tests

ROOT is a data root. Every dataset in it that has a `like` is compared with the one that it is like;
DATASET chooses among the latter.
docs/results-protocols.md says where its datasets come from and what came out.
"""

import argparse
import itertools
import sys
import time
from pathlib import Path

from fparec_pipeline.config import REFERENCES, Config, load_config
from fparec_pipeline.datasets.sources import fetch_raw
from fparec_pipeline.datasets.splits import Splits, make_splits, read_splits
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training.trial import run_reference, run_trial

ARMS = (
    "sasrec",
    "linear_attention",
    "token_mixing",
    "parec",
    "fparec",
    "average",
    "linear_annealing",
    "exponential_annealing",
)
SEEDS = (0, 1, 2)


def compared(config: Config, wanted: list[str]) -> dict[str, list[str]]:
    """Dataset → those that are like it, of the datasets that have some and are wanted (or all)."""
    like = {name: entry.like for name, entry in config.datasets.items() if entry.like}
    bases = [base for base in dict.fromkeys(like.values()) if base in (wanted or [base])]
    return {base: [name for name in like if like[name] == base] for base in bases}


def splits_of(name: str, config: Config, data: DataRoot) -> Splits:
    folder = data.splits(name)
    if folder.exists():
        return read_splits(folder)
    dataset = config.datasets[name]
    return make_splits(name, dataset, fetch_raw(name, dataset, data), data)


def train(config: Config, data: DataRoot, wanted: list[str]) -> None:
    """Each pair of protocols, seed by seed, so that an early look has whole rows."""
    for base, others in compared(config, wanted).items():
        splits = {name: splits_of(name, config, data) for name in (base, *others)}
        for name, reference in itertools.product(splits, REFERENCES):
            run_reference(name, reference, splits[name], data)
        for seed, arm, name in itertools.product(SEEDS, ARMS, splits):
            started = time.perf_counter()
            record = run_trial(config.trial(name, arm, seed), splits[name], data, device="cpu")
            print(
                f"{name} {arm} seed {seed}: test NDCG@10 {record.metrics['test/ndcg_at_10']:.4f}, "
                f"{record.epochs} epochs, {time.perf_counter() - started:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["train", "show"])
    parser.add_argument("root", type=Path)
    parser.add_argument("datasets", nargs="*")
    given = parser.parse_args()
    root = DataRoot(given.root)
    sys.exit({"train": train}[given.what](load_config(root), root, given.datasets))
