"""From interactions to numbered, ordered sequences: date range, k-core, ids, leave-one-out.

Notable:
* **Ties.** Within a user, interactions are sorted by time; those of equal time keep the order of
  the file. Never the item's id: that leaks the catalogue's order and inflates MovieLens's NDCG.
* **Ids** run from 1 (0 is padding). Users are numbered in the order of their first row in the
  file; items in the order of first appearance when the users are read one after the other, each
  in the order of time. The published Amazon and Yelp files are numbered in that way.
* A published file (`own_ids`) keeps its ids and its order.
* What is held in memory holds no text: identifiers are categories, and counting, numbering and
  sorting work on whole numbers.
"""

import datetime

import numpy as np
import polars as pl

from fparec_pipeline.datasets.files import DatasetError

EPOCH = datetime.date(1970, 1, 1)
MIN_INTERACTIONS = 3  # a training, a validation and a test item


class SplitsError(DatasetError):
    """Splits that cannot be made, are not there, or are damaged."""


def between(
    rows: pl.LazyFrame, first: datetime.date | None, last: datetime.date | None
) -> pl.LazyFrame:
    """The rows whose `day` (days since 1970 UTC) is in first..last, both included."""
    if first:
        rows = rows.filter(pl.col("day") >= (first - EPOCH).days)
    if last:
        rows = rows.filter(pl.col("day") <= (last - EPOCH).days)
    return rows


def coded(rows: pl.LazyFrame) -> pl.LazyFrame:
    """The columns user and item as categories: 4 bytes a row instead of a text."""
    kinds = {name: pl.Categorical(pl.Categories.random()) for name in ("user", "item")}
    return rows.with_columns(pl.col(name).cast(kind) for name, kind in kinds.items())


def k_core(rows: pl.LazyFrame, core: int) -> pl.LazyFrame:
    """The largest part of `rows` in which every user and every item has at least `core` rows.

    Users and items below the core are taken away round by round until a round takes none; the
    result does not depend on the order of the rounds. Repeated (user, item) rows count each.

    Args:
        rows: columns user and item and any others; all columns and the order are kept.
        core: at least 1.
    """
    table = rows.collect(engine="streaming")
    users, items = _codes(table["user"]), _codes(table["item"])
    kept = np.arange(table.height)
    while True:
        u, i = users[kept], items[kept]
        enough = (np.bincount(u) >= core)[u] & (np.bincount(i) >= core)[i]
        if enough.all():
            return (table if len(kept) == table.height else table[kept]).lazy()
        kept = kept[enough]


def _codes(column: pl.Series) -> np.ndarray:
    """A whole number for each distinct value, (rows,) uint32, not necessarily without gaps."""
    if not isinstance(column.dtype, pl.Categorical):
        column = column.cast(pl.Categorical(pl.Categories.random()))
    return column.to_physical().to_numpy()


def _by_first_appearance(codes: np.ndarray) -> np.ndarray:
    """Ids from 1 in the order in which the codes first appear, (rows,) int32."""
    rows = len(codes)
    first = np.full(int(codes.max(initial=0)) + 1, rows)
    first[codes[::-1]] = np.arange(rows - 1, -1, -1)  # of equal indices NumPy keeps the last
    present = np.flatnonzero(first < rows)
    ids = np.zeros(len(first), np.int32)
    ids[present[first[present].argsort()]] = np.arange(1, len(present) + 1)
    return ids[codes]


def numbered(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Rows sorted and given ids from 1, as the module's docstring says.

    Args:
        rows: columns user, item, time, in the order of the file; others are left out.

    Returns:
        Columns user, item (Int32), time, user_source, item_source (as they were), sorted by user,
        then time, then place in the file.
    """
    table = rows.select(
        pl.col("user").alias("user_source"), pl.col("item").alias("item_source"), "time"
    ).collect()
    users = pl.Series("user", _by_first_appearance(_codes(table["user_source"])))
    table = table.with_columns(users).sort("user", "time", maintain_order=True)
    items = pl.Series("item", _by_first_appearance(_codes(table["item_source"])))
    table = table.with_columns(items)
    return table.lazy().select("user", "item", "time", "user_source", "item_source")


def own_ids(name: str, rows: pl.LazyFrame) -> pl.LazyFrame:
    """Rows of a published file under its own ids, each user's in the order of the file.

    Args:
        name: the dataset, for messages.
        rows: columns order, user, item.

    Returns:
        Columns user, item (Int32), user_source, item_source (String), sorted by user, then order.

    Raises:
        SplitsError: users or items are not exactly 1..N.
    """
    ids = rows.select(
        pl.col("user", "item").cast(pl.Int32, strict=False),
        pl.col("user").alias("user_source"),
        pl.col("item").alias("item_source"),
        "order",
    )
    for column in ("user", "item"):
        least, most, distinct, unfit = (
            ids.select(
                pl.col(column).min().alias("least"),
                pl.col(column).max().alias("most"),
                pl.col(column).drop_nulls().n_unique().alias("distinct"),
                pl.col(column).null_count().alias("unfit"),
            )
            .collect()
            .row(0)
        )
        if least != 1 or most != distinct or unfit:
            raise SplitsError(
                f"{name}: a published file keeps its own ids, so {column}s must be numbered 1..N "
                f"without gaps; there are {distinct:,} from {least} to {most}. Fetch the file "
                "again, or read it with the reader csv, which numbers anew."
            )
    return ids.sort("user", "order").drop("order")


def leave_one_out(sequences: pl.LazyFrame) -> dict[str, pl.LazyFrame]:
    """Each user's last interaction as `test`, the one before as `valid`, the rest as `train`.

    Args:
        sequences: sorted by user, then position; every user has at least three rows.

    Returns:
        Three frames with the columns and the order of `sequences`.
    """
    user = pl.col("user")
    has_next, has_second = (user.eq_missing(user.shift(-steps)) for steps in (1, 2))
    return {
        "train": sequences.filter(has_second),
        "valid": sequences.filter(has_next & ~has_second),
        "test": sequences.filter(~has_next),
    }
