"""Histories from splits and from files, against lists that the test keeps itself."""

import datetime
import decimal
import uuid

import polars as pl
import pytest
from data_roots import tiny_root

from fparec_pipeline.config import load_config
from fparec_pipeline.datasets.splits import make_splits
from fparec_pipeline.serving.histories import (
    Columns,
    HistoryError,
    from_file,
    from_splits,
    only,
    read_ids,
)

ITEMS = pl.DataFrame(
    {"item": [1, 2, 3], "source_id": ["a", "b", "c"]}, schema_overrides={"item": pl.Int32}
)


def as_dict(histories):
    """User -> its items."""
    return {
        user: histories.values[histories.offsets[i] : histories.offsets[i + 1]].tolist()
        for i, user in enumerate(histories.users)
    }


def test_splits_give_every_interaction_of_every_user_in_order(tmp_path):
    data = tiny_root(tmp_path)
    make_splits("tiny", load_config(data).datasets["tiny"], tmp_path / "tiny.csv", data)
    items = pl.read_parquet(data.splits("tiny") / "items.parquet")
    found = as_dict(from_splits(data.splits("tiny"), items))
    number = dict(items.select("source_id", "item").iter_rows())
    expected = {}
    for row in pl.read_csv(tmp_path / "tiny.csv").sort("when").iter_rows(named=True):
        expected.setdefault(row["who"], []).append(number[row["what"]])
    assert found == expected
    assert list(found) == list(expected)


def test_items_that_the_champion_does_not_know_are_left_out_and_counted(tmp_path):
    data = tiny_root(tmp_path)
    make_splits("tiny", load_config(data).datasets["tiny"], tmp_path / "tiny.csv", data)
    items = pl.read_parquet(data.splits("tiny") / "items.parquet")
    all_of_them = from_splits(data.splits("tiny"), items)
    known = items.filter(pl.col("source_id") != "item 3").with_columns(
        item=pl.int_range(1, pl.len() + 1)
    )
    found = from_splits(data.splits("tiny"), known)
    names = dict(items.select("item", "source_id").iter_rows())
    new = dict(known.select("source_id", "item").iter_rows())
    expected = {
        user: [new[names[i]] for i in history if names[i] != "item 3"]
        for user, history in as_dict(all_of_them).items()
    }
    assert as_dict(found) == expected
    assert found.unknown == len(all_of_them.values) - len(found.values) > 0


CSV = "user,item,time\nu1,b,30\nu2,c,1\nu1,a,4\nu1,zzz,5\n u2 ,a,0\nu3,zzz,1\n,a,1\n"
EXPECTED = {"u1": [1, 2], "u2": [1, 3], "u3": []}


@pytest.mark.parametrize("kind", ["csv", "parquet", "dates"])
def test_a_file_is_sorted_by_its_times(kind, tmp_path):
    path = tmp_path / f"histories.{'csv' if kind == 'csv' else 'parquet'}"
    path.write_text(CSV)
    if kind != "csv":
        table = pl.read_csv(CSV.encode())
        if kind == "dates":
            day = datetime.date(2024, 1, 1)
            table = table.with_columns(time=pl.lit(day) + pl.duration(days="time"))
        table.write_parquet(path)
    found = from_file(path, ITEMS)
    assert as_dict(found) == EXPECTED
    assert found.unknown == 2


def test_without_a_time_the_rows_are_in_order_and_columns_may_have_the_datasets_names(tmp_path):
    path = tmp_path / "h.csv"
    path.write_text("customer,sku\nu1,b\nu1,a\nu1,b\n")
    columns = Columns(user=("customer", "user"), item=("sku", "item"))
    assert as_dict(from_file(path, ITEMS, columns)) == {"u1": [2, 1, 2]}


def test_iso_times_with_and_without_a_clock_sort_as_moments(tmp_path):
    path = tmp_path / "h.csv"
    path.write_text("user,item,time\nu,a,2024-02-01T09:00:00\nu,b,2024-01-31T10:00:00\n")
    assert as_dict(from_file(path, ITEMS)) == {"u": [2, 1]}


def test_times_are_read_as_those_of_the_datasets_own_file(tmp_path):
    path = tmp_path / "h.csv"
    path.write_text("user,item,day\nu,a,02.03.2024\nu,b,03.02.2024\n")
    columns = Columns(time=("day", "time"), time_format="%d.%m.%Y")
    assert as_dict(from_file(path, ITEMS, columns)) == {"u": [2, 1]}
    path.write_text("user,item,time\nu,a,5 Feb\n,b,no time\n")  # nobody's row does not count
    with pytest.raises(HistoryError, match="row 1 has the time '5 Feb', which is no time"):
        from_file(path, ITEMS)


