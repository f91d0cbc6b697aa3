"""Times: what files write as whole numbers, and the one unit that a column of them has.

What belongs here: which texts are a time, the unit of numbers, what is refused as a mixture. What
does not: which column holds the times (`readers`), and the order that follows (`preprocess`).

* **Numbers** count from 1970-01-01 UTC. Their unit is found by their size: from 10⁸ up they are
  seconds, from 10¹¹ milliseconds, from 10¹⁴ microseconds, from 10¹⁷ nanoseconds (each from 1973
  on). Smaller ones fit every unit, and where there are no others they are taken as seconds. Where
  every number of a column reads as a calendar date, such as 20200915 or 20200915133151, it is one;
  a column that is mostly such dates, or has them in two forms, is refused.
  With fractions a column of seconds becomes microseconds, one of milliseconds nanoseconds.
* **Text** is ISO 8601 and what pandas, Polars, Postgres, BigQuery and Spark make of it: date, or
  date and time, with blank or T, with or without seconds and fraction, with or without a zone (Z,
  UTC, +02, +02:00, +0200), extended or basic. It becomes microseconds; without a zone it is UTC. A
  year has four digits: which part of 15/09/20 is the year cannot be told.
* **One column, one kind.** Numbers beside text, times with a zone beside times without one, and
  numbers of two units cannot be put into one order: `settled` refuses them.
"""

import datetime
from dataclasses import dataclass

import numpy as np
import polars as pl

from fparec_pipeline.datasets.sources import RawDataError

# How a value was written. The order of NUMBERS and TEXTS is that of the codes in a column `kind`.
WHOLE, FRACTIONAL, PLAIN, ZONED = range(4)
KINDS = (
    "whole numbers",
    "numbers with fractions",
    "dates and times without a zone, taken as UTC",
    "dates and times with a zone",
)
STRUCT = pl.Struct({"time": pl.Int64, "kind": pl.UInt8})

# Unit -> ticks a second, and the least number that is of this unit rather than of the one before.
TICKS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
LEAST = {"s": 10**8, "ms": 10**11, "us": 10**14, "ns": 10**17}
WORDS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
MICRO = 10**6
LARGEST_WITH_FRACTION = 9e12  # times MICRO it still is an Int64; larger ones lose their fraction
CALENDAR = (  # first, last, what goes behind, the format of all that; as times they are after 2032
    (19700101, 21001231, "", "%Y%m%d"),
    (1970010100, 2100123123, "00", "%Y%m%d%H%M"),
    (197001010000, 210012312359, "", "%Y%m%d%H%M"),
    (19700101000000, 21001231235959, "", "%Y%m%d%H%M%S"),
    (19700101000000000, 21001231235959999, "", "%Y%m%d%H%M%S%3f"),
)
DAY_S = 86_400

YEAR = r"^\d{4}"  # chrono's %Y takes fewer digits too
YEAR_1000 = (datetime.date(1000, 1, 1) - datetime.date(1970, 1, 1)).days * DAY_S * MICRO
UTC_WORDS = ("UTC", "utc", "GMT", "z")
ZONES = ("%z", "%:z", "%::z", "%#z", "%+")
FORMS = (  # once T is a blank, a comma a point, a slash a hyphen and a word for UTC is Z
    ("%Y-%m-%d %H:%M:%S%.f", PLAIN),
    ("%Y-%m-%d %H:%M:%S%.f%#z", ZONED),
    ("%Y-%m-%d %H:%M", PLAIN),
    ("%Y-%m-%d %H:%M%#z", ZONED),
    ("%Y-%m-%d", PLAIN),
    ("%Y%m%d %H%M%S%.f", PLAIN),
    ("%Y%m%d %H%M%S%.f%#z", ZONED),
    ("%Y%m%d %H%M", PLAIN),
    ("%Y%m%d %H%M%#z", ZONED),
)


class MixedTimes(ValueError):
    """A column of times that has no one kind or unit; `first` and `second` are places of it."""

    def __init__(self, words: str, first: int, second: int) -> None:
        super().__init__(words)
        self.first, self.second = first, second


