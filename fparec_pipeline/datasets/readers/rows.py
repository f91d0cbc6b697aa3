"""What all readers share: the columns that they give, identifiers, and what makes a row malformed.

Every reader gives, lazily and in the file's order:

* `row`: the number of the line, a header's included, or of the record, from 1;
* `record`: the row as the file has it, for the quarantine;
* `user_text`, `item_text`: the identifiers as the file has them, null where it has nothing;
* `user`, `item`: the same trimmed, null also for words that mean nothing;
* `time`, `kind`: as `times.understood` gives them; null where the format has no times;
* `time_text`: the time as the file has it, for messages;
* `fine`: whether the row is well-formed as far as can be told without a look into the identifiers,
  which `collecting` takes at each distinct one only;
* `problem`: why the row is malformed, or null;
* `nothing`: whether a malformed row is a blank line, which counts nowhere.

Here belongs what every reader must give. How a format is read belongs to the reader's own module.
"""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from fparec_pipeline.datasets.sources import RawDataError
from fparec_pipeline.datasets.times import PLAIN, WHOLE, ZONED, understood
from fparec_pipeline.datasets.unpacking import REPLACEMENT, Text

SCHEMA = {
    "row": pl.Int64,
    "record": pl.String,
    "user_text": pl.String,
    "item_text": pl.String,
    "user": pl.String,
    "item": pl.String,
    "time": pl.Int64,
    "kind": pl.UInt8,
    "time_text": pl.String,
    "fine": pl.Boolean,
    "problem": pl.String,
    "nothing": pl.Boolean,
}
# Problems that end the reading, because they say something about other rows too.
OPEN_QUOTE = "a line break in user, item or time, or a quote that is left open"
NO_TEXT = "bytes that are no UTF-8"
FATAL = (OPEN_QUOTE, NO_TEXT)
FIELDS = "wrong number of fields"
NO_TIME = "the time is neither a number nor an ISO date, or not as `time_format` says"
BOM = "\ufeff"
# What Polars raises on files that it cannot read; a panic of its Rust code is no `Exception`.
UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)


def first_words(error: BaseException) -> str:
    """The start of Polars' message, which may go on with its own advice or with half the file."""
    return str(error).partition("\n")[0][:200]


def lines(path: Path) -> pl.LazyFrame:
    """Columns row (from 1) and record, without the mark of byte order and CR at a line's end."""
    text = pl.scan_lines(
        path, name="record", row_index_name="row", row_index_offset=1, glob=False
    ).with_columns(pl.col("record").str.strip_suffix("\r"))
    first = pl.col("row") == 1
    return text.with_columns(
        pl.when(first).then(pl.col("record").str.strip_prefix(BOM)).otherwise("record")
    )


def written_lines(path: Path) -> pl.LazyFrame:
    """`lines` without the blank ones."""
    return lines(path).filter(pl.col("record").str.strip_chars() != "")


def identifier(raw: pl.Expr, null_values: Sequence[str]) -> pl.Expr:
    """Trimmed text; null for nothing and for a word that stands for nothing."""
    text = raw.str.strip_chars()
    return pl.when(~text.is_in(["", *null_values])).then(text)


def identifiers(user: pl.Expr, item: pl.Expr, null_values: Sequence[str]) -> list[pl.Expr]:
    """The four columns of users and items from two columns of text."""
    return [
        user.alias("user_text"),
        item.alias("item_text"),
        identifier(user, null_values).alias("user"),
        identifier(item, null_values).alias("item"),
    ]


def times(text: pl.Expr, time_format: str | None = None) -> list[pl.Expr]:
    """The columns time, kind and time_text of a column of text."""
    read = understood(text, time_format)
    return [*(read.struct.field(name) for name in ("time", "kind")), text.alias("time_text")]


def whole_seconds(text: pl.Expr) -> list[pl.Expr]:
    """Those columns of a format whose times are whole numbers."""
    return _of_kinds(text, (WHOLE,))


def moments(text: pl.Expr) -> list[pl.Expr]:
    """Those columns of a format whose times are ISO dates."""
    return _of_kinds(text, (PLAIN, ZONED))


def _of_kinds(text: pl.Expr, kinds: Sequence[int]) -> list[pl.Expr]:
    read = understood(text).struct
    fits = read.field("kind").is_in(list(kinds))
    return [
        *(pl.when(fits).then(read.field(name)).alias(name) for name in ("time", "kind")),
        text.alias("time_text"),
    ]


def no_times() -> list[pl.Expr]:
    """Those columns of a format that has none."""
    names = (("time", pl.Int64), ("kind", pl.UInt8), ("time_text", pl.String))
    return [pl.lit(None, dtype).alias(name) for name, dtype in names]


def judged(rows: pl.LazyFrame, surplus: pl.Expr | None = None) -> pl.LazyFrame:
    """Adds `problem` and `fine` to rows of identifiers and times; `surplus`: too many fields."""
    fields = pl.lit(False) if surplus is None else surplus
    problem = (
        pl.when(fields)
        .then(pl.lit(FIELDS))
        .when(pl.col("user").is_null())
        .then(pl.lit("no user"))
        .when(pl.col("item").is_null())
        .then(pl.lit("no item"))
        .when(pl.col("time").is_null())
        .then(pl.lit(NO_TIME))
    )
    known = [pl.col(name).is_not_null() for name in ("user_text", "item_text", "time")]
    return rows.with_columns(
        problem.alias("problem"), pl.all_horizontal(~fields, *known).alias("fine")
    )


def with_problem(rows: pl.LazyFrame, where: pl.Expr, problem: str) -> pl.LazyFrame:
    """Rows with a problem that outdoes any other, where there is one."""
    return rows.with_columns(
        pl.when(where).then(pl.lit(problem)).otherwise("problem").alias("problem"),
        pl.col("fine") & ~where,
    )


def of_text(rows: pl.LazyFrame, text: Text) -> pl.LazyFrame:
    """Where the text has bytes that are none: rows whose columns or whose form they spoil."""
    if text.is_text:
        return rows
    spoilt = [
        pl.col(name).str.contains(REPLACEMENT, literal=True).fill_null(False)
        for name in ("user", "item", "time_text")
    ]
    malformed = pl.col("problem").is_not_null() & pl.col("record").str.contains(
        REPLACEMENT, literal=True
    )
    return with_problem(rows, pl.any_horizontal(*spoilt, malformed), NO_TEXT)


def in_schema(rows: pl.LazyFrame) -> pl.LazyFrame:
    """The columns of SCHEMA; a reader without blank records need not give `nothing`."""
    if "nothing" not in rows.collect_schema():
        rows = rows.with_columns(pl.lit(False).alias("nothing"))
    return rows.select(pl.col(column).cast(dtype) for column, dtype in SCHEMA.items())


def wanted_places(path: Path, wanted: Sequence[str], names: Sequence[str], keys: str) -> list[int]:
    """Where in `names` the wanted columns stand.

    Raises:
        RawDataError: one is not there, or there twice.
    """
    if missing := [column for column in wanted if column not in names]:
        raise RawDataError(
            f"{path} has no column {', '.join(missing)}; it has {', '.join(names)[:200]}. Correct "
            f"{keys} in datasets.toml."
        )
    for column in wanted:
        if names.count(column) > 1:
            raise RawDataError(
                f"{path} has {names.count(column)} columns {column}, so that it is not clear which "
                "is meant. Rename one."
            )
    return [names.index(column) for column in wanted]
