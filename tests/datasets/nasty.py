"""A corpus of nasty raw files, for every reader that reads text or parquet, with what must happen.

`ROWS` are single rows that stand among good ones; `FILES` are whole files. `KEPT` is a row like any
other, `ASIDE` is counted and put into the quarantine, `NOTHING` is no row; any other text is what
the error has to say.
"""

import datetime
import gzip
import io
import json
import zipfile
from collections.abc import Callable, Iterator

import polars as pl

from fparec_pipeline.config import source_of

KEPT, ASIDE, NOTHING = "kept", "aside", "nothing"
TOO_FEW = "at least 2 of each are needed"
NO_ROWS = "holds no rows"
UNREADABLE = "the raw file cannot be read"
MALFORMED = "rows are malformed"
OPEN = "a quote that is left open"
OPEN_QUOTE = "row 52 of raw[1] ("  # the header is row 1

USERS, ITEMS = 120, 20  # of the good rows: everyone chose everything

URL = "https://example.org/file"
COLUMNS = {"user": "u", "item": "i", "time": "t"}
SOURCES = {
    "csv": source_of(reader="csv", address="f", **COLUMNS),
    "parquet": source_of(reader="parquet", address="f", **COLUMNS),
    **{
        name: source_of(reader=name, address=URL)
        for name in ("movielens", "amazon", "yelp", "sequences", "pairs")
    },
}

Row = tuple[int, int, int]


def good_rows(users: int = USERS, items: int = ITEMS) -> list[Row]:
    """User, item, day: each user's in the order of time, ids from 1."""
    return [(u + 1, i + 1, 1 + i) for u in range(users) for i in range(items)]


def _moment(day: int) -> str:
    return (datetime.datetime(2020, 1, 1) + datetime.timedelta(days=day)).isoformat(" ")


LINES: dict[str, Callable[[int, int, int], str]] = {
    "csv": lambda u, i, day: f"{u},{i},{day}",
    "movielens": lambda u, i, day: f"{u}::{i}::5::{day}",
    "amazon": lambda u, i, day: json.dumps(
        {"reviewerID": str(u), "asin": str(i), "unixReviewTime": day}
    ),
    "yelp": lambda u, i, day: json.dumps(
        {"user_id": str(u), "business_id": str(i), "date": _moment(day)}
    ),
    "pairs": lambda u, i, day: f"{u} {i}",
}


def text_of(reader: str, rows: list[Row]) -> bytes:
    """The text that the reader reads, one line a row; `sequences` has one line a user."""
    if reader == "sequences":
        users: dict[int, list[int]] = {}
        for user, item, _ in rows:
            users.setdefault(user, []).append(item)
        lines = [" ".join(map(str, (user, *items))) for user, items in users.items()]
    else:
        lines = [LINES[reader](*row) for row in rows]
    return "".join(f"{line}\n" for line in lines).encode()


HEADER = b"u,i,t\n"


def packed(reader: str, text: bytes, header: bytes = HEADER) -> bytes:
    """The text as the reader's file: with a header, in a zip archive, or gzipped."""
    if reader == "csv":
        return header + text
    if reader == "movielens":
        return zipped(text)
    return gzip.compress(text) if reader == "amazon" else text


RATINGS = "ml-1m/ratings.dat"