def test_times_of_two_kinds_or_two_units_have_no_one_order(tmp_path):
    path = tmp_path / "h.csv"
    for first, second in (("1700000000", "1700000000001"), ("2024-02-01", "1700000000")):
        path.write_text(f"user,item,time\n,c,1\nu,a,{first}\nu,b,{second}\n")
        with pytest.raises(HistoryError, match=rf"row 2 has.*{first}.*row 3 has.*{second}"):
            from_file(path, ITEMS)
    pl.DataFrame({"user": ["u"], "item": ["a"], "time": [True]}).write_parquet(path)
    with pytest.raises(HistoryError):
        from_file(path, ITEMS)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (None, "no file"),
        ("user,thing\nu,a\n", "no column 'item'"),
        ("user,item,time\nu,a,3\nu,b,soon\n", "soon"),
        ("", "cannot be read"),
        (b"user,item\nu,caf\xe9\n", "cannot be read.*UTF-8"),
        (b'user,item\nu,"a\nv,b\n', "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_reason(content, word, tmp_path):
    path = tmp_path / "h.csv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(HistoryError, match=word) as error:
        from_file(path, ITEMS)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("content", ["latin-1", "open quote", "list", "damaged"])
def test_a_file_of_ids_that_cannot_be_read_is_named_in_one_line(content, tmp_path):
    path = tmp_path / ("ids.csv" if content in ("latin-1", "open quote") else "ids.parquet")
    if content == "latin-1":
        path.write_bytes(b"item\ncaf\xe9\n")
    elif content == "open quote":
        path.write_text('item\nb\n"a\nb\n')
    elif content == "list":
        pl.DataFrame({"item": [["a"], ["b"]]}).write_parquet(path)
    else:
        pl.DataFrame({"item": [f"item {i}" for i in range(1000)]}).write_parquet(path)
        whole = path.read_bytes()
        path.write_bytes(whole[:4] + b"\xff" * 400 + whole[404:])
    with pytest.raises(HistoryError, match="cannot be read") as error:
        read_ids(path, ("item",))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


UUID = "12345678-9abc-def0-1234-56789abcdef0"
IDS = {
    "float": ([100.0, None, 7.0], ["100", "7"]),
    "decimal": ([decimal.Decimal("100.00"), decimal.Decimal("7.00")], ["100", "7"]),
    "uuid": ([uuid.UUID(UUID).bytes], [UUID]),
    "word for nothing": (["a", "NULL", "nan"], ["a"]),
}


@pytest.mark.parametrize("kind", IDS)
def test_ids_are_read_as_those_of_the_datasets_own_file(kind, tmp_path):
    values, expected = IDS[kind]
    path = tmp_path / "ids.parquet"
    pl.DataFrame({"item": values, "user": values}).write_parquet(path)
    assert read_ids(path, ("item",)).to_list() == expected
    items = pl.DataFrame({"item": range(1, len(expected) + 1), "source_id": expected})
    found = from_file(path, items)
    assert as_dict(found) == {name: [number] for number, name in enumerate(expected, start=1)}
    assert found.unknown == 0


def test_floats_in_text_are_whole_numbers_unless_the_dataset_has_them_so(tmp_path):
    path = tmp_path / "ids.csv"
    path.write_text("item,x\n100.0,1\n,1\n7.0,1\n")
    assert read_ids(path, ("item",)).to_list() == ["100", "7"]
    versions = pl.Series(["100.0", "7.1"])
    assert read_ids(path, ("item",), versions).to_list() == ["100.0", "7.0"]
    assert read_ids(path, ("item",), null_values=("100.0",)).to_list() == ["7"]


def test_only_the_users_asked_for_count_as_having_unknown_items(tmp_path):
    path = tmp_path / "h.csv"
    path.write_text("user,item\nu1,a\nu1,zzz\nu2,yyy\nu2,xxx\n")
    everyone = from_file(path, ITEMS)
    assert everyone.unknown == 3
    assert only(everyone, pl.Series(["u1"])).unknown == 1
    assert everyone.between(1, 2).unknown == 2


def test_ids_come_from_a_column_or_a_line_each(tmp_path):
    lines = tmp_path / "ids.txt"
    lines.write_text("u2\n\n u1 \nu2\n")
    assert read_ids(lines, ("user",)).to_list() == ["u2", "u1"]
    table = tmp_path / "ids.csv"
    table.write_text("x,user\n1,u9\n2,u8\n")
    assert read_ids(table, ("user",)).to_list() == ["u9", "u8"]
    with pytest.raises(HistoryError, match="'item'"):
        read_ids(table, ("item",))


def test_the_users_asked_for_take_the_last_history_there_is(tmp_path):
    path = tmp_path / "h.csv"
    path.write_text("user,item\nu1,a\nu1,b\nu2,c\n")
    newer = tmp_path / "newer.csv"
    newer.write_text("user,item\nu1,c\nu7,a\n")
    found = only(
        from_file(path, ITEMS), pl.Series(["u7", "u2", "nobody", "u1"]), from_file(newer, ITEMS)
    )
    assert as_dict(found) == {"u7": [1], "u2": [3], "nobody": [], "u1": [3]}
    part = found.between(1, 4)
    assert as_dict(part) == {"u2": [3], "nobody": [], "u1": [3]}
