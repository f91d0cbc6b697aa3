"""What a finished trial came to."""

from pathlib import Path
from typing import Any

import polars as pl

from fparec_pipeline.training.record import HISTORY, RANKS, WEIGHTS, read_record


def outcome(folder: Path) -> dict[str, Any]:
    """All that equal bits are promised for: weights, ranks, losses and metrics."""
    return {
        "weights": (folder / WEIGHTS).read_bytes(),
        "ranks": pl.read_parquet(folder / RANKS).to_dicts(),
        "history": pl.read_parquet(folder / HISTORY)
        .drop("seconds", "targets_per_second")
        .to_dicts(),
        "metrics": read_record(folder).metrics,
    }
