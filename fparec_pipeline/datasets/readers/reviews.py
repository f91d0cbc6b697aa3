"""Reviews of Amazon and Yelp: one JSON object a line.

Here belongs this one family of files; what all readers give stands in `rows.py`.
"""

from pathlib import Path
from typing import Any

import polars as pl

from fparec_pipeline.config import NULL_WORDS
from fparec_pipeline.datasets.readers import rows as shared
from fparec_pipeline.datasets.sources import RawFile
from fparec_pipeline.datasets.unpacking import plain_text

RECORD = pl.col("record")


def amazon(file: RawFile, source: Any, scratch: Path) -> pl.LazyFrame:
    """reviewerID, asin, unixReviewTime (whole seconds)."""
    times = shared.whole_seconds(RECORD.str.json_path_match("$.unixReviewTime"))
    return _reviews(file, source, scratch, "reviewerID", "asin", times)


def yelp(file: RawFile, source: Any, scratch: Path) -> pl.LazyFrame:
    """user_id, business_id, date `YYYY-MM-DD HH:MM:SS`, taken as UTC."""
    times = shared.moments(RECORD.str.json_path_match("$.date"))
    return _reviews(file, source, scratch, "user_id", "business_id", times)


def _reviews(
    file: RawFile, source: Any, scratch: Path, user: str, item: str, times: list[pl.Expr]
) -> pl.LazyFrame:
    text = plain_text(file.path, source, scratch)
    table = shared.written_lines(text.path).with_columns(
        *shared.identifiers(
            RECORD.str.json_path_match(f"$.{user}"),
            RECORD.str.json_path_match(f"$.{item}"),
            NULL_WORDS,
        ),
        *times,
    )
    return shared.of_text(shared.judged(table), text)
