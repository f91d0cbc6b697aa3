"""Files as programs and people write them: each is read rightly, or refused in one line.

Each test stands for a kind of file that some tool has read wrongly or has not read at all. The log
is small and its right reading is known, so that every other form of it can be compared with it.
"""

import bz2
import csv
import datetime
import decimal
import gzip
import io
import lzma
import random
import uuid
import zipfile

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading import collected

from fparec_pipeline.config import Dataset, source_of
from fparec_pipeline.datasets.audit import sentences
from fparec_pipeline.datasets.checks import check_splits
from fparec_pipeline.datasets.files import DatasetError
from fparec_pipeline.datasets.notes import notes
from fparec_pipeline.datasets.splits import make_splits, read_splits
from fparec_pipeline.datasets.times import KINDS, PLAIN, WHOLE, ZONED
from fparec_pipeline.training.sequential import audit_of

NAMES = {"user": "user_id", "item": "item_id", "time": "ts"}
SOURCE = source_of(reader="csv", address="log.csv", **NAMES)
START = 1_600_000_000  # 2020-09-13 12:26:40 UTC


def log(users=12, items=9, per_user=7):
    """(user, item, second) rows in no order of time; no two of a user's tie."""
    draw = random.Random(0)
    rows = [
        (f"u{u}", f"i{i}", START + draw.randrange(10_000) * 60)
        for u in range(users)
        for i in draw.sample(range(items), per_user)
    ]
    draw.shuffle(rows)
    return rows


LOG = log()


def text_of(rows, time=str, separator=",", header=("user_id", "item_id", "ts")):
    lines = [separator.join(header), *(separator.join((u, i, time(t))) for u, i, t in rows)]
    return "\n".join(lines) + "\n"


def read(path, reader="csv", **keys):
    source = source_of(reader=reader, address=str(path), **(NAMES | keys))
    return collected(path, source, path.parent / "quarantine.parquet")


def written(tmp_path, content, name="log.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def in_order(found):
    """User -> items, in the order of time."""
    table = found.table.with_columns(pl.col("user", "item").cast(pl.String)).sort("time")
    return {user: rows["item"].to_list() for (user,), rows in table.group_by("user")}


RIGHT = {
    user: [i for u, i, _ in sorted(LOG, key=lambda row: row[2]) if u == user]
    for user in {u for u, _, _ in LOG}
}


def moment(second, form):
    return datetime.datetime.fromtimestamp(second, datetime.UTC).strftime(form)


# --- columns and quotes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["row", "record", "time", "kind", "problem", "excess", "c0", "0", "nothing", "file"]
)
def test_no_name_of_a_column_collides_with_ours(name, tmp_path):
    header = (name, "user_id", "item_id", "ts")
    rows = [(str(n), *row) for n, row in enumerate(LOG)]
    lines = [",".join(header), *(",".join(map(str, row)) for row in rows)]
    found = read(written(tmp_path, "\n".join(lines)))
    assert in_order(found) == RIGHT
    as_item = read(written(tmp_path, text_of(LOG, header=("user_id", name, "ts"))), item=name)
    assert in_order(as_item) == RIGHT
    users, items, times = zip(*LOG, strict=True)
    frame = pl.DataFrame({name: items, "user_id": users, "ts": times})
    frame.write_parquet(tmp_path / "log.parquet")
    assert in_order(read(tmp_path / "log.parquet", "parquet", item=name)) == RIGHT


def titled(title, place=5, also=(), at=3, separator="\t"):
    """The log with a column of titles in place `at`; `also`: titles of more rows."""
    titles = {place: title, **dict(also)}
    lines = [["user_id", "item_id", "ts"], *([u, i, str(t)] for u, i, t in LOG)]
    for n, line in enumerate(lines):
        line.insert(at, "title" if n == 0 else titles.get(n, "plain"))
    return "".join(separator.join(line) + "\n" for line in lines)


