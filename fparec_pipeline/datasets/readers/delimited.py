"""Rows of separated fields: CSV and its relatives, and MovieLens's ratings.

What belongs here: headers, fields, quotes. What does not: how text gets plain (`unpacking`).

Columns are read by their place, as text, so that no name of the file's can collide with one of
ours and a bad value spoils its own row only.

**Quotes.** A file without a quote is split at its separators. Where every line is a row by itself
under the rules of RFC 4180, so that no field holds a line break, Polars' parser reads it. In any
other file a line that is a row under those rules, with something like a time, is one. What is left
between such rows is put together where quotes go over lines: a quoted field may hold line breaks.
But lines that are rows if quotes are taken literally are rows, and are not swallowed; and in the
columns that are not asked for quotes may stand anywhere (`"Heroes" DVD`, `12" screen`). What cannot
be told is refused with its row.
"""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from fparec_pipeline.config import NULL_WORDS
from fparec_pipeline.datasets.readers import rows as shared
from fparec_pipeline.datasets.sources import RawDataError, RawFile
from fparec_pipeline.datasets.unpacking import Text, plain_text

# The one member that is read, under the names that GroupLens's archive and a bare zip give it.
MOVIELENS_MEMBERS = ("ml-1m/ratings.dat", "ratings.dat")
MOVIELENS_COLUMNS = ("UserID", "MovieID", "Rating", "Timestamp")
HEADER_BYTES = 1 << 20
KEYS = "`user`, `item`, `time` or `separator`"
EXCESS = "excess"  # takes the first surplus field of a row


def csv_rows(file: RawFile, source: Any, scratch: Path) -> pl.LazyFrame:
    """A table of one's own, with a header unless the source names the columns."""
    text = plain_text(
        file.path,
        source,
        scratch,
        separator=source.separator,
        quote=source.quote,
        escape=source.escape,
        encoding=source.encoding,
    )
    path = file.path
    skipped, names = (0, list(source.columns)) if source.columns else _header(path, text, source)
    wanted = tuple(name.strip() for name in (source.user, source.item, source.time))
    constants = {name: value for name, value in file.constants.items() if name not in names}
    places = shared.wanted_places(path, wanted, [*names, *constants], KEYS + _hint(source))
    within = [place if place < len(names) else 0 for place in places]
    table = _fields(text, source, skipped, names, within).with_columns(
        pl.lit(constants[name], pl.String).alias(str(number))
        for number, name in enumerate(wanted)
        if name in constants
    )
    user, item, time = (pl.col(name) for name in ("0", "1", "2"))
    table = table.with_columns(
        *shared.identifiers(user, item, source.null_values),
        *shared.times(time, source.time_format),
    )
    table = shared.judged(table, surplus=pl.col(EXCESS))
    if text.has_quotes:
        breaks = (c.str.contains("\n", literal=True).fill_null(False) for c in (user, item, time))
        table = shared.with_problem(
            table, pl.any_horizontal(pl.col("open"), *breaks), shared.OPEN_QUOTE
        )
    return shared.of_text(table, text)


def movielens(file: RawFile, source: Any, scratch: Path) -> pl.LazyFrame:
    """`UserID::MovieID::Rating::Timestamp`, latin-1, inside a zip archive."""
    text = plain_text(
        file.path, source, scratch, separator="::", encoding="latin-1", members=MOVIELENS_MEMBERS
    )
    table = _unquoted(text, 0, list(MOVIELENS_COLUMNS), [0, 1, 3])
    table = table.with_columns(
        *shared.identifiers(pl.col("0"), pl.col("1"), NULL_WORDS),
        *shared.whole_seconds(pl.col("2")),
        # A line of white space, too.
        pl.col("nothing") | (pl.col("alone") & (pl.col("0").str.strip_chars() == "")),
    )
    return shared.judged(table, surplus=pl.col(EXCESS))


def _hint(source: Any) -> str:
    return "" if source.columns else ", or name the columns of a file without a header in `columns`"


def _header(path: Path, text: Text, source: Any) -> tuple[int, list[str]]:
    """How many lines go before the rows, and the names of the columns.

    Raises:
        RawDataError: there is no header, or it goes over several lines.
    """
    with text.path.open("rb") as file:
        skipped, line = 0, b"\n"
        while line and not line.strip():
            line = file.readline(HEADER_BYTES)
            skipped += 1
    decoded = line.decode("utf-8", "replace").removeprefix(shared.BOM).rstrip("\r\n")
    if not decoded:
        raise RawDataError(f"{path} cannot be read: it is empty.")
    if "\x00" in decoded:
        raise RawDataError(f"{path} cannot be read: its first line is no text, but binary.")
    quote = source.quote or None
    try:
        [names] = csv.reader(
            io.StringIO(decoded),
            delimiter=text.separator,
            quotechar=quote,
            quoting=csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE,
        )
    except (csv.Error, ValueError) as error:
        raise RawDataError(
            f"{path}: the header {decoded[:80]!r} cannot be read: {error}. Correct `separator` or "
            "`quote`."
        ) from error
    return skipped, [name.strip() for name in names]


