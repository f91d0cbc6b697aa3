"""From interactions to numbered, ordered sequences: date range, k-core, ids, leave-one-out.

Notable:
* **Ties.** Within a user, interactions are sorted by time; those of equal time keep the order of
  the file, or get a drawn one (`with_shuffled_ties`). Never the item's id: that leaks the
  catalogue's order. A file that is sorted by item leaks it too, which the audit notices.
* **Ids** run from 1 (0 is padding). Users are numbered in the order of their first row in the
  file; items in the order of first appearance when the users are read one after the other, each
  in the order of time. The published Amazon and Yelp files are numbered in that way.
* A published file (`own_ids`) keeps its ids and its order.
* What is held in memory holds no text: identifiers are categories, and counting, numbering and
  sorting work on whole numbers.

Here belongs what happens between rows and sequences. Reading rows belongs to `readers/` and
`collecting.py`, dividing sequences to `protocols.py`, writing to `splits.py`.
"""

import datetime
from dataclasses import dataclass

import numpy as np
import polars as pl

from fparec_pipeline.datasets.files import DatasetError
from fparec_pipeline.datasets.times import Unit

EPOCH = datetime.date(1970, 1, 1)


class SplitsError(DatasetError):
    """Splits that cannot be made, are not there, or are damaged."""


@dataclass(frozen=True)
class Sequences:
    """Numbered interactions, and what the source calls each user and item."""

    rows: pl.DataFrame  # user, item (Int32), time where there are times; by user, then position
    user_names: pl.Series  # String (users,): user u's at [u - 1]
    item_names: pl.Series  # String (items,)


def between(
    table: pl.DataFrame, first: datetime.date | None, last: datetime.date | None, unit: Unit
) -> pl.DataFrame:
    """The rows whose time lies in first..last, both days included, UTC.

    Args:
        table: with the column time.
        unit: of those times.
    """
    if first:
        table = table.filter(pl.col("time") >= (first - EPOCH).days * unit.day)
    if last:
        table = table.filter(pl.col("time") < ((last - EPOCH).days + 1) * unit.day)
    return table


def without_duplicates(table: pl.DataFrame) -> pl.DataFrame:
    """Of rows with the same user, item and time the first, in the order of the file."""
    return table.unique(subset=["user", "item", "time"], keep="first", maintain_order=True)


def without_consecutive_repeats(table: pl.DataFrame) -> pl.DataFrame:
    """Of an item that a user chose several times in a row the first, in the order of the file.

    In a row is meant in the order of time, before users and items below the core are taken away.
    """
    users, items = _codes(table["user"]).astype(np.int64), _codes(table["item"])
    places = _chronological(users, table["time"].to_numpy())
    repeated = _equal_to_last(users[places]) & _equal_to_last(items[places])
    kept = np.ones(table.height, bool)
    kept[places[repeated]] = False
    return table.filter(pl.Series(kept))


def with_shuffled_ties(table: pl.DataFrame) -> pl.DataFrame:
    """The same rows; those of the same user and time change places with each other.

    Drawn with a fixed seed, so that the same file gives the same order. All else stays in place,
    so that the users keep their numbers.

    Args:
        table: Categorical columns user and item, and time (Int64), in the order of the file.
    """
    users, times = _codes(table["user"]).astype(np.int64), table["time"].to_numpy()
    drawn = np.random.default_rng(0).permutation(table.height)
    order = np.empty(table.height, np.int64)
    order[_chronological(users, times)] = np.lexsort((drawn, times, users))
    return table[order]


def repetitions(rows: pl.DataFrame) -> dict[str, int]:
    """How often interactions repeat others.

    Args:
        rows: user, item, and time where there are times; by user, then position.

    Returns:
        consecutive_repeats: those of the same item as the user's one before. Where there are
        times: tied_interactions, those that share their time with another of the user's, and
        duplicate_interactions, those that repeat an earlier one's user, item and time.
    """
    users, items = rows["user"].to_numpy(), rows["item"].to_numpy()
    same_user = _equal_to_last(users)
    found = {"consecutive_repeats": int((same_user & _equal_to_last(items)).sum())}
    if "time" in rows.columns:
        tied = same_user & _equal_to_last(rows["time"].to_numpy())
        among = tied | np.append(tied[1:], False)
        groups = np.cumsum(~tied[among])  # those of one time stand together
        keys = groups * (int(items.max(initial=0)) + 1) + items[among]
        found["tied_interactions"] = int(among.sum())
        found["duplicate_interactions"] = len(keys) - len(np.unique(keys))
    return found


def _equal_to_last(values: np.ndarray) -> np.ndarray:
    """Whether each value equals the one before it, (rows,) bool; the first does not."""
    return np.append(False, values[1:] == values[:-1])[: len(values)]