@pytest.mark.parametrize("at", [0, 1, 3])
@pytest.mark.parametrize(
    ("title", "also"),
    [
        ('"12 inch screen', ((14, 'pad 9"'),)),  # opened here, closed nine rows later
        ('"12 inch', ((6, 'pad 9"'),)),  # in the next row
        ('"12 inch', ((6, '"9 inch'),)),
        ('"never closed', ()),
        ('12" screen', ()),
        ('"Heroes" DVD', ()),
        ('"Heroes" and "Villains"', ()),
        ('"said ""no"" twice"', ()),
    ],
)
def test_quotes_in_a_column_that_is_not_asked_for_lose_no_row(title, also, at, tmp_path):
    path = written(tmp_path, titled(title, also=also, at=at))
    found = read(path, separator="\t")
    assert (found.rows, found.set_aside) == (len(LOG), 0)
    assert in_order(found) == RIGHT
    assert in_order(read(path, separator="\t", quote="")) == RIGHT


@pytest.mark.parametrize("title", ["two\nlines", 'a "quoted" word\n\nand, a comma', "a,b\r\nc,d,e"])
def test_a_quoted_field_may_hold_line_breaks(title, tmp_path):
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["user_id", "title", "item_id", "ts", "note"])
    for n, (u, i, t) in enumerate(LOG):
        odd = n % 7 == 0
        writer.writerow([u, title if odd else "plain", i, t, title if odd else "x"])
    found = read(written(tmp_path, file.getvalue()))
    assert (found.rows, found.set_aside) == (len(LOG), 0)
    assert in_order(found) == RIGHT


def test_a_quote_that_opens_in_a_column_that_is_asked_for_is_refused_with_its_row(tmp_path):
    lines = text_of(LOG).splitlines(keepends=True)
    lines[5] = '"' + lines[5]
    with pytest.raises(DatasetError, match=r"shop: .*row 6 of log\.csv.*quote.*`quote`"):
        read(written(tmp_path, "".join(lines)))


def test_fields_are_what_python_reads_where_all_are_quoted(tmp_path):
    file = io.StringIO(newline="")
    writer = csv.writer(file, quoting=csv.QUOTE_ALL)
    names = {u: f'{u}, the "best"' for u, _, _ in LOG}
    writer.writerows([("user_id", "item_id", "ts"), *((names[u], i, t) for u, i, t in LOG)])
    found = read(written(tmp_path, file.getvalue()))
    assert in_order(found) == {names[user]: items for user, items in RIGHT.items()}


# --- files: packed, encoded, many ---------------------------------------------------------------


def in_zip(content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("__MACOSX/._log.csv", b"\x00")
        archive.writestr("export/log.csv", content)
    return file.getvalue()


def in_zstd(content):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, in_zip, in_zstd])
def test_a_packed_file_is_read_whatever_its_name(pack, tmp_path):
    path = written(tmp_path, pack(text_of(LOG).encode()), "log.csv")
    assert in_order(read(path)) == RIGHT


def test_a_log_that_packs_110_to_1_is_no_bomb(tmp_path):
    rows = "".join(f"{u},{i},{t},{'same ' * 400}\n" for u, i, t in LOG)
    packed = gzip.compress(b"user_id,item_id,ts,note\n" + rows.encode(), 9)
    assert len(rows) > 50 * len(packed)
    assert in_order(read(written(tmp_path, packed, "log.csv.gz"))) == RIGHT


def test_what_an_archive_may_unpack_to_is_a_key(tmp_path):
    path = written(tmp_path, gzip.compress(text_of(LOG).encode()))
    with pytest.raises(DatasetError, match=r"unpacks to more than 100 bytes.*`unpacked_bytes`"):
        read(path, unpacked_bytes=100)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"PAR1", 'reader = "parquet"'),
        (b"7z\xbc\xaf\x27\x1c", "7z archive"),
        (b"SQLite format 3\x00", "SQLite"),
        (b"\xd0\xcf\x11\xe0", "Excel"),
        (bytes(257) + b"ustar", "tar archive"),
    ],
)
def test_a_file_of_another_kind_is_named(start, words, tmp_path):
    with pytest.raises(DatasetError, match=words) as caught:
        read(written(tmp_path, start + bytes(600)))
    assert "\x00" not in str(caught.value)
    assert "Delete it" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-8-sig", "shift-jis"])
def test_text_of_another_encoding_is_read_by_key(encoding, tmp_path):
    name = "ソ" if encoding == "shift-jis" else "é"
    rows = [(u + name, i, t) for u, i, t in LOG]
    path = written(tmp_path, text_of(rows).encode(encoding))
    found = read(path, encoding=encoding)
    assert in_order(found) == {user + name: items for user, items in RIGHT.items()}


