"""What a file of one's own may be: reader, separator and columns, guessed from its first lines.

What belongs here: guesses for `fparec dataset add`, which a person then corrects. What does not:
reading (`readers`), which guesses nothing.
"""

import csv
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from fparec_pipeline.config import source_of
from fparec_pipeline.datasets.readers.rows import UNREADABLE, first_words
from fparec_pipeline.datasets.readers.typed import PARQUET
from fparec_pipeline.datasets.sources import RawDataError, raw_files
from fparec_pipeline.datasets.unpacking import plain_text

SEPARATORS = ("::", "\t", ";", "|", ",")  # a name or a date may hold a comma, hardly a tab
HEAD_BYTES = 1 << 16
# Words of a column's name, the likelier first.
NAMES = {
    "user": ("user", "customer", "reviewer", "visitor", "session", "member", "uid", "client"),
    "item": (
        "item",
        "product",
        "movie",
        "asin",
        "article",
        "business",
        "track",
        "book",
        "sku",
        "iid",
    ),
    "time": ("timestamp", "unixreviewtime", "time", "ts", "date", "created", "day"),
}


def guessed(path: Path) -> dict[str, Any]:
    """Keys of a source for the file or folder: reader, separator, and the columns that it has.

    `columns` are all its columns; user, item and time are there where a name tells.

    Raises:
        RawDataError: there is no file, or it is none that can be read.
    """
    first = raw_files(path)[0].path
    with first.open("rb") as file:
        is_parquet = file.read(len(PARQUET)) == PARQUET
    if is_parquet:
        keys: dict[str, Any] = {"reader": "parquet"}
        columns = _parquet_columns(first)
    else:
        separator, columns = _header(first)
        keys = {"reader": "csv"} | ({} if separator == "," else {"separator": separator})
    columns += [key for key in raw_files(path)[0].constants if key not in columns]
    return keys | {"columns": columns} | _named(columns)


def _parquet_columns(path: Path) -> list[str]:
    try:
        table = pl.scan_parquet(path, glob=False, hive_partitioning=False)
        return table.collect_schema().names()
    except UNREADABLE as error:
        raise RawDataError(
            f"{path} begins like a parquet file and cannot be read: {first_words(error)}"
        ) from error


def _header(path: Path) -> tuple[str, list[str]]:
    """The separator that stands most evenly in the first lines, and the first line's fields."""
    source = source_of(reader="csv", address=str(path), user="u", item="i", time="t")
    with TemporaryDirectory() as scratch:
        text = plain_text(path, source, Path(scratch))
        with text.path.open("rb") as file:
            head = file.read(HEAD_BYTES).decode("utf-8", "replace").removeprefix("\ufeff")
    lines = [line.rstrip("\r") for line in head.split("\n")[:20] if line.strip()]
    if not lines:
        raise RawDataError(f"{path} is empty.")
    counts = {s: min(line.count(s) for line in lines) for s in SEPARATORS}
    separator = next((s for s in SEPARATORS if counts[s] >= 2), ",")
    if len(separator) == 1:
        return separator, [name.strip() for name in next(csv.reader(lines, delimiter=separator))]
    return separator, [name.strip().strip('"') for name in lines[0].split(separator)]


def _named(columns: list[str]) -> dict[str, str]:
    """The columns whose names tell that they are users, items and times."""
    found: dict[str, str] = {}
    for key, words in NAMES.items():
        free = [column for column in columns if column not in found.values()]
        plain = {column: _letters(column) for column in free}
        for word in words:
            # A column that is the word, or the word with id, is likelier than one that holds it.
            exact = [c for c, p in plain.items() if p in (word, f"{word}id", f"id{word}")]
            holding = [c for c, p in plain.items() if p.startswith(word) or p.endswith(word)]
            if exact or holding:
                found[key] = (exact or holding)[0]
                break
    return found


def _letters(column: str) -> str:
    """The letters of a name, in lower case; ordered_at and orderedAt are named as times are."""
    named = re.sub(r"(_at|(?<=[a-z])At)$", "timestamp", column)
    return re.sub(r"[^a-z]", "", named.lower())
