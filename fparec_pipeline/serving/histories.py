"""Histories: whose recommendations are asked for, and what each has chosen so far.

Notable:
* The source's ids are what joins: a history may come from splits that are newer than the champion,
  or from a file. Items that the champion does not know are left out and counted.
* A history keeps its order and its repeats.

Here belong the inputs. What is answered belongs to `model.py` and `batch.py`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from fparec_pipeline.datasets.files import DatasetError
from fparec_pipeline.datasets.readers.typed import times
from fparec_pipeline.datasets.splits import PARTS
from fparec_pipeline.datasets.times import MixedTimes, settled

UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)


class HistoryError(DatasetError):
    """A file of histories or of ids that cannot be used; the message names it."""


@dataclass(frozen=True)
class Columns:
    """What a file may call the columns: the dataset's own names, else user, item and time.

    Its times are read as those of the dataset's own file (`datasets.times`).
    """

    user: tuple[str, ...] = ("user",)
    item: tuple[str, ...] = ("item",)
    time: tuple[str, ...] = ("time",)
    time_unit: str | None = None
    time_format: str | None = None


@dataclass(frozen=True)
class Histories:
    """Users in the order in which they are answered, and their items by the champion's numbers."""

    users: pl.Series  # String (u,): the source's ids
    values: np.ndarray  # int64 (interactions,): items 1..n, user after user, each chronological
    offsets: np.ndarray  # int64 (u + 1,)
    unknown: int = 0  # interactions with items that the champion does not know

    def __len__(self) -> int:
        return len(self.users)

    def between(self, first: int, last: int) -> "Histories":
        """The users first, …, last − 1."""
        offsets = self.offsets[first : last + 1]
        values = self.values[offsets[0] : offsets[-1]]
        return Histories(self.users[first:last], values, offsets - offsets[0])


def from_splits(folder: Path, items: pl.DataFrame) -> Histories:
    """All interactions of every user, the validation and the test item included.

    Args:
        folder: the dataset's splits, of the champion's data or newer.
        items: the champion's `item` and `source_id`.
    """
    parts = [
        pl.scan_parquet(folder / f"{part}.parquet").select("user", "item", part=pl.lit(place))
        for place, part in enumerate(PARTS)
    ]
    names = pl.scan_parquet(folder / "items.parquet").select("item", "source_id")
    users = pl.scan_parquet(folder / "users.parquet").select("user", name="source_id")
    interactions = (
        pl.concat(parts)
        .sort("user", "part", maintain_order=True)
        .join(names, on="item", how="left", maintain_order="left")
        .join(users, on="user", how="left", maintain_order="left")
        .select(user="name", item="source_id")
    )
    everyone = users.sort("user").select(user="name").collect()["user"]
    return _numbered(everyone, interactions, items)


def from_file(path: Path, items: pl.DataFrame, columns: Columns | None = None) -> Histories:
    """The histories of a CSV or parquet file with a user and an item column, a row an interaction.

    With a time column rows are sorted by it; equal times, and files without one, keep the order of
    the rows. Users are in the order in which they appear.

    Raises:
        HistoryError: the file cannot be read, lacks a column, has a time that is none, or times
            that have no one order.
    """
    columns = columns or Columns()
    table = _read(path)
    user, item = (_one_of(path, table, names) for names in (columns.user, columns.item))
    wanted = [_text(pl.col(user)).alias("user"), _text(pl.col(item)).alias("item")]
    try:
        schema = table.collect_schema()
        time = next((name for name in columns.time if name in schema), None)
        if time:
            wanted += times(pl.col(time), schema[time], columns.time_format)
        numbered = table.with_row_index("row", offset=1).select("row", *wanted)
        rows = numbered.filter(pl.col("user").is_not_null()).collect()
    except UNREADABLE as error:
        raise HistoryError(f"{path} cannot be read: {_first_line(error)}") from error
    if time:
        moments = _moments(path, time, rows, columns.time_unit)
        rows = rows.with_columns(time=moments).sort("time", maintain_order=True)
    users = rows["user"].unique(maintain_order=True)
    return _numbered(users, rows.lazy().select("user", "item"), items)