def test_bytes_that_are_no_text_matter_only_where_they_are_asked_for(tmp_path):
    path = written(tmp_path, titled("caf@").encode().replace(b"@", b"\xe9"))
    assert in_order(read(path, separator="\t")) == RIGHT
    path = written(tmp_path, text_of(LOG).encode().replace(b"u3", b"u\xe9"))
    with pytest.raises(DatasetError, match=r"no UTF-8.*`encoding`"):
        read(path)


@pytest.mark.parametrize("separator", ["::", ";", "\t", "|", " | ", "§"])
def test_a_separator_may_be_any_text(separator, tmp_path):
    path = written(tmp_path, text_of(LOG, separator=separator))
    assert in_order(read(path, separator=separator)) == RIGHT


def test_a_file_without_a_header_has_its_columns_named(tmp_path):
    path = written(tmp_path, text_of(LOG).partition("\n")[2])
    with pytest.raises(DatasetError, match=r"has no column user_id.*`columns`"):
        read(path)
    assert in_order(read(path, columns=["user_id", "item_id", "ts"])) == RIGHT


def test_line_ends_of_any_kind_are_read(tmp_path):
    for end in ("\r\n", "\r"):
        assert in_order(read(written(tmp_path, text_of(LOG).replace("\n", end)))) == RIGHT


def test_a_folder_and_a_pattern_are_one_table(tmp_path):
    folder = tmp_path / "days"
    folder.mkdir()
    (folder / "_SUCCESS").touch()
    (folder / ".hidden").write_text("x")
    (folder / "a.csv").write_text(text_of(LOG[:30]))
    swapped = "ts,item_id,user_id\n" + "".join(f"{t},{i},{u}\n" for u, i, t in LOG[30:])
    (folder / "b.csv").write_bytes(gzip.compress(swapped.encode()))
    assert in_order(read(folder)) == RIGHT
    assert in_order(read(tmp_path / "days" / "*.csv")) == RIGHT
    (folder / "c.csv").write_text("user_id,item,ts\n")
    with pytest.raises(DatasetError, match=r"c\.csv has no column item_id"):
        read(folder)


def test_hive_partitions_are_columns(tmp_path):
    days = {}
    for u, i, t in LOG:
        days.setdefault(moment(t, "%Y-%m-%d"), []).append((u, i))
    for day, rows in days.items():
        part = tmp_path / "orders" / f"day={day}" / "part-0.parquet"
        part.parent.mkdir(parents=True)
        users, items = zip(*rows, strict=True)
        pl.DataFrame({"user_id": users, "item_id": items}).write_parquet(part)
    found = read(tmp_path / "orders", "parquet", time="day")
    by_day = sorted(LOG, key=lambda row: moment(row[2], "%Y-%m-%d"))
    assert found.table.height == len(LOG)
    assert found.table["time"].n_unique() == len(days)
    first = found.unit.moment(found.span[0])
    assert first.startswith(moment(by_day[0][2], "%Y-%m-%d"))


def test_linked_folders_and_partitions_with_an_underscore_are_read_and_empty_files_are_not(
    tmp_path,
):
    folder, elsewhere = tmp_path / "days", tmp_path / "elsewhere"
    for place in (folder / "_day=1", elsewhere):
        place.mkdir(parents=True)
    (folder / "_day=1" / "a.csv").write_text(text_of(LOG[:30]))
    (elsewhere / "b.csv").write_text(text_of(LOG[30:]))
    (folder / "linked").symlink_to(elsewhere)
    (folder / "again").symlink_to(folder)  # a loop
    (folder / "part-1.csv").touch()
    assert in_order(read(folder)) == RIGHT


@pytest.mark.parametrize(("inside", "name"), [("_delta_log", "Delta"), (".hoodie", "Hudi")])
def test_a_table_format_that_keeps_dead_files_is_refused(inside, name, tmp_path):
    (tmp_path / "orders" / inside).mkdir(parents=True)
    (tmp_path / "orders" / "a.csv").write_text(text_of(LOG))
    for address in ("orders", "orders/*.csv", "*/*.csv"):
        with pytest.raises(DatasetError, match=f"is a {name} table.*Export"):
            read(tmp_path / address)


