"""Reads raw files for tests, without a data root."""

import tempfile
from pathlib import Path

import polars as pl

from fparec_pipeline.config import Source
from fparec_pipeline.datasets.collecting import Interactions, collect
from fparec_pipeline.datasets.readers import read_interactions
from fparec_pipeline.datasets.sources import raw_files


def rows_of(path: Path, source: Source) -> pl.DataFrame:
    """All rows of a raw file, malformed ones too, as its reader gives them; blank ones left out."""
    with tempfile.TemporaryDirectory() as scratch:
        rows = read_interactions(raw_files(path), source, Path(scratch))
        return rows.filter(~pl.col("nothing") | pl.col("problem").is_null()).collect()


def collected(path: Path, source: Source, quarantine: Path, name: str = "shop") -> Interactions:
    """What is kept of a raw file."""
    with tempfile.TemporaryDirectory() as scratch:
        return collect(name, raw_files(path), source, Path(scratch), quarantine)