def k_core(table: pl.DataFrame, core: int) -> pl.DataFrame:
    """The largest part of `table` in which every user and every item has at least `core` rows.

    Users and items below the core are taken away round by round until a round takes none; the
    result does not depend on the order of the rounds. Repeated (user, item) rows count each.

    Args:
        table: Categorical columns user and item and any others; all columns and the order are
            kept.
        core: at least 1.
    """
    users, items = _codes(table["user"]), _codes(table["item"])
    kept = np.ones(table.height, bool)
    while True:
        enough = (np.bincount(users) >= core)[users] & (np.bincount(items) >= core)[items]
        if enough.all():
            return table.filter(pl.Series(kept))
        users, items = users[enough], items[enough]
        kept[kept] = enough


def numbers(name: str, size: int) -> pl.Series:
    """The ids 1..size as a column `name`, Int32."""
    return pl.Series(name, np.arange(1, size + 1, dtype=np.int32))


def _codes(column: pl.Series) -> np.ndarray:
    """A whole number for each distinct value, (rows,) uint32, not necessarily without gaps."""
    return column.to_physical().to_numpy()


def _by_first_appearance(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids from 1 in the order in which the codes first appear, (rows,) int32, and where each
    first appears, (ids,).
    """
    rows = len(codes)
    first = np.full(int(codes.max(initial=0)) + 1, rows)
    first[codes[::-1]] = np.arange(rows - 1, -1, -1)  # of equal indices NumPy keeps the last
    present = np.flatnonzero(first < rows)
    present = present[first[present].argsort()]
    ids = np.zeros(len(first), np.int32)
    ids[present] = np.arange(1, len(present) + 1)
    return ids[codes], first[present]


def _chronological(users: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The places (rows,) sorted by user, then time, then place.

    As one whole number where both fit into 63 bits, because NumPy sorts these with vector
    instructions. That sort is not stable, so places of equal user and time are put right after.
    """
    least, most = int(times.min(initial=0)), int(times.max(initial=0))
    span = most - least + 1
    if int(users.max(initial=0)) * span + span >= 1 << 63:
        return np.lexsort((times, users))
    key = users * np.int64(span) + (times - least)
    places = key.argsort()
    key = key[places]
    equal = key[1:] == key[:-1]
    tied = np.flatnonzero(np.append(equal, False) | np.append(False, equal))
    group = places[tied]
    places[tied] = group[np.lexsort((group, key[tied]))]
    return places


def numbered(table: pl.DataFrame, stages: np.ndarray | None = None) -> Sequences:
    """Rows sorted and given ids from 1, as the module's docstring says.

    Args:
        table: Categorical columns user and item, and time (Int64), in the order of the file.
        stages: (rows,) integers: the users and items of the lowest stage are numbered first, as if
            there were no other rows, then those that the next one adds. None: all rows are one.
    """
    users, user_rows = _numbered_in(_codes(table["user"]), np.arange(table.height), stages)
    times = table["time"].to_numpy()
    places = _chronological(users, times)
    items, item_rows = _numbered_in(_codes(table["item"]), places, stages)
    return Sequences(
        pl.DataFrame({"user": users[places], "item": items[places], "time": times[places]}),
        user_names=table["user"].gather(user_rows).cast(pl.String),
        item_names=table["item"].gather(item_rows).cast(pl.String),
    )


def _numbered_in(
    codes: np.ndarray, places: np.ndarray, stages: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Ids from 1 in the order in which the codes first appear when read at `places`, (rows,) int32
    by row, and the row where each first appears, (ids,).

    With `stages`, they are read stage by stage.
    """
    if stages is not None:
        places = places[np.argsort(stages[places], kind="stable")]
    ids, appearances = _by_first_appearance(codes[places])
    by_row = np.empty_like(ids)
    by_row[places] = ids
    return by_row, places[appearances]


def own_ids(name: str, table: pl.DataFrame) -> Sequences:
    """Rows of a published file under its own ids, each user's in the order of the file.

    Args:
        name: the dataset, for messages.
        table: columns user and item, in the order of the file.

    Raises:
        SplitsError: users or items are not exactly 1..N.
    """
    ids = table.select(pl.col("user", "item").cast(pl.String).cast(pl.Int32, strict=False))
    names = {}
    for column in ("user", "item"):
        given = ids[column].drop_nulls().unique().sort()
        if ids[column].null_count() or not given.equals(numbers(column, len(given))):
            raise SplitsError(
                f"{name}: a published file keeps its own ids, so {column}s must be numbered 1..N "
                f"without gaps; there are {len(given):,}, the largest is {given.max()!r}. Fetch "
                "the file again, or read it with the reader csv, which numbers anew."
            )
        names[f"{column}_names"] = given.cast(pl.String)
    return Sequences(ids.sort("user", maintain_order=True), **names)


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