def test_a_pattern_that_is_none_is_refused_by_name(tmp_path):
    with pytest.raises(DatasetError, match=r"\*\*\.csv is no pattern.*Correct `address`"):
        read(tmp_path / "**.csv")


def test_a_header_may_begin_like_another_kind_of_file(tmp_path):
    for name in ("ORCID", "BZhash"):
        path = written(tmp_path, text_of(LOG, header=(name, "item_id", "ts")))
        assert in_order(read(path, user=name)) == RIGHT


def test_blanks_beside_the_names_of_columns_are_none_of_them(tmp_path):
    path = written(tmp_path, text_of(LOG, header=("user_id", " item_id", " ts")))
    assert in_order(read(path)) == RIGHT
    assert in_order(read(path, item=" item_id")) == RIGHT


def test_a_replacement_character_that_the_file_means_is_text(tmp_path):
    rows = [(u, f"{i}\ufffd", t) for u, i, t in LOG]
    for content in (text_of(rows).encode(), text_of(rows).encode("utf-16")):
        found = read(written(tmp_path, gzip.compress(content), "log.csv.gz"))
        assert found.table.height == len(LOG)
    broken = text_of(LOG).encode() + b"u\xff,i1,1600000000\n"
    with pytest.raises(DatasetError, match="no UTF-8"):
        read(written(tmp_path, gzip.compress(broken), "log.csv.gz"))


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_quotes_that_are_escaped_as_spark_does_are_read(piece, tmp_path, monkeypatch):
    monkeypatch.setattr("fparec_pipeline.datasets.unpacking.PIECE", piece)
    titles = (r'"say \"hi\", ok"', r'"12\" screen, black"', r'"ends with \\"', "plain", r'"\"\\\""')
    lines = [f"{u},{titles[n % 5]},{i},{t}" for n, (u, i, t) in enumerate(LOG)]
    path = written(tmp_path, "\n".join(["user_id,title,item_id,ts", *lines]))
    assert in_order(read(path, escape="\\")) == RIGHT
    with pytest.raises(DatasetError, match="`escape`"):
        read(path)


def test_an_identifier_loses_its_escapes(tmp_path):
    path = written(tmp_path, 'user_id,item_id,ts\n"a\\"b","c\\\\",1600000000\n')
    assert read(path, escape="\\").table.cast(pl.String).row(0)[:2] == ('a"b', "c\\")


# --- times --------------------------------------------------------------------------------------

WRITTEN = {
    "pandas": ("%Y-%m-%d %H:%M:%S", PLAIN),
    "pandas, with a zone": ("%Y-%m-%d %H:%M:%S+00:00", ZONED),
    "Polars": ("%Y-%m-%dT%H:%M:%S.000000", PLAIN),
    "Polars, with a zone": ("%Y-%m-%dT%H:%M:%S.000000+0000", ZONED),
    "Postgres": ("%Y-%m-%d %H:%M:%S+00", ZONED),
    "BigQuery": ("%Y-%m-%d %H:%M:%S UTC", ZONED),
    "Spark": ("%Y-%m-%dT%H:%M:%S.000Z", ZONED),
    "Snowflake": ("%Y-%m-%d %H:%M:%S.000 +0000", ZONED),
    "without seconds": ("%Y-%m-%d %H:%M", PLAIN),
    "with T, without seconds": ("%Y-%m-%dT%H:%MZ", ZONED),
    "basic": ("%Y%m%dT%H%M%SZ", ZONED),
    "slashes": ("%Y/%m/%d %H:%M:%S", PLAIN),
    "a comma before the fraction": ("%Y-%m-%d %H:%M:%S,250", PLAIN),
}


@pytest.mark.parametrize("writer", WRITTEN)
def test_what_programs_write_is_read(writer, tmp_path):
    form, kind = WRITTEN[writer]
    rows = [(u, i, t - t % 60) for u, i, t in LOG]
    path = written(tmp_path, text_of(rows, time=lambda t: moment(t, form), separator="\t"))
    found = read(path, separator="\t")
    assert (found.unit.name, found.unit.written) == ("us", KINDS[kind])
    assert found.span[0] // 10**6 == min(t for _, _, t in rows)
    assert in_order(found) == RIGHT


