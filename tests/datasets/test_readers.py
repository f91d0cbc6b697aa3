"""What each reader takes for a row, and what it sets aside."""

import gzip
import json
import zipfile

import polars as pl
import pytest
from reading import collected, rows_of

from fparec_pipeline.config import SOURCE_KINDS, source_of
from fparec_pipeline.datasets.readers import READERS
from fparec_pipeline.datasets.sources import RawDataError

URL = "https://example.org/file"
CSV = source_of(reader="csv", address="own.csv", user="u", item="i", time="t")


def test_every_reader_that_has_keys_has_a_function():
    assert READERS.keys() == SOURCE_KINDS.keys()


def test_a_sequences_line_that_is_no_list_of_ids_is_malformed(tmp_path):
    path = tmp_path / "s.txt"
    path.write_text("1 4 5  6 \n\n2\n3 x 1\n4 0 1\n5 7\n")
    rows = rows_of(path, source_of(reader="sequences", address=URL))
    good = rows.filter(pl.col("problem").is_null())
    assert good.select("row", "user", "item").rows() == [
        (1, "1", "4"), (1, "1", "5"), (1, "1", "6"), (6, "5", "7"),
    ]  # fmt: skip
    bad = rows.filter(pl.col("problem").is_not_null())
    assert bad.select("row", "record").rows() == [(3, "2"), (4, "3 x 1"), (5, "4 0 1")]


def test_a_pairs_line_holds_two_ids(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("1 1\n1 2 3\n1\n1 2.0\n")
    rows = rows_of(path, source_of(reader="pairs", address=URL))
    assert rows["problem"].is_null().to_list() == [True, False, False, False]


def test_movielens_rows_have_four_fields_and_whole_times(tmp_path):
    path = tmp_path / "ml.zip"
    lines = ["1::10::5::978300760", "1::10::5", "1::10::5::9::9", "::10::5::9", "1::::5::9",
             "1::10::5::9.5", "1::10::5::NaN", "1::10::\xe9::9"]  # fmt: skip
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ml-1m/ratings.dat", "\n".join(lines).encode("latin-1"))
    rows = rows_of(path, source_of(reader="movielens", address=URL))
    assert rows["problem"].is_null().to_list() == [True] + [False] * 6 + [True]
    assert rows.row(0, named=True)["time"] == 978300760


def test_movielens_reads_its_member_only_by_name(tmp_path):
    path = tmp_path / "ml.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../ml-1m/ratings.dat", "1::1::1::1")
    with pytest.raises(RawDataError, match=f"^{path} holds none of ml-1m/ratings.dat"):
        rows_of(path, source_of(reader="movielens", address=URL))
    path.write_bytes(b"not a zip")
    with pytest.raises(RawDataError, match="no intact zip archive"):
        rows_of(path, source_of(reader="movielens", address=URL))


def test_amazon_sets_aside_what_lacks_a_key_or_is_no_json(tmp_path):
    path = tmp_path / "a.json.gz"
    good = {"reviewerID": "A", "asin": "B", "unixReviewTime": 86400}
    lines = [json.dumps(good), '{"reviewerID": "A", "asin": "B", "unixRev', "junk"]
    changes = [{"asin": None}, {"reviewerID": ""}, {"unixReviewTime": 1.5}, {"unixReviewTime": "x"}]
    lines += [json.dumps(good | change) for change in changes]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    rows = rows_of(path, source_of(reader="amazon", address=URL))
    assert rows["problem"].is_null().to_list() == [True] + [False] * 6
    assert rows.select("user", "item", "time").row(0) == ("A", "B", 86400)


def test_yelp_dates_become_microseconds(tmp_path):
    path = tmp_path / "y.json"
    dates = ["1970-01-02 00:00:01", "1970-01-02", "02/01/1970", "", None]
    path.write_text(
        "\n".join(json.dumps({"user_id": "u", "business_id": "b", "date": d}) for d in dates)
    )
    rows = rows_of(path, source_of(reader="yelp", address=URL))
    assert rows["time"].to_list() == [86_401_000_000, 86_400_000_000, None, None, None]