@dataclass(frozen=True)
class Unit:
    """What the times of a column are."""

    name: str  # a key of TICKS
    written: str  # of KINDS, or what else they were

    @property
    def day(self) -> int:
        """Ticks of a day."""
        return DAY_S * TICKS[self.name]

    @property
    def words(self) -> str:
        """What the times are, for people."""
        if self.written in (KINDS[WHOLE], KINDS[FRACTIONAL]):
            return f"{self.written}, in {WORDS[self.name]} since 1970"
        return self.written

    def moment(self, time: int) -> str:
        """`time` as an ISO date and time in UTC, or as the number where the calendar has none."""
        try:
            whole = datetime.timedelta(seconds=time // TICKS[self.name])
            return (datetime.datetime(1970, 1, 1) + whole).isoformat(" ") + " UTC"
        except OverflowError:
            return f"{time} {self.name}"


def understood(text: pl.Expr, time_format: str | None = None) -> pl.Expr:
    """Texts as structs of `time` (Int64) and `kind`, both null for what is no time.

    Numbers are as they stand, those with a fraction times 10⁶; text is microseconds since 1970 UTC.

    Args:
        text: String.
        time_format: of strptime; then nothing else is a time.

    Raises:
        RawDataError: no text can be read in that form.
    """
    if time_format is None:
        return text.map_batches(_of_any_form, return_dtype=STRUCT, is_elementwise=True)
    body, form = text.str.strip_chars(), time_format.replace(".%f", "%.f")  # Python's, as chrono's
    if ("%H" in form or "%I" in form) and "%M" not in form:  # which Polars needs
        body, form = body + ":00", form + ":%M"
    moment = pl.coalesce(
        body.str.to_datetime(form, time_unit="us", strict=False).dt.epoch("us"),
        body.str.to_date(form, strict=False).cast(pl.Datetime("us")).dt.epoch("us"),
    )
    moment = pl.when(moment >= YEAR_1000).then(moment)  # of 01.12.19 %Y makes the year 19
    try:
        pl.Series([""]).str.to_datetime(form, time_unit="us", strict=False)
        pl.Series([""]).str.to_date(form, strict=False)
    except pl.exceptions.PolarsError as error:
        raise RawDataError(
            f"time_format {time_format!r} cannot be read: {str(error).partition(chr(10))[0]} "
            "Correct it in datasets.toml."
        ) from error
    return _struct(moment, pl.lit(ZONED if any(zone in form for zone in ZONES) else PLAIN))


def _struct(time: pl.Expr, kind: pl.Expr) -> pl.Expr:
    known = pl.when(time.is_not_null()).then(kind)
    return pl.struct(time.cast(pl.Int64).alias("time"), known.cast(pl.UInt8).alias("kind"))


def _of_any_form(times: pl.Series) -> pl.Series:
    """A batch of texts. Most files have whole numbers throughout: then nothing else is tried."""
    text = pl.col("text")
    read = times.to_frame("text").select(_struct(text.cast(pl.Int64, strict=False), pl.lit(WHOLE)))
    columns = read.unnest("time").get_columns()
    for way in (_number, _common_text, _text):
        left = (columns[0].is_null() & times.is_not_null()).arg_true()
        if not left.len():
            break
        texts = times.gather(left).str.strip_chars()
        found = texts.to_frame("text").select(way(texts)).unnest("time").get_columns()
        columns = [old.scatter(left, new) for old, new in zip(columns, found, strict=True)]
    return pl.DataFrame(columns).to_struct(times.name)


def _number(texts: pl.Series) -> pl.Expr:
    """Numbers with a point or an exponent; whole ones among them stay whole."""
    text, number = pl.col("text"), pl.col("text").cast(pl.Float64, strict=False)
    number = pl.when(number.is_finite()).then(number)
    large = number.abs() >= LARGEST_WITH_FRACTION
    is_whole = (number == number.floor()) | large
    whole = number.floor().cast(pl.Int64, strict=False)
    exact = text.cast(pl.Int64, strict=False)  # what a blank beside it has hidden
    micro = (number * MICRO).round().cast(pl.Int64, strict=False)
    kind = pl.when(is_whole).then(pl.lit(WHOLE)).otherwise(pl.lit(FRACTIONAL))
    return _struct(pl.coalesce(exact, pl.when(is_whole).then(whole).otherwise(micro)), kind)


def _common_text(texts: pl.Series) -> pl.Expr:
    """Dates and times in the form that most programs write, which is the quickest to read."""
    between = "T" if str(texts.first())[10:11] == "T" else " "
    form = f"%Y-%m-%d{between}%H:%M:%S%.f"
    text = pl.when(pl.col("text").str.contains(YEAR)).then("text")
    moment = text.str.to_datetime(form, time_unit="us", strict=False)
    return _struct(moment.dt.epoch("us"), pl.lit(PLAIN))


def _text(texts: pl.Series) -> pl.Expr:
    """Every other form, one after the other, each tried on what is left."""
    body = pl.col("text")
    for word in UTC_WORDS:
        ends = body.str.ends_with(word)
        body = pl.when(ends).then(body.str.strip_suffix(word) + "Z").otherwise(body)
    for old, new in (("T", " "), ("t", " "), (",", "."), ("/", "-"), ("/", "-")):
        body = body.str.replace(old, new, literal=True)
    body = pl.when(body.str.contains(YEAR)).then(body)
    left = texts.to_frame("text").select(body.alias("text")).with_row_index("place")
    found = []
    for form, kind in FORMS:
        moment = pl.col("text")
        if "%H" in form:
            moment = moment.str.to_datetime(form, time_unit="us", strict=False)
        else:
            moment = moment.str.to_date(form, strict=False).cast(pl.Datetime("us"))
        tried = left.with_columns(_struct(moment.dt.epoch("us"), pl.lit(kind)))
        unread = pl.col("time").struct.field("time").is_null()
        found.append(tried.filter(~unread))
        left = left.filter(tried.select(unread).to_series())
        if not left.height:
            break
    left = left.with_columns(_struct(pl.lit(None, pl.Int64), pl.lit(PLAIN)))
    return pl.lit(pl.concat([*found, left]).sort("place")["time"])


def settled(times: pl.Series, kinds: pl.Series, unit: str | None) -> tuple[pl.Series, Unit]:
    """The times of a column in one unit, and that unit.

    Args:
        times: Int64, as `understood` gives them, without nulls.
        kinds: UInt8, likewise.
        unit: of numbers, where it is known: then it is not looked for.

    Raises:
        MixedTimes: the values are of two kinds, or of two units.
    """
    present = set(kinds.unique().to_list())
    if present <= {WHOLE, FRACTIONAL}:
        return _numbers(times, kinds, unit)
    if len(present - {WHOLE, FRACTIONAL}) + bool(present & {WHOLE, FRACTIONAL}) > 1:
        first = int(kinds[0])
        same = {WHOLE, FRACTIONAL} if first in (WHOLE, FRACTIONAL) else {first}
        other = int((~kinds.is_in(list(same))).arg_true()[0])
        raise MixedTimes(f"{KINDS[first]} and {KINDS[int(kinds[other])]}", 0, other)
    return times, Unit("us", KINDS[present.pop()])


def _numbers(times: pl.Series, kinds: pl.Series, unit: str | None) -> tuple[pl.Series, Unit]:
    fractions = (kinds == FRACTIONAL).to_numpy()
    has_fractions = bool(fractions.any())
    if unit is None and not has_fractions and (dates := _calendar(times)) is not None:
        return dates, Unit("us", "dates written as numbers, taken as UTC")
    values = times.to_numpy()
    if has_fractions:
        values = np.where(fractions, values // MICRO, values)
    name = unit or _unit_by_size(values)
    written = KINDS[FRACTIONAL if has_fractions else WHOLE]
    if not has_fractions:
        return times, Unit(name, written)
    if name in ("us", "ns"):  # a fraction of these is none that a clock has measured
        return pl.Series(times.name, values), Unit(name, written)
    scaled = np.where(fractions, times.to_numpy(), values * MICRO)
    return pl.Series(times.name, scaled), Unit({"s": "us", "ms": "ns"}[name], written)


def _unit_by_size(values: np.ndarray) -> str:
    """The unit of the largest number, when no other is of a smaller unit."""
    if not len(values):
        return "s"
    most, least = int(values.argmax()), int(values.argmin())
    largest = most if int(values[most]) >= -int(values[least]) else least
    size = abs(int(values[largest]))
    name = [unit for unit, from_ in LEAST.items() if unit == "s" or size >= from_][-1]
    positive = (values >= LEAST["s"]) & (values < LEAST[name])
    negative = (values <= -LEAST["s"]) & (values > -LEAST[name])
    smaller = np.flatnonzero(positive | negative)
    if len(smaller):
        other = int(smaller[0])
        odd = [unit for unit, from_ in LEAST.items() if abs(int(values[other])) >= from_][-1]
        raise MixedTimes(f"{WORDS[name]} and {WORDS[odd]}", largest, other)
    return name


def _calendar(times: pl.Series) -> pl.Series | None:
    """Numbers such as 20200915 as microseconds since 1970 UTC, when each of them is a date.

    Raises:
        MixedTimes: most of them are, or they are dates in two forms.
    """
    found = []
    for first, last, behind, form in CALENDAR:
        within = times.is_between(first, last)
        if within.any():
            text = times.set(~within, None).cast(pl.String) + behind
            kind = text.str.to_datetime(form, time_unit="us", strict=False) if "%H" in form else (
                text.str.to_date(form, strict=False).cast(pl.Datetime("us"))
            )  # fmt: skip
            found.append(kind.dt.epoch("us"))
    dates = sum(len(kind) - kind.null_count() for kind in found)
    if dates <= len(times) // 2:
        return None
    best = max(found, key=lambda kind: len(kind) - kind.null_count())
    if not best.null_count():
        return best
    other = int(best.is_null().arg_true()[0])
    raise MixedTimes(
        "dates written as numbers and other numbers", int(best.is_not_null().arg_true()[0]), other
    )