def zipped(text: bytes, name: str = RATINGS, method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr(name, text)
    return file.getvalue()


def amazon(**changes: object) -> bytes:
    return json.dumps({"reviewerID": "1", "asin": "1", "unixReviewTime": 1} | changes).encode()


def yelp(**changes: object) -> bytes:
    return json.dumps(
        {"user_id": "1", "business_id": "1", "date": "2020-01-01 00:00:00"} | changes
    ).encode()


LONG = b"9" * 1_000_000  # longer than any buffer of a reader

# Reader -> one line that stands among good ones -> what becomes of it.
ROWS: dict[str, dict[bytes, str]] = {
    "csv": {
        b"": NOTHING,
        b",,": NOTHING,
        b"   ": ASIDE,
        b"1": ASIDE,
        b"1,1": ASIDE,
        b",1,1": ASIDE,
        b"1,,1": ASIDE,
        b"1,1,": ASIDE,
        b'"","",""': ASIDE,
        b",,,9": ASIDE,
        b"1,1,1,1": ASIDE,
        b"1,1,1,1,1,1": ASIDE,
        b"NaN,1,1": ASIDE,
        b"1,nan,1": ASIDE,
        b"1,1,NaN": ASIDE,
        b"1,1,inf": ASIDE,
        b"1,1,1.5": KEPT,
        b"1,1,1e300": ASIDE,
        b"1,1,99999999999999999999": ASIDE,
        b"1,1,2020-02-30": ASIDE,
        b"1,1,yesterday": ASIDE,
        b"\x00,\x00": ASIDE,
        b'"1\n2",1,1': OPEN_QUOTE,  # two lines, one row
        b'1,"1,1\n2,1,1\n3,1",1': OPEN_QUOTE,  # which is closed two rows on
        b'1,1,"1\n2,1,1"': OPEN_QUOTE,
        b"1,1,-5": KEPT,
        b"1,1,9223372036854775807": KEPT,
        b"1,1,2.0": KEPT,
        b"1,1,2020-01-01": "mixes whole numbers and dates",
        b" 1 , 1 , 1 ": KEPT,
        b"1,1,1": KEPT,  # a duplicate
        LONG + b",1,1": KEPT,
        b"-3,\xc3\xa9,1": KEPT,
        b"1\x00,1,1": KEPT,
        b"1,1,1\r": KEPT,
    },
    "movielens": {
        b"": NOTHING,
        b" \t": NOTHING,
        b"1::1::5": ASIDE,
        b"1::1::5::1::1": ASIDE,
        b"1::1:5::1": ASIDE,
        b"::1::5::1": ASIDE,
        b"1::::5::1": ASIDE,
        b"NaN::1::5::1": ASIDE,
        b"1::1::5::": ASIDE,
        b"1::1::5::NaN": ASIDE,
        b"1::1::5::99999999999999999999": ASIDE,
        b"\x00": ASIDE,
        LONG: ASIDE,
        b"-1::1::5::-1": KEPT,
        b"1::\xe9::5::1": KEPT,  # latin-1
        b"1::1::5::1\r": KEPT,
        b"1::1::5::1": KEPT,
    },
    "amazon": {
        b"": NOTHING,
        b"[]": ASIDE,
        b"{}": ASIDE,
        b"null": ASIDE,
        b"\x00": ASIDE,
        b"[" * 100_000: ASIDE,
        b'{"reviewerID": "1"': ASIDE,
        amazon() + b" trailing": ASIDE,
        amazon(reviewerID=None): ASIDE,
        amazon(reviewerID=""): ASIDE,
        amazon(asin="NaN"): ASIDE,
        amazon(unixReviewTime=1.5): ASIDE,
        amazon(unixReviewTime=float("nan")): ASIDE,
        amazon(unixReviewTime=10**20): ASIDE,
        amazon(unixReviewTime=[1]): ASIDE,
        amazon(unixReviewTime=True): ASIDE,
        b'{"reviewerID": "\\ud800", "asin": "1", "unixReviewTime": 1}': ASIDE,
        amazon(unixReviewTime=-1): KEPT,
        amazon(unixReviewTime="1"): KEPT,
        amazon(asin="\u00e9"): KEPT,
        amazon(reviewText="x" * 1_000_000): KEPT,
        amazon() + b"\r": KEPT,
    },
    "yelp": {
        b"": NOTHING,
        b"[]": ASIDE,
        b"\x00": ASIDE,
        yelp(user_id=None): ASIDE,
        yelp(date="01/02/2020"): ASIDE,
        yelp(date="2020-02-30 00:00:00"): ASIDE,
        yelp(date=1): ASIDE,
        yelp(date=None): ASIDE,
        yelp(date="0001-01-01 00:00:00"): KEPT,
        yelp(business_id="\u00e9"): KEPT,
        yelp() + b"\r": KEPT,
    },
    "pairs": {
        b"": NOTHING,
        b"1": ASIDE,
        b"1 1 1": ASIDE,
        b"0 1": ASIDE,
        b"1 -1": ASIDE,
        b"1 1.0": ASIDE,
        b"NaN 1": ASIDE,
        b"1 x": ASIDE,
        b"1\x001": ASIDE,
        "1 \u0663".encode(): ASIDE,  # a digit, but none of ASCII
        LONG: ASIDE,
        LONG + b" 1": "must be numbered",
        b"121 1": KEPT,
        b"1\t1": KEPT,
        b"1 1\r": KEPT,
    },
    "sequences": {
        b"": NOTHING,
        b"121": ASIDE,
        b"121 0 1 2": ASIDE,
        b"121 1 x 2": ASIDE,
        b"121 1 2.0 3": ASIDE,
        b"121 1 -2 3": ASIDE,
        b"121 1 2\r122 3 4": ASIDE,  # a line end of other times
        b"123 1 2 3": "must be numbered",
        b"121 1 2 99999999999999999999": "must be numbered",
        b"121 " + b"1 " * 100_000: KEPT,
        b"121 1 2 3\r": KEPT,
    },
}


def parquet(**columns: object) -> bytes:
    """A parquet file of the good rows, with other columns in the place of some."""
    users, items, days = zip(*good_rows(), strict=True)
    file = io.BytesIO()
    pl.DataFrame({"u": users, "i": items, "t": days} | columns).write_parquet(file)
    return file.getvalue()


def _times(dtype: pl.DataType, value: int) -> pl.Series:
    return pl.Series([value] * (USERS * ITEMS), dtype=pl.Int64).cast(dtype)


def files(reader: str) -> Iterator[tuple[str, bytes, str]]:
    """Name, content and what must happen of whole files, for the reader."""
    if reader == "parquet":
        yield from _parquet_files()
        return
    good = text_of(reader, good_rows())
    yield "good", packed(reader, good), KEPT
    yield "crlf", packed(reader, good.replace(b"\n", b"\r\n"), b"u,i,t\r\n"), KEPT
    yield "no last line end", packed(reader, good.rstrip()), KEPT
    yield "byte order mark", bom(reader, good), KEPT
    yield "blank lines", packed(reader, b"\n\n" + good.replace(b"\n", b"\n\n")), KEPT
    yield "empty", b"", {"csv": "cannot be read", "movielens": "no intact zip"}.get(reader, NO_ROWS)
    yield "nothing in it", packed(reader, b""), NO_ROWS
    old = good.replace(b"\n", b"\r")
    yield "line ends of other times", packed(reader, old, HEADER.replace(b"\n", b"\r")), KEPT
    yield "one user", packed(reader, text_of(reader, good_rows(users=1))), TOO_FEW
    yield "one item", packed(reader, text_of(reader, good_rows(items=1) * 3)), TOO_FEW
    latin = reader == "movielens"  # which is read as latin-1, in which all bytes are text
    binary = "control character" if latin else "cannot be read"
    yield "binary", packed(reader, bytes(range(256)) * 10), binary
    yield "zeros", packed(reader, bytes(10_000)), MALFORMED
    yield "one long line", packed(reader, LONG), MALFORMED
    if not latin:
        yield "latin-1", packed(reader, good + b"\xe9\xff\n"), "UTF-8"
        text = (HEADER if reader == "csv" else b"") + good
        yield "utf-16", packed(reader, text.decode().encode("utf-16"), b""), KEPT
    if reader not in ("sequences", "pairs"):  # which have no core
        below = [(u, i, 1) for u in range(1, 9) for i in (2 * u, 2 * u + 1)]
        yield "all below the core", packed(reader, text_of(reader, below)), TOO_FEW
        yield "duplicates", packed(reader, good + good), KEPT
    if reader == "csv":
        yield "neither header nor line ends", good.replace(b"\n", b"\r"), "has no column"
        yield "no header", good, "has no column"
        yield "a quote left open", HEADER + good + b'1,"1,1\n' + good, OPEN
        yield "a quote within", HEADER + good + b'1"1,1,1\n' + good, OPEN
        yield "gzip", gzip.compress(HEADER + good), KEPT
        yield "gzip cut off", gzip.compress(HEADER + good)[:-9], "no intact gzip"
        yield "gzip of zeros", gzip.compress(HEADER + bytes(1 << 24)), MALFORMED
    if latin:
        yield from _zip_files(good)


def bom(reader: str, text: bytes) -> bytes:
    """The file with a mark of byte order before its text."""
    mark = "\ufeff".encode()
    return mark + packed(reader, text) if reader == "csv" else packed(reader, mark + text)


def _zip_files(good: bytes) -> Iterator[tuple[str, bytes, str]]:
    """Damage that ends in an error of its own kind inside Python's zipfile; found by fuzzing."""
    yield "no zip", b"not a zip", "no intact zip"
    name = zipped(good, "r\u00e4tings.dat").replace("\u00e4".encode(), b"\xff\xff")
    yield "a name that is not UTF-8", name, "no intact zip"
    nameless = zipped(good, "ratings.dat").replace(b"ratings", b"\0atings")  # it ends at a NUL
    yield "an empty name", nameless, "holds none of"
    late = bytearray(zipped(good))
    late[-6] += 1  # where the directory begins: four bytes, then a comment's length
    yield "a directory that begins too late", bytes(late), "no intact zip"
    unknown = bytearray(zipped(good, method=zipfile.ZIP_LZMA))
    unknown[30 + len(RATINGS) + 4] = 0xFF  # LZMA's properties, after the member's header
    yield "properties that LZMA does not have", bytes(unknown), "no intact zip"


def _parquet_files() -> Iterator[tuple[str, bytes, str]]:
    yield "good", parquet(), KEPT
    yield "empty", b"", "cannot be read"
    yield "cut off", parquet()[:-9], "cannot be read"
    yield "magic alone", b"PAR1PAR1", "cannot be read"
    yield "one user", parquet(u=1), TOO_FEW
    yield "lists", parquet(u=pl.Series([[1]] * (USERS * ITEMS))), UNREADABLE
    yield "bytes that are no text", parquet(i=b"\xff"), TOO_FEW
    yield "times of day", parquet(t=datetime.time(1)), UNREADABLE
    yield "durations", parquet(t=datetime.timedelta(1)), UNREADABLE
    yield "no times", parquet(t=None), MALFORMED
    yield "far times", parquet(t=_times(pl.Datetime("ms"), 2**62)), UNREADABLE
    yield "far users", parquet(u=_times(pl.Datetime("ms"), 2**62)), UNREADABLE
    yield "nanoseconds", parquet(t=_times(pl.Datetime("ns", "Asia/Tokyo"), 2**62)), KEPT
    yield "decimals", parquet(t=_times(pl.Decimal(10, 2), 7)), KEPT