def test_csv_rows_of_the_wrong_length_are_malformed(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text(
        'u,x,i,t\na,,b,1\na,,b\na,,b,1,9\n"a ""q"", r",,b,2\n'
        ",,b,3\na,,NaN,4\na,,b,4.5\n\na,,b,6.0\n"
    )
    rows = rows_of(path, CSV)
    assert rows["problem"].to_list() == [
        None,
        "wrong number of fields",
        "wrong number of fields",
        None,
        "no user",
        "no item",
        None,
        None,
    ]
    good = rows.filter(pl.col("problem").is_null())
    assert good.select("user", "item", "time").rows() == [
        ("a", "b", 1), ('a "q", r', "b", 2), ("a", "b", 4_500_000), ("a", "b", 6),
    ]  # fmt: skip


@pytest.mark.parametrize("note", ["x", '"x"', '"x\ny, z, 3",'])
def test_a_row_may_end_after_the_fields_that_are_asked_for(tmp_path, note):
    path = tmp_path / "own.csv"
    path.write_text(f"u,i,t,note,more\na,b,1\na,c,2,{note}\na,d,3,\na,e\na,f,5,x,y\n")
    rows = rows_of(path, CSV)
    good = rows.filter(pl.col("problem").is_null())
    assert good.select("user", "item", "time").rows() == [
        ("a", "b", 1), ("a", "c", 2), ("a", "d", 3), ("a", "f", 5),
    ]  # fmt: skip
    assert rows.height == 5  # `a,e` is set aside


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("1970-01-02", 86_400_000_000),
        ("1970-01-02 00:00:00.25", 86_400_250_000),
        ("1970-01-02T01:00:00+01:00", 86_400_000_000),
        ("1970-01-02T00:00:00Z", 86_400_000_000),
        ("86400", 86_400),
    ],
)
def test_csv_times_are_whole_numbers_or_iso_dates(tmp_path, text, time):
    path = tmp_path / "own.csv"
    path.write_text(f"u,i,t\na,b,{text}\n")
    assert rows_of(path, CSV)["time"].to_list() == [time]


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("u,item,t\na,b,1\n")
    with pytest.raises(RawDataError, match="has no column i; it has u, item, t"):
        rows_of(path, CSV)


def test_parquet_nulls_and_nans_are_malformed(tmp_path):
    path = tmp_path / "own.parquet"
    columns = {"u": ["a", None, "b", "c"], "i": [1.0, 2.0, float("nan"), 4.0], "t": [5, 6, 7, None]}
    pl.DataFrame(columns).write_parquet(path)
    source = source_of(reader="parquet", address="own.parquet", user="u", item="i", time="t")
    rows = rows_of(path, source)
    assert rows["problem"].is_null().to_list() == [True, False, False, False]


def of_lines(tmp_path, lines):
    path = tmp_path / "own.csv"
    path.write_text("\n".join(["u,i,t", *lines]))
    return collected(path, CSV, tmp_path / "quarantine.parquet")


def test_malformed_rows_are_counted_and_kept_in_quarantine(tmp_path):
    found = of_lines(tmp_path, [*["a,b,1"] * 99, "a,,1"])
    assert (found.rows, found.set_aside, found.problems) == (100, 1, {"no item": 1})
    assert found.table.height == 99
    kept = pl.read_parquet(tmp_path / "quarantine.parquet")
    assert kept.select("row", "problem").rows() == [(101, "no item")]
    assert json.loads(kept["record"][0]) == {"u": "a", "i": None, "t": "1"}
    of_lines(tmp_path, ["a,b,1"])
    assert not (tmp_path / "quarantine.parquet").exists()


def test_more_than_one_percent_of_malformed_rows_is_an_error(tmp_path):
    with pytest.raises(RawDataError, match=r"shop: 2 of 101 rows.*neither.*quarantine\.parquet"):
        of_lines(tmp_path, [*["a,b,1"] * 99, "a,b,x", "a,b,x"])


def test_an_empty_file_is_an_error(tmp_path):
    with pytest.raises(RawDataError, match="shop: the raw file holds no rows"):
        of_lines(tmp_path, [])


def test_a_gzip_that_was_cut_off_is_an_error(tmp_path):
    path = tmp_path / "a.json.gz"
    whole = gzip.compress(b"".join(json.dumps({"n": n}).encode() + b"\n" for n in range(5000)))
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RawDataError, match=r"a\.json\.gz: the raw file cannot be read"):
        rows_of(path, source_of(reader="amazon", address=URL))