@pytest.mark.parametrize(("zone", "hours"), [("+02", 2), ("-0530", -5.5), ("+01:00", 1)])
def test_zones_are_taken_off(zone, hours, tmp_path):
    def local(t):
        return moment(t + int(hours * 3600), "%Y-%m-%d %H:%M:%S") + zone

    found = read(written(tmp_path, text_of(LOG, time=local)))
    assert found.span[0] == min(t for _, _, t in LOG) * 10**6
    assert in_order(found) == RIGHT


@pytest.mark.parametrize(("unit", "ticks"), [("s", 1), ("ms", 1000), ("us", 10**6), ("ns", 10**9)])
def test_the_unit_of_whole_numbers_is_found_and_used_by_the_date_range(unit, ticks, data, tmp_path):
    path = written(tmp_path, text_of(LOG, time=lambda t: str(t * ticks)))
    found = read(path)
    assert (found.unit.name, found.unit.written) == (unit, KINDS[WHOLE])
    assert found.unit.moment(found.span[0]) == f"{moment(min(r[2] for r in LOG), '%F %T')} UTC"
    keys = {"reader": "csv", "address": str(path), **NAMES}
    late = Dataset(core=1, sources={"s": source_of(**keys, from_date="2030-01-01")})
    with pytest.raises(DatasetError, match=r"no interaction lies between.*run from 2020-09-13"):
        make_splits("shop", late, path, data)
    early = Dataset(core=1, sources={"s": source_of(**keys, to_date="2030-01-01")})
    stats = make_splits("shop", early, path, data).stats
    assert stats["interactions"] == len(LOG)
    assert stats["time"]["unit"] == unit
    assert stats["time"]["first"].startswith("2020-09-13")


def test_the_unit_can_be_set(tmp_path):
    found = read(written(tmp_path, text_of(LOG)), time_unit="ms")
    assert found.unit.moment(found.span[0]).startswith("1970-01-19")


@pytest.mark.parametrize(
    ("form", "key"), [("%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M"), ("%b %d %Y, %I:%M %p",) * 2]
)
def test_a_format_can_be_set(form, key, tmp_path):
    rows = [(u, i, t - t % 60) for u, i, t in LOG]
    path = written(tmp_path, text_of(rows, time=lambda t: moment(t, form), separator=";"))
    with pytest.raises(DatasetError, match="`time_format`"):
        read(path, separator=";")
    assert in_order(read(path, separator=";", time_format=key)) == RIGHT


def test_fractions_of_seconds_are_kept(tmp_path):
    rows = [("a", "late", START + 0.75), ("a", "first", START + 0.25), ("a", "mid", START + 0.5)]
    found = read(written(tmp_path, text_of(rows, time=lambda t: f"{t}")))
    assert in_order(found) == {"a": ["first", "mid", "late"]}
    assert found.unit.name == "us"
    assert found.span == (START * 10**6 + 250_000, START * 10**6 + 750_000)


def test_numbers_that_are_dates_are_dates(tmp_path):
    for form in ("%Y%m%d%H%M%S", "%Y%m%d%H%M", "%Y%m%d"):
        found = read(written(tmp_path, text_of(LOG, time=lambda t, f=form: moment(t, f))))
        assert found.unit.moment(found.span[0]).startswith("2020-09-13")


ISO = "2020-09-15 13:31:51"
MIXED = {
    "ISO and epoch": ([ISO, "1600461943"], "dates and times without a zone.*whole numbers"),
    "seconds and milliseconds": (["1600461943", "1600461943000"], "seconds"),
    "milliseconds and microseconds": (["1600461943000", "1600461943000000"], "milliseconds"),
    "with and without a zone": ([ISO, ISO + "+02"], "with a zone"),
    "fractions and ISO": (["1600461943.5", ISO], "numbers with fractions"),
}


@pytest.mark.parametrize("case", MIXED)
def test_a_column_of_mixed_times_is_refused_with_an_example_of_each(case, tmp_path):
    values, words = MIXED[case]
    times = [values[n % 2] for n in range(len(LOG))]
    rows = [(u, i, t) for (u, i, _), t in zip(LOG, times, strict=True)]
    with pytest.raises(DatasetError, match=words) as caught:
        read(written(tmp_path, text_of(rows)))
    message = str(caught.value)
    for value in values:
        assert f"has {value!r}" in message
    assert "shop: " in message
    assert "the column ts mixes" in message


