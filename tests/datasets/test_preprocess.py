"""k-core, order, ids and leave-one-out against naive loops over the definitions."""

import datetime
import random

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_formats import naive_core, naive_sequences

from fparec_pipeline.datasets.preprocess import (
    SplitsError,
    between,
    k_core,
    leave_one_out,
    numbered,
    own_ids,
    with_shuffled_ties,
)
from fparec_pipeline.datasets.times import Unit

# Few users, items and times, so that cores cascade, items repeat and times tie.
ROWS = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.sampled_from("uvwxyz"), st.integers(0, 5)), max_size=60
)


def frame(rows):
    columns = {"user": pl.Categorical, "item": pl.Categorical, "time": pl.Int64}
    return pl.DataFrame(rows, schema=columns, orient="row").with_row_index("order")


def named(sequences):
    """(user, item, user's name, item's name) of each row."""
    return [
        (user, item, sequences.user_names[user - 1], sequences.item_names[item - 1])
        for user, item in sequences.rows.select("user", "item").rows()
    ]


@given(rows=ROWS, core=st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_k_core_equals_the_naive_one(rows, core):
    kept = k_core(frame(rows), core).drop("order").rows()
    assert kept == naive_core(rows, core)


@given(rows=ROWS)
@settings(max_examples=100, deadline=None)
def test_sequences_equal_the_naive_ones(rows):
    found = {}
    for user, _, user_name, item_name in named(numbered(frame(rows))):
        found.setdefault((user, user_name), []).append(item_name)
    expected = naive_sequences(rows)
    assert found == {(i, name): expected[name] for i, name in enumerate(expected, start=1)}


@given(rows=ROWS)
@settings(max_examples=50, deadline=None)
def test_items_are_numbered_from_one_by_first_appearance(rows):
    numbers = {}
    for items in naive_sequences(rows).values():
        for item in items:
            numbers.setdefault(item, len(numbers) + 1)
    assert {name: item for _, item, _, name in named(numbered(frame(rows)))} == numbers


@given(rows=ROWS, huge=st.sampled_from([1, 2**59, 2**61]))
@settings(max_examples=100, deadline=None)
def test_times_of_any_size_are_sorted_alike(rows, huge):
    """Users and times beyond 63 bits together take another sort; the order must be the same."""
    far = [(user, item, (time - 2) * huge) for user, item, time in rows]
    assert named(numbered(frame(far))) == named(numbered(frame(rows)))


@given(lengths=st.lists(st.integers(3, 8), min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_leave_one_out_takes_the_last_two(lengths):
    rows = [(user, 100 * user + place) for user, n in enumerate(lengths) for place in range(n)]
    table = pl.LazyFrame(rows, schema=["user", "item"], orient="row")
    parts = {part: rows.collect()["item"].to_list() for part, rows in leave_one_out(table).items()}
    sequences = [[item for user, item in rows if user == number] for number in range(len(lengths))]
    assert parts["train"] == [item for sequence in sequences for item in sequence[:-2]]
    assert parts["valid"] == [sequence[-2] for sequence in sequences]
    assert parts["test"] == [sequence[-1] for sequence in sequences]


def test_ties_keep_the_order_of_the_file_not_of_the_item():
    rows = [("a", "z", 1), ("a", "m", 1), ("a", "b", 1), ("a", "y", 0)]
    assert [row[3] for row in named(numbered(frame(rows)))] == ["y", "z", "m", "b"]


def test_shuffled_ties_change_places_only_with_each_other():
    draw = random.Random(0)
    rows = [(draw.choice("abc"), str(item), draw.randrange(4)) for item in range(200)]
    table = frame(rows)
    shuffled = with_shuffled_ties(table)
    assert shuffled.select("user", "time").equals(table.select("user", "time"))
    groups = [
        {key: group["item"].cast(pl.String).to_list() for key, group in t.group_by("user", "time")}
        for t in (table, shuffled)
    ]
    assert {k: sorted(v) for k, v in groups[0].items()} == {
        k: sorted(v) for k, v in groups[1].items()
    }
    assert all(groups[0][key] != groups[1][key] for key in groups[0])
    assert with_shuffled_ties(table).equals(shuffled)


@pytest.mark.parametrize(("unit", "second"), [("s", 1), ("ms", 1000), ("ns", 1_000_000_000)])
def test_the_date_range_holds_its_first_and_last_day(unit, second):
    first, last = datetime.date(2019, 1, 1), datetime.date(2019, 12, 31)
    day, year = 86_400 * second, 365 * 86_400 * second
    start = 1_546_300_800 * second  # 2019-01-01 00:00 UTC
    times = pl.DataFrame({"time": [start - 1, start, start + day, start + year - 1, start + year]})
    found = between(times, first, last, Unit(unit, ""))["time"].to_list()
    assert found == [start, start + day, start + year - 1]
    assert between(times, None, None, Unit(unit, "")).height == 5


@pytest.mark.parametrize(
    ("users", "items", "named"),
    [("13", "12", "users"), ("12", "13", "items"), ("23", "12", "users")],
)
def test_published_ids_with_gaps_are_refused(users, items, named):
    table = pl.DataFrame({"user": list(users), "item": list(items)})
    with pytest.raises(SplitsError, match=rf"shop: .*{named} must be numbered 1\.\.N"):
        own_ids("shop", table)