def _fields(
    text: Text, source: Any, skipped: int, names: list[str], places: list[int]
) -> pl.LazyFrame:
    """Columns row, record, "0", "1", "2" (the wanted fields), excess, open and nothing."""
    if not text.has_quotes:
        return _unquoted(text, skipped, names, places)
    line = shared.lines(text.path).filter(pl.col("row") > skipped)
    strict = _pattern(text.separator, source.quote, len(names), lenient=False)
    if line.select(pl.col("record").str.contains(strict).all()).collect(engine="streaming").item():
        return _parsed(text, skipped, names, places, source.quote)
    return _judged_line_by_line(line, text, source, len(names), places)


def _unquoted(text: Text, skipped: int, names: list[str], places: list[int]) -> pl.LazyFrame:
    return _parsed(text, skipped, names, places, None)


def _parsed(
    text: Text, skipped: int, names: list[str], places: list[int], quote: str | None
) -> pl.LazyFrame:
    """The fields as Polars' parser finds them, where each line is a row."""
    fields = [f"c{place}" for place in range(len(names))]
    table = pl.scan_csv(
        text.path,
        has_header=False,
        skip_lines=skipped,
        separator=text.separator,
        quote_char=quote,
        schema=dict.fromkeys([*fields, EXCESS], pl.String),
        missing_columns="insert",  # EXCESS stands in no row; it is filled by rows too long
        truncate_ragged_lines=True,
        row_index_name="row",
        row_index_offset=skipped + 1,
        glob=False,
    )
    first = fields[0]  # a file whose first line is data may begin with a mark of byte order
    if not skipped:
        table = table.with_columns(
            pl.when(pl.col("row") == 1)
            .then(pl.col(first).str.strip_prefix(shared.BOM))
            .otherwise(first)
            .alias(first)
        )
    named = [
        pl.col(field).alias(name) for field, name in zip(fields, _distinct(names), strict=True)
    ]
    alone = pl.all_horizontal(pl.col(*fields[1:], EXCESS).is_null())
    return table.select(
        "row",
        pl.struct(named).struct.json_encode().alias("record"),
        *(pl.col(fields[place]).alias(str(number)) for number, place in enumerate(places)),
        pl.col(EXCESS).is_not_null(),
        pl.lit(False).alias("open"),
        alone.alias("alone"),  # the first field, if anything
        (alone & pl.col(first).is_null()).alias("nothing"),
    )


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, numbered where they are there twice: for the quarantine's records."""
    return [
        name if names.count(name) == 1 else f"{name} ({names[: place + 1].count(name)})"
        for place, name in enumerate(names)
    ]


def _pattern(
    separator: str,
    quote: str,
    fields: int,
    *,
    lenient: bool,
    places: Sequence[int] = (),
    time: int | None = None,
    at_least: int | None = None,
) -> str:
    """A regular expression of a record with so many fields; `places` are captured, strictly.

    A field is quoted, with its quotes doubled inside, or holds no quote. `lenient`: one that is not
    captured may go on after its closing quote, or hold quotes if it does not begin with one. `time`
    is the place that must begin with a digit or a sign. With `at_least`, the record may end after
    so many fields.
    """
    s, q = re.escape(separator), re.escape(quote)
    quoted = f"{q}(?:[^{q}]|{q}{q})*{q}"
    strict = f"(?:{quoted}|[^{s}{q}]*)"
    loose = f"(?:{quoted}(?:[^{s}{q}][^{s}]*)?|[^{s}{q}][^{s}]*|)"
    digit = rf"(?:{q}\s*[-+]?\d(?:[^{q}]|{q}{q})*{q}|\s*[-+]?\d[^{s}{q}]*)"
    parts = []
    for place in range(fields):
        if place in places:
            parts.append(f"({digit if place == time else strict})")
        else:
            parts.append(loose if lenient else strict)
    needed = fields if at_least is None else at_least
    rest = "".join(f"(?:{s}{part}" for part in parts[needed:]) + ")?" * (fields - needed)
    return "^" + s.join(parts[:needed]) + rest + "$"