def read_ids(path: Path, names: tuple[str, ...]) -> pl.Series:
    """The distinct ids of a file, in its order: of the first of the columns `names` that it has.

    A file that ends in .txt has no columns: an id a line.

    Raises:
        HistoryError: the file cannot be read, or has none of the columns.
    """
    if path.suffix == ".txt":
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise HistoryError(f"{path} cannot be read: {error}") from error
        table = pl.DataFrame({"id": lines}, schema={"id": pl.String}).lazy()
        column = "id"
    else:
        table = _read(path)
        column = _one_of(path, table, names)
    ids = table.select(id=_text(pl.col(column))).collect()["id"]
    return ids.drop_nulls().unique(maintain_order=True)


def only(histories: Histories, users: pl.Series, *others: Histories) -> Histories:
    """The histories of `users` in that order; who has one in several takes the last of them.

    A user of none has an empty history.
    """
    sources = (histories, *others)
    bases = np.cumsum([0, *(len(source.values) for source in sources)])
    found = pl.concat(
        pl.DataFrame(
            {
                "user": source.users,
                "start": source.offsets[:-1] + base,
                "length": np.diff(source.offsets),
            }
        )
        for source, base in zip(sources, bases, strict=False)
    ).unique("user", keep="last")
    wanted = pl.DataFrame({"user": users}).join(found, on="user", how="left", maintain_order="left")
    starts, lengths = (wanted[name].fill_null(0).to_numpy() for name in ("start", "length"))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    places = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
    values = np.concatenate([source.values for source in sources])[places]
    return Histories(users, values, offsets, sum(source.unknown for source in sources))


def _numbered(users: pl.Series, interactions: pl.LazyFrame, items: pl.DataFrame) -> Histories:
    """Flat arrays from (user, item) rows by the source's ids, each user's in the right order."""
    order = pl.DataFrame({"user": users}).with_row_index("place").lazy()
    known = items.lazy().select("source_id", number=pl.col("item").cast(pl.Int64))
    rows = (
        interactions.with_row_index("row")
        .join(known, left_on="item", right_on="source_id", how="left")
        .join(order, on="user")
        .sort("place", "row")
        .select("place", "number")
    )
    table = rows.collect()
    unknown = table["number"].null_count()
    table = table.drop_nulls("number")
    counts = np.bincount(table["place"].to_numpy(), minlength=len(users))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Histories(users, table["number"].to_numpy().astype(np.int64), offsets, unknown)


def _read(path: Path) -> pl.LazyFrame:
    """The table lazily; a CSV file's columns all as text."""
    if not path.is_file():
        raise HistoryError(f"There is no file {path}.")
    try:
        if path.suffix == ".parquet":
            table = pl.scan_parquet(path, glob=False)
        else:
            table = pl.scan_csv(path, infer_schema=False, glob=False)
        table.collect_schema()
    except UNREADABLE as error:
        raise HistoryError(f"{path} cannot be read: {_first_line(error)}") from error
    return table


def _one_of(path: Path, table: pl.LazyFrame, names: tuple[str, ...]) -> str:
    there = table.collect_schema().names()
    for name in names:
        if name in there:
            return name
    raise HistoryError(
        f"{path} has no column {' or '.join(map(repr, names))}; it has {', '.join(there)[:200]}."
    )


def _text(column: pl.Expr) -> pl.Expr:
    """Trimmed text; null for nothing."""
    text = column.cast(pl.String).str.strip_chars()
    return pl.when(text != "").then(text)


def _moments(path: Path, name: str, rows: pl.DataFrame, unit: str | None) -> pl.Series:
    """The times of `rows` (row, time, kind, time_text) in one unit, so that they sort."""
    instead = "Mend it, or leave the column out: rows are then taken in their order."
    bad = rows.filter(pl.col("time").is_null())
    if bad.height:
        raise HistoryError(f"{path}: {_time_at(bad, 0, name)}, which is no time. {instead}")
    if rows.is_empty():
        return rows["time"]
    try:
        return settled(rows["time"], rows["kind"], unit)[0]
    except MixedTimes as error:
        first, second = (_time_at(rows, at, name) for at in sorted((error.first, error.second)))
        raise HistoryError(
            f"{path}: the column {name} mixes {error}: {first}, but {second}. Such times have no "
            f"one order. {instead}"
        ) from error


def _time_at(rows: pl.DataFrame, place: int, name: str) -> str:
    row, text = rows.select("row", "time_text").row(place)
    return f"row {row:,} has the {name} {text!r}"


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:200]