# --- identifiers --------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["NULL", "null", "None", "\\N", "<NA>", "NaN", "NA", "#N/A", ""])
def test_words_for_nothing_are_no_user(word, tmp_path):
    path = written(tmp_path, text_of([*LOG, *((word, f"i{n}", START + n) for n in range(9))]))
    found = read(path)
    assert (found.set_aside, found.problems) == (9, {"no user": 9})
    assert in_order(found) == RIGHT
    if word:
        assert word in in_order(read(path, null_values=[]))


def test_case_and_leading_zeros_are_kept_and_whole_floats_are_numbers(tmp_path):
    rows = [("007", "A", 1), ("7", "a", 2), ("07", "A", 3)]
    assert set(in_order(read(written(tmp_path, text_of(rows))))) == {"007", "7", "07"}
    rows = [("28.0", "1.5", 1), ("28", "x.0", 2), ("007", "2.0", 3)]
    found = in_order(read(written(tmp_path, text_of(rows))))
    assert found == {"28": ["1.5", "x.0"], "007": ["2.0"]}


IDS = [uuid.UUID(int=n * 7919 + (200 << 120)) for n in range(20)]
IDENTIFIERS = {
    "binary text": (pa.binary(), lambda n: f"i{n}".encode(), lambda n: f"i{n}"),
    "UUIDs": (pa.binary(16), lambda n: IDS[n].bytes, lambda n: str(IDS[n])),
    "other bytes": (pa.binary(), lambda n: b"\xff" + bytes([n]), lambda n: f"ff{n:02x}"),
    "floats": (pa.float64(), float, str),
    "decimals": (pa.decimal128(12, 2), decimal.Decimal, str),
    "dates": (
        pa.date32(),
        lambda n: datetime.date(2020, 1, 1 + n),
        lambda n: f"2020-01-{n + 1:02}",
    ),
    "large": (pa.uint64(), lambda n: 2**64 - 1 - n, lambda n: str(2**64 - 1 - n)),
}


def parquet(tmp_path, items, times=None, users=None):
    times = pa.array([t for _, _, t in LOG]) if times is None else times
    users = pa.array([u for u, _, _ in LOG]) if users is None else users
    pq.write_table(pa.table({"user_id": users, "item_id": items, "ts": times}), tmp_path / "p")
    return read(tmp_path / "p", "parquet")


@pytest.mark.parametrize("kind", IDENTIFIERS)
def test_parquet_of_every_type_that_identifies(kind, tmp_path):
    dtype, value, text = IDENTIFIERS[kind]
    numbers = [int(i[1:]) for _, i, _ in LOG]
    items = pa.array([value(n) for n in numbers], dtype)
    found = parquet(tmp_path, items, users=pa.array([u for u, _, _ in LOG]).dictionary_encode())
    expected = {user: [text(int(i[1:])) for i in items] for user, items in RIGHT.items()}
    assert in_order(found) == expected
    with_null = pa.array([None, *(value(n) for n in numbers[1:])], dtype)
    assert parquet(tmp_path, with_null).problems == {"no item": 1}


@pytest.mark.parametrize(
    ("values", "words"),
    [(pa.array([[1]] * len(LOG)), r"item_id is of the type List"),
     (pa.array([{"a": 1}] * len(LOG)), r"item_id is of the type Struct")],
)  # fmt: skip
def test_lists_are_refused_by_the_columns_name(values, words, tmp_path):
    with pytest.raises(DatasetError, match=words):
        parquet(tmp_path, values)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (pa.int64(), lambda t: t),
        (pa.float64(), lambda t: t + 0.25),
        (pa.decimal128(16, 2), lambda t: decimal.Decimal(t)),
        (pa.timestamp("ms"), lambda t: t * 1000),
        (pa.timestamp("ns", "Asia/Tokyo"), lambda t: t * 10**9),
        (pa.string(), lambda t: moment(t, "%Y-%m-%d %H:%M:%S+00")),
        (pa.string(), str),
    ],
)
def test_parquet_of_every_type_that_is_a_time(dtype, value, tmp_path):
    found = parquet(
        tmp_path, pa.array([i for _, i, _ in LOG]), pa.array([value(t) for _, _, t in LOG], dtype)
    )
    assert in_order(found) == RIGHT
    assert found.unit.moment(found.span[0]).startswith("2020-09-13")


