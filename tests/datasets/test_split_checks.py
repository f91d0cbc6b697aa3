"""Each check passes on good splits and fails on splits that violate just what it is for."""

import polars as pl
import pytest

from fparec_pipeline.config import Counts, Dataset, source_of
from fparec_pipeline.datasets.checks import CHECKS, check_splits
from fparec_pipeline.datasets.splits import SplitsError, make_splits

SOURCE = source_of(reader="csv", address="own.csv", user="u", item="i", time="t")
DATASET = Dataset(
    core=4, expected=Counts(users=4, items=5, interactions=20), sources={"own": SOURCE}
)


@pytest.fixture
def folder(data):
    """Four users, each with the same five items at the times 1..5; a 4-core."""
    data.root.mkdir(parents=True)
    rows = [f"u{u},i{i},{i}" for u in range(1, 5) for i in range(1, 6)]
    (data.root / "own.csv").write_text("\n".join(["u,i,t", *rows]))
    make_splits("shop", DATASET, data.root / "own.csv", data)
    return data.splits("shop")


def change(folder, table, edit):
    path = folder / f"{table}.parquet"
    edit(pl.read_parquet(path)).write_parquet(path)


def failed(folder, dataset=DATASET):
    return [name for name, check in CHECKS.items() if not check(folder, dataset).passed]


def test_good_splits_pass_every_check(folder):
    assert [(r.name, r.passed) for r in check_splits(folder, DATASET)] == [
        (name, True) for name in CHECKS
    ]


def test_damaged_splits_are_not_checked_but_refused(folder):
    change(folder, "test", lambda table: table.head(3))
    with pytest.raises(SplitsError, match=r"test\.parquet is damaged"):
        check_splits(folder, DATASET)


@pytest.mark.parametrize("key", ["users", "items", "interactions"])
def test_other_counts_than_expected_fail(folder, key):
    off = DATASET.expected.model_copy(update={key: 99})
    dataset = DATASET.model_copy(update={"expected": off})
    result = CHECKS["expected_counts"](folder, dataset)
    assert (result.passed, result.severity) == (False, "error")
    assert result.message.endswith(f"{key}, not 99")
    assert failed(folder, dataset) == ["expected_counts"]


def test_other_counts_are_a_warning_for_a_file_placed_by_hand(folder):
    by_hand = source_of(reader="yelp", address="https://example.org", manual=True)
    dataset = Dataset(core=4, expected=Counts(users=1, items=1, interactions=1),
                      sources={"raw": by_hand})  # fmt: skip
    result = CHECKS["expected_counts"](folder, dataset)
    assert (result.passed, result.severity) == (False, "warning")


def test_without_configured_counts_there_is_nothing_to_fail(folder):
    assert failed(folder, DATASET.model_copy(update={"expected": None})) == []


@pytest.mark.parametrize(
    ("table", "edit"),
    [
        ("test", lambda table: table.filter(pl.col("user") != 2)),
        ("valid", lambda table: pl.concat([table, table.head(1)])),
        ("train", lambda table: table.filter(pl.col("user") != 3)),
    ],
)
def test_a_user_without_exactly_one_held_out_item_each_fails(folder, table, edit):
    change(folder, table, edit)
    result = CHECKS["one_validation_and_test_item"](folder, DATASET)
    assert not result.passed
    assert result.details == {"violating_users": 1}


@pytest.mark.parametrize(
    ("table", "column"), [("users", "user"), ("items", "item"), ("test", "user"), ("train", "item")]
)
def test_an_id_outside_of_1_to_n_fails(folder, table, column):
    shifted = pl.when(pl.col(column) == 1).then(9).otherwise(pl.col(column)).alias(column)
    change(folder, table, lambda t: t.with_columns(shifted.cast(pl.Int32)))
    assert "contiguous_ids" in failed(folder)


@pytest.mark.parametrize("table", ["users", "items"])
def test_an_id_that_its_table_does_not_list_fails(folder, table):
    change(folder, table, lambda t: t.head(3))
    assert failed(folder) == ["contiguous_ids"]


def test_padding_as_an_item_fails(folder):
    change(folder, "valid", lambda t: t.with_columns(pl.lit(0, pl.Int32).alias("item")))
    assert "contiguous_ids" in failed(folder)


@pytest.mark.parametrize(("table", "time"), [("test", 3), ("valid", 2), ("valid", 6), ("train", 9)])
def test_a_held_out_item_before_the_others_fails(folder, table, time):
    late = pl.when(pl.col("user") == 2).then(time).otherwise(pl.col("time")).alias("time")
    change(folder, table, lambda t: t.with_columns(late))
    result = CHECKS["held_out_come_last"](folder, DATASET)
    assert not result.passed
    assert "[2]" in result.message
    assert failed(folder) == ["held_out_come_last"]


def test_tied_times_pass(folder):
    change(folder, "test", lambda t: t.with_columns(pl.lit(4, pl.Int64).alias("time")))
    assert failed(folder) == []


def test_without_times_their_order_cannot_fail(folder):
    for part in ("train", "valid", "test"):
        change(folder, part, lambda t: t.drop("time"))
    assert failed(folder) == []


def test_users_and_items_below_the_core_fail(folder):
    strict = DATASET.model_copy(update={"core": 5})
    result = CHECKS["at_least_core"](folder, strict)
    assert result.details == {"users_below_core": 0, "items_below_core": 5}
    assert failed(folder, strict) == ["at_least_core"]
    stricter = DATASET.model_copy(update={"core": 6})
    assert CHECKS["at_least_core"](folder, stricter).details["users_below_core"] == 4
