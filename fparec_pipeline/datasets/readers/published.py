"""Published files of sequences: ids from 1, each user's items in the order of time, no times.

Here belongs this one family of files; what all readers give stands in `rows.py`.
"""

from pathlib import Path
from typing import Any

import polars as pl

from fparec_pipeline.datasets.readers import rows as shared
from fparec_pipeline.datasets.sources import RawFile
from fparec_pipeline.datasets.unpacking import plain_text


def sequences(file: RawFile, source: Any, scratch: Path) -> pl.LazyFrame:
    """`user item item …` a line."""
    return _published(file, source, scratch, r"^[1-9][0-9]*([ \t]+[1-9][0-9]*)+$")


def pairs(file: RawFile, source: Any, scratch: Path) -> pl.LazyFrame:
    """`user item` a line."""
    return _published(file, source, scratch, r"^[1-9][0-9]*[ \t]+[1-9][0-9]*$")


def _published(file: RawFile, source: Any, scratch: Path, form: str) -> pl.LazyFrame:
    text = plain_text(file.path, source, scratch)
    line = pl.col("record").str.strip_chars()
    numbers = line.str.replace_all(r"\s+", " ").str.split(" ")
    fits = line.str.contains(form)
    items = pl.when(fits).then(numbers.list.slice(1)).otherwise(pl.lit([None], pl.List(pl.String)))
    table = shared.written_lines(text.path).with_columns(
        pl.when(fits).then(numbers.list.first()).alias("user"),
        items.alias("item"),
        *shared.no_times(),
        pl.when(~fits).then(pl.lit("not a user's number and item numbers")).alias("problem"),
    )
    rows = table.explode("item").with_columns(
        pl.col("user").alias("user_text"),
        pl.col("item").alias("item_text"),
        pl.col("problem").is_null().alias("fine"),
    )
    return shared.of_text(rows, text)