# --- repetitions, messages ----------------------------------------------------------------------


def made(data, path, core=1, **keys):
    source = source_of(reader="csv", address=str(path), **NAMES, **keys)
    data.root.mkdir(parents=True, exist_ok=True)
    return make_splits("shop", Dataset(core=core, sources={"s": source}), path, data)


def test_rows_that_were_joined_twice_are_counted_and_can_be_dropped(data, tmp_path):
    path = written(tmp_path, text_of(LOG * 2))
    stats = made(data, path).stats
    assert stats["duplicate_interactions"] == len(LOG)
    assert stats["consecutive_repeats"] == len(LOG)
    once = made(data, path, drop_duplicates=True).stats
    assert once["dropped_duplicates"] == len(LOG)
    assert once["data_hash"] == made(data, written(tmp_path, text_of(LOG))).stats["data_hash"]


def test_the_checks_warn_of_repetitions(data, tmp_path):
    path = written(tmp_path, text_of(LOG * 2))
    made(data, path)
    folder = data.splits("shop")
    [found] = [r for r in check_splits(folder, Dataset(core=1, sources={"s": SOURCE}))
               if r.name == "few_repetitions"]  # fmt: skip
    assert (found.passed, found.severity) == (False, "warning")
    assert found.details["duplicates"] == len(LOG)
    assert "drop_duplicates" in found.message
    [note] = notes(read_splits(folder).stats, tmp_path)
    assert f"{len(LOG)} of {2 * len(LOG)} interactions repeat another" in note
    made(data, path, drop_duplicates=True)
    results = check_splits(folder, Dataset(core=1, sources={"s": SOURCE}))
    assert all(result.passed for result in results)
    assert notes(read_splits(folder).stats, tmp_path) == []


def test_an_item_that_follows_itself_is_counted_and_can_be_dropped(data, tmp_path):
    rows = [(u, i, 60 * n + k) for u in "ab" for n, i in enumerate("xyzw") for k in range(3)]
    path = written(tmp_path, text_of(rows))
    stats = made(data, path).stats
    assert (stats["consecutive_repeats"], stats["duplicate_interactions"]) == (16, 0)
    fewer = made(data, path, drop_consecutive_repeats=True).stats
    assert (fewer["interactions"], fewer["dropped_consecutive_repeats"]) == (8, 16)


def test_ties_are_counted(data, tmp_path):
    rows = [(u, i, n // 2) for u in "ab" for n, i in enumerate("xyzwv")]
    stats = made(data, written(tmp_path, text_of(rows))).stats
    assert (stats["tied_interactions"], stats["duplicate_interactions"]) == (8, 0)


def test_a_file_sorted_by_item_is_noticed_and_its_ties_can_be_shuffled(data, tmp_path):
    draw = random.Random(0)
    rows = [(f"u{u}", i, t) for u in range(40) for t in range(3)
            for i in sorted(draw.sample("abcdefgh", 3))]  # fmt: skip
    path = written(tmp_path, text_of(rows))
    told = {}
    for shuffle in (False, True):
        made(data, path, shuffle_ties=shuffle)
        told[shuffle] = dict(sentences(audit_of(data.splits("shop"))))["ties"]
    assert "100% are in the same order" in told[False]
    assert "shuffle_ties = true in datasets.toml" in told[False]
    assert "shuffle_ties" not in told[True]


def test_a_users_only_copy_is_never_to_be_deleted(tmp_path):
    whole = gzip.compress(text_of(LOG).encode())
    for content in (whole[:-20], b"\xff\xfe" + bytes(9), b"", bytes(range(256))):
        with pytest.raises(DatasetError) as caught:
            read(written(tmp_path, content))
        assert "elete" not in str(caught.value)
        assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("form", ["%d/%m/%y", "%y-%m-%d", "%d-%m-%y %H:%M:%S", "%d/%m/%y %H:%M"])
def test_which_part_of_a_short_date_is_the_year_is_not_guessed(form, tmp_path):
    path = written(tmp_path, text_of(LOG, time=lambda t: moment(t, form)))
    with pytest.raises(DatasetError, match="`time_format`"):
        read(path)
    found = read(path, time_format=form)
    assert found.unit.moment(found.span[0]).startswith("2020-09-")


@pytest.mark.parametrize("form", ["%d.%m.%{} %H:%M", "%{}-%m-%d"])
def test_a_short_year_is_no_long_one(form, tmp_path):
    path = written(tmp_path, text_of(LOG, time=lambda t: moment(t, form.format("y"))))
    with pytest.raises(DatasetError, match="not as `time_format` says"):
        read(path, time_format=form.format("Y"))


@pytest.mark.parametrize("form", ["%Y-%m-%d %H:%M:%S.%f", "%s.%f"])
def test_pythons_fractions_are_kept(form, tmp_path):
    rows = [(u, i, n) for n, (u, i, _) in enumerate(LOG)]
    path = written(
        tmp_path,
        text_of(rows, time=lambda n: moment(START, form.replace("%f", f"{n:06}"))),
    )
    found = read(path, time_format=form)
    assert found.table["time"].n_unique() == len(LOG)


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("%Y-%m-%d %H:%M:%S %Z", "%Z is passed over"),
        ("%H:%M:%S", "no year or no day"),
        ("%m-%d %H:%M", "no year or no day"),
        ("%Y-%m-%d %H:%M:%S%f", "with its point"),
    ],
)
def test_a_form_that_loses_a_part_of_the_time_is_refused(form, words):
    with pytest.raises(ValueError, match=words):
        source_of(reader="csv", address="log.csv", **NAMES, time_format=form)


