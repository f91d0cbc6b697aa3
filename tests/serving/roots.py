"""Trials of the dataset `tiny`, trained in this process."""

from fparec_pipeline.config import REFERENCES, load_config
from fparec_pipeline.datasets.splits import Splits, make_splits, read_splits
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training.trial import run_reference, run_trial

SEEDS = (0, 1, 2)


def trained_root(data: DataRoot, arms: list[str], seeds: tuple[int, ...]) -> Splits:
    """Splits of `tiny.csv`, its references, and these trials."""
    config = load_config(data)
    make_splits("tiny", config.datasets["tiny"], data.root / "tiny.csv", data)
    splits = read_splits(data.splits("tiny"))
    for reference in REFERENCES:
        run_reference("tiny", reference, splits, data)
    for arm in arms:
        for seed in seeds:
            run_trial(config.trial("tiny", arm, seed), splits, data, device="cpu")
    return splits
