"""From interactions to numbered, ordered sequences: date range, k-core, ids, leave-one-out.

Notable:
* **Ties.** Within a user, interactions are sorted by time; those of equal time keep the order of
  the file. Never the item's id: that leaks the catalogue's order and inflates MovieLens's NDCG.
* **Ids** run from 1 (0 is padding). Users are numbered in the order of their first row in the
  file; items in the order of first appearance when the users are read one after the other, each
  in the order of time. The published Amazon and Yelp files are numbered in that way.
* A published file (`own_ids`) keeps its ids and its order.
* Frames stay lazy; the k-core looks at counts once a round.
"""

import datetime

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


def k_core(rows: pl.LazyFrame, core: int) -> pl.LazyFrame:
    """The largest part of `rows` in which every user and every item has at least `core` rows.

    Users and items below the core are taken away round by round until a round takes none; the
    result does not depend on the order of the rounds. Repeated (user, item) rows count each.

    Args:
        rows: columns user and item and any others; all columns and the order are kept.
        core: at least 1.
    """
    enough = (pl.len().over("user") >= core) & (pl.len().over("item") >= core)
    kept = rows.collect()
    while True:
        smaller = kept.lazy().filter(enough).collect()
        if smaller.height == kept.height:
            return kept.lazy()
        kept = smaller


def numbered(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Rows sorted and given ids from 1, as the module's docstring says.

    Args:
        rows: columns order (unique position in the file), user, item, time.

    Returns:
        Columns user, item (Int32), time, user_source, item_source (String), sorted by user, then
        time, then order.
    """
    users = (
        rows.group_by("user")
        .agg(pl.col("order").min())
        .sort("order")
        .select("user", pl.int_range(1, pl.len() + 1, dtype=pl.Int32).alias("user_id"))
    )
    ordered = (
        rows.join(users, on="user", how="left")
        .sort("user_id", "time", "order")
        .with_row_index("position")
    )
    items = (
        ordered.group_by("item")
        .agg(pl.col("position").min())
        .sort("position")
        .select("item", pl.int_range(1, pl.len() + 1, dtype=pl.Int32).alias("item_id"))
    )
    return (
        ordered.join(items, on="item", how="left")
        .sort("position")
        .select(
            pl.col("user_id").alias("user"),
            pl.col("item_id").alias("item"),
            "time",
            pl.col("user").alias("user_source"),
            pl.col("item").alias("item_source"),
        )
    )


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
    from_end = pl.int_range(pl.len(), 0, -1).over("user")  # 1 is the user's last
    return {
        "train": sequences.filter(from_end > 2),
        "valid": sequences.filter(from_end == 2),
        "test": sequences.filter(from_end == 1),
    }