@pytest.mark.parametrize("form", ["%Y-%m-%d %H", "%Y%m%d%H", "%m/%d/%Y %I %p"])
def test_hours_without_minutes_are_read(form, tmp_path):
    path = written(tmp_path, text_of(LOG, time=lambda t: moment(t, form)))
    found = read(path, time_format=form)
    assert found.unit.moment(found.span[0]).endswith(":00:00 UTC")
    assert found.table["time"].n_unique() == len({t // 3600 for _, _, t in LOG})


def test_a_form_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DatasetError, match="time_format '%Y-%m-%d %I:%M' cannot be read"):
        read(written(tmp_path, text_of(LOG)), time_format="%Y-%m-%d %I:%M")


def test_whole_numbers_of_parquet_have_the_form_that_is_given(tmp_path):
    users, items, times = zip(*LOG, strict=True)
    days = [int(moment(t, "%d%m%Y")) for t in times]
    frame = pl.DataFrame({"user_id": users, "item_id": items, "ts": days})
    frame.write_parquet(tmp_path / "log.parquet")
    found = read(tmp_path / "log.parquet", "parquet", time_format="%d%m%Y")
    assert found.unit.moment(found.span[0]).startswith(moment(min(times), "%Y-%m-%d"))


@pytest.mark.parametrize("form", ["%Y%m%d%H", "%Y%m%d%H%M%S123"])
def test_calendar_numbers_of_hours_and_milliseconds_are_dates(form, tmp_path):
    found = read(written(tmp_path, text_of(LOG, time=lambda t: moment(t, form))))
    assert found.unit.moment(found.span[0]).startswith(
        moment(min(t for *_, t in LOG), "%Y-%m-%d %H:")
    )


@pytest.mark.parametrize("odd", ["0", "20200915133151"])
def test_dates_written_as_numbers_beside_other_numbers_are_refused(odd, tmp_path):
    text = text_of(LOG, time=lambda t: moment(t, "%Y%m%d")) + f"u1,i1,{odd}\n"
    with pytest.raises(DatasetError, match=f"other numbers.*'{odd}'"):
        read(written(tmp_path, text))


def test_a_unit_that_cannot_be_is_refused_by_name(tmp_path):
    path = written(tmp_path, text_of(LOG, time=lambda t: str(t * 1000)))
    with pytest.raises(DatasetError, match="`time_unit` = 's' is beyond the year 9999"):
        read(path, time_unit="s")


def test_a_time_before_all_calendars_spoils_no_audit(data, tmp_path):
    path = written(tmp_path, text_of(LOG).replace(str(LOG[0][2]), "-62200000000"))
    made(data, path, time_unit="s")
    found = audit_of(data.splits("shop"))
    assert (found["first"][:2], found["last"][:4]) == ("-0", "2020")
    assert found["days"] > 365 * 2020