def _literal(
    separator: str, quote: str, fields: int, places: Sequence[int], time: int | None
) -> str:
    """A regular expression of a line with so many fields if quotes mean nothing.

    The captured fields hold no quote.
    """
    s, q = re.escape(separator), re.escape(quote)
    wanted, digit = f"([^{s}{q}]*)", rf"(\s*[-+]?\d[^{s}{q}]*)"
    parts = [
        (digit if place == time else wanted) if place in places else f"[^{s}]*"
        for place in range(fields)
    ]
    return "^" + s.join(parts) + "$"


def _judged_line_by_line(
    line: pl.LazyFrame, text: Text, source: Any, fields: int, places: list[int]
) -> pl.LazyFrame:
    """The fields of a file in which quotes go over lines, or stand where they should not."""
    captured = sorted(set(places))
    time = None if source.time_format else places[2]
    common = {"separator": text.separator, "quote": source.quote, "fields": fields}
    row = _pattern(**common, lenient=False, places=captured, time=time)
    # As in a file without quotes, what comes after the wanted fields may be missing. (Not where the
    # record goes over lines: a stray quote would swallow a row.)
    any_time = _pattern(**common, lenient=True, places=captured, at_least=max(places) + 1)
    strict = _pattern(**common, lenient=False, places=captured)
    literal = _literal(**common, places=captured, time=time)

    def groups(pattern: str) -> list[pl.Expr]:
        """The wanted fields under the names "0", "1", "2", without their quotes."""
        found = pl.col("record").str.extract_groups(pattern).struct
        return [
            _without_quotes(found.field(str(captured.index(place) + 1)), source.quote).alias(
                str(number)
            )
            for number, place in enumerate(places)
        ]

    def rows(table: pl.LazyFrame, pattern: str, *, excess: bool, is_open: bool) -> pl.LazyFrame:
        return table.with_columns(
            *groups(pattern), pl.lit(excess).alias(EXCESS), pl.lit(is_open).alias("open"),
            pl.lit(False).alias("nothing"),
        ).select("row", "record", "0", "1", "2", EXCESS, "open", "nothing")  # fmt: skip

    record = pl.col("record")
    is_row = record.str.contains(row)
    whole = rows(line.filter(is_row), row, excess=False, is_open=False)
    left = line.filter(~is_row).collect(engine="streaming")
    if not left.height:
        return whole
    pieces = _records(left, source.quote).with_columns(
        record.str.contains(literal).alias("is_literal")
    )
    joined = pieces.group_by("number", maintain_order=True).agg(
        pl.col("row").first(),
        pl.len().alias("lines"),
        record.str.join("\n"),
        pl.col("is_literal").all(),
        pl.col("quotes").sum() % 2 == 1,
    )
    single = pl.col("lines") == 1
    fits_strictly = ~pl.col("quotes") & record.str.contains(strict)
    fits = pl.when(single).then(record.str.contains(any_time)).otherwise(fits_strictly)
    odd = ~fits & (~single | pl.col("quotes"))
    joined = joined.with_columns(
        fate=pl.when(record.str.strip_chars() == "")
        .then(pl.lit("nothing"))
        .when("is_literal")
        .then(pl.lit("lines"))
        .when(odd)
        .then(pl.lit("open"))
        .when(fits)
        .then(pl.lit("row"))
        .otherwise(pl.lit("fields"))
    )
    of = {fate: joined.filter(fate=fate).lazy() for fate in ("open", "row", "fields")}
    literal_lines = pieces.join(joined.filter(fate="lines").select("number"), on="number").lazy()
    parts = [
        rows(literal_lines, literal, excess=False, is_open=False),
        rows(of["open"], any_time, excess=False, is_open=True),
        rows(of["row"], any_time, excess=False, is_open=False),
        rows(of["fields"], any_time, excess=True, is_open=False),
    ]
    rest = pl.concat([part.collect() for part in parts]).sort("row")
    return whole.merge_sorted(rest.lazy(), key="row")


def _without_quotes(field: pl.Expr, quote: str) -> pl.Expr:
    inner = field.str.strip_prefix(quote).str.strip_suffix(quote)
    inner = inner.str.replace_all(quote + quote, quote, literal=True)
    text = pl.when(field.str.starts_with(quote)).then(inner).otherwise(field)
    return pl.when(text != "").then(text)


def _records(left: pl.DataFrame, quote: str) -> pl.DataFrame:
    """Adds to lines the number of the record that each belongs to, and its number of quotes.

    Lines that follow one another are one run. In a run a line goes on with the record before it
    while the quotes before it are an odd number.
    """
    counted = left.with_columns(
        quotes=pl.col("record").str.count_matches(quote, literal=True),
        run=(pl.col("row").cast(pl.Int64).diff() != 1).fill_null(True).cum_sum(),
    )
    before = (pl.col("quotes").cum_sum() - pl.col("quotes")).over("run")
    return counted.with_columns(number=(before % 2 == 0).cum_sum())
