"""Histories: whose recommendations are asked for, and what each has chosen so far.

Notable:
* The source's ids are what joins: a history may come from splits that are newer than the champion,
  or from a file. Items that the champion does not know are left out and counted.
* A history keeps its order and its repeats.
* The ids of a file are read as those of a dataset's own file: 28.0 is 28, and bytes may be UUIDs.

Here belong the inputs. What is answered belongs to `model.py` and `batch.py`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from fparec_pipeline.config import NULL_WORDS
from fparec_pipeline.datasets.collecting import are_whole_floats
from fparec_pipeline.datasets.files import DatasetError
from fparec_pipeline.datasets.readers.rows import UNREADABLE, first_words, identifier
from fparec_pipeline.datasets.readers.typed import NO_IDENTIFIER, as_text, times
from fparec_pipeline.datasets.splits import PARTS
from fparec_pipeline.datasets.times import MixedTimes, settled

NOBODY = pl.Series(dtype=pl.String)


class HistoryError(DatasetError):
    """A file of histories or of ids that cannot be used; the message names it."""


@dataclass(frozen=True)
class Columns:
    """What a file may call the columns: the dataset's own names, else user, item and time.

    Its ids and times are read as those of the dataset's own file (`datasets.times`).
    """

    user: tuple[str, ...] = ("user",)
    item: tuple[str, ...] = ("item",)
    time: tuple[str, ...] = ("time",)
    time_unit: str | None = None
    time_format: str | None = None
    null_values: tuple[str, ...] = NULL_WORDS  # words that are no user and no item


@dataclass(frozen=True)
class Histories:
    """Users in the order in which they are answered, and their items by the champion's numbers."""

    users: pl.Series  # String (u,): the source's ids
    values: np.ndarray  # int64 (interactions,): items 1..n, user after user, each chronological
    offsets: np.ndarray  # int64 (u + 1,)
    left_out: np.ndarray  # int64 (u,): interactions with items that the champion does not know

    @property
    def unknown(self) -> int:
        """How many interactions of these users are with items that the champion does not know."""
        return int(self.left_out.sum())

    def __len__(self) -> int:
        return len(self.users)

    def between(self, first: int, last: int) -> "Histories":
        """The users first, …, last − 1."""
        offsets = self.offsets[first : last + 1]
        values = self.values[offsets[0] : offsets[-1]]
        users, left_out = self.users[first:last], self.left_out[first:last]
        return Histories(users, values, offsets - offsets[0], left_out)


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


def from_file(
    path: Path,
    items: pl.DataFrame,
    columns: Columns | None = None,
    users: pl.Series = NOBODY,
) -> Histories:
    """The histories of a CSV or parquet file with a user and an item column, a row an interaction.

    With a time column rows are sorted by it; equal times, and files without one, keep the order of
    the rows. Users are in the order in which they appear.

    Args:
        path: the file.
        items: the champion's `item` and `source_id`.
        columns: what the file may call its columns.
        users: those of the splits.

    Raises:
        HistoryError: the file cannot be read, lacks a column, has a time that is none, or times
            that have no one order.
    """
    columns = columns or Columns()
    table = _read(path)
    user, item = (_one_of(path, table, names) for names in (columns.user, columns.item))
    with _reading(path):
        schema = table.collect_schema()
        wanted = [
            _identifier(path, table, name, columns.null_values).alias(key)
            for key, name in (("user", user), ("item", item))
        ]
        time = next((name for name in columns.time if name in schema), None)
        if time:
            wanted += times(pl.col(time), schema[time], columns.time_format)
        numbered = table.with_row_index("row", offset=1).select("row", *wanted)
        rows = numbered.filter(pl.col("user").is_not_null()).collect()
    rows = rows.with_columns(
        user=_as_known(rows["user"], users), item=_as_known(rows["item"], items["source_id"])
    )
    if time:
        moments = _moments(path, time, rows, columns.time_unit)
        rows = rows.with_columns(time=moments).sort("time", maintain_order=True)
    everyone = rows["user"].unique(maintain_order=True)
    return _numbered(everyone, rows.lazy().select("user", "item"), items)


def read_ids(
    path: Path,
    names: tuple[str, ...],
    known: pl.Series = NOBODY,
    null_values: tuple[str, ...] = NULL_WORDS,
) -> pl.Series:
    """The distinct ids of a file, in its order: of the first of the columns `names` that it has.

    A file that ends in .txt has no columns: an id a line.

    Args:
        path: the file.
        names: what its column may be called.
        known: the ids of the splits or of the champion, which it is compared with.
        null_values: words that are no id.

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
    with _reading(path):
        ids = table.select(id=_identifier(path, table, column, null_values)).collect()["id"]
    return _as_known(ids.drop_nulls(), known).unique(maintain_order=True)


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
                "left_out": source.left_out,
            }
        )
        for source, base in zip(sources, bases, strict=False)
    ).unique("user", keep="last")
    wanted = pl.DataFrame({"user": users}).join(found, on="user", how="left", maintain_order="left")
    starts, lengths, left_out = (
        wanted[name].fill_null(0).to_numpy() for name in ("start", "length", "left_out")
    )
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    places = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
    values = np.concatenate([source.values for source in sources])[places]
    return Histories(users, values, offsets, left_out)


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
    is_known = table["number"].is_not_null()
    counts, left_out = (
        np.bincount(table["place"].filter(which).to_numpy(), minlength=len(users))
        for which in (is_known, ~is_known)
    )
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    values = table["number"].drop_nulls().to_numpy().astype(np.int64)
    return Histories(users, values, offsets, left_out)


def _read(path: Path) -> pl.LazyFrame:
    """The table lazily; a CSV file's columns all as text."""
    if not path.is_file():
        raise HistoryError(f"There is no file {path}.")
    with _reading(path):
        if path.suffix == ".parquet":
            table = pl.scan_parquet(path, glob=False)
        else:
            table = pl.scan_csv(path, infer_schema=False, glob=False)
        table.collect_schema()
    return table


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What Polars says of the file, in one line that names it."""
    try:
        yield
    except UNREADABLE as error:
        kind = "a parquet file" if path.suffix == ".parquet" else "UTF-8 CSV with a header"
        raise HistoryError(
            f"{path} cannot be read: {first_words(error).rstrip('.')}. Write it again, as {kind}."
        ) from error


def _one_of(path: Path, table: pl.LazyFrame, names: tuple[str, ...]) -> str:
    there = table.collect_schema().names()
    for name in names:
        if name in there:
            return name
    raise HistoryError(
        f"{path} has no column {' or '.join(map(repr, names))}; it has {', '.join(there)[:200]}."
    )


def _identifier(
    path: Path, table: pl.LazyFrame, name: str, null_values: tuple[str, ...]
) -> pl.Expr:
    """The column's ids as text, as a dataset's reader makes them; null for nothing."""
    kind = table.collect_schema()[name]
    if isinstance(kind, NO_IDENTIFIER):
        raise HistoryError(
            f"{path} cannot be read: its column {name} is of the type {kind}, which is not an "
            "identifier. Write one id a row."
        )
    return identifier(as_text(table, name, kind), null_values)


def _as_known(ids: pl.Series, known: pl.Series) -> pl.Series:
    """28.0 as 28 where all are so, as the dataset's reader has it; unless 28.0 is a known id."""
    if known.str.ends_with(".0").any() or not are_whole_floats(ids):
        return ids
    return ids.str.replace(r"\.0+$", "")


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
