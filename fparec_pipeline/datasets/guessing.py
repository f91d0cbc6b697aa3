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
SHORT = 4  # letters: a shorter word is found within others
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


def guessed(path: Path, separator: str | None = None) -> dict[str, Any]:
    """Keys of a source for the file or folder: reader, separator, and the columns that it has.

    `columns` are all its columns; user, item and time are there where a name tells.

    Args:
        path: a file, or a folder of them.
        separator: between a text's fields, where it is known.

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
        separator, columns = _header(first, separator)
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


def _header(path: Path, separator: str | None) -> tuple[str, list[str]]:
    """The separator (that which stands most evenly in the first lines), and the first's fields."""
    source = source_of(reader="csv", address="any", user="u", item="i", time="t")
    with TemporaryDirectory() as scratch:
        text = plain_text(path, source, Path(scratch))
        with text.path.open("rb") as file:
            head = file.read(HEAD_BYTES).decode("utf-8", "replace").removeprefix("\ufeff")
    lines = [line.rstrip("\r") for line in head.split("\n")[:20] if line.strip()]
    if not lines:
        raise RawDataError(f"{path} is empty.")
    counts = {s: min(line.count(s) for line in lines) for s in SEPARATORS}
    separator = separator or next((s for s in SEPARATORS if counts[s] >= 2), ",")
    if len(separator) == 1:
        return separator, [name.strip() for name in next(csv.reader(lines, delimiter=separator))]
    return separator, [name.strip().strip('"') for name in lines[0].split(separator)]


def _named(columns: list[str]) -> dict[str, str]:
    """The columns whose names tell that they are users, items and times."""
    found: dict[str, str] = {}
    for key, words in NAMES.items():
        free = [column for column in columns if column not in found.values()]
        # A column that is a word, or a word with id, is likelier than one that holds any.
        likeliest = (c for tells in (_is, _holds) for word in words for c in free if tells(c, word))
        if column := next(likeliest, None):
            found[key] = column
    return found


def _is(column: str, word: str) -> bool:
    return "".join(_parts(column)) in (word, f"{word}id", f"id{word}")


def _holds(column: str, word: str) -> bool:
    """Whether the name begins or ends with the word: units does not with ts, event_ts does."""
    parts = _parts(column)
    if len(word) < SHORT:
        return word in parts
    letters = "".join(parts)
    return letters.startswith(word) or letters.endswith(word)


def _parts(column: str) -> list[str]:
    """The words of a name, in lower case; ordered_at and orderedAt are named as times are."""
    named = re.sub(r"(_at|(?<=[a-z])At)$", "_timestamp", column)
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", named)
    return re.findall(r"[a-z]+", apart.lower())
