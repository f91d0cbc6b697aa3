"""Splits are current only for the same file content and the same entry."""

import os
import shutil

import pytest

from fparec_pipeline.config import Dataset, source_of
from fparec_pipeline.datasets.sources import RawDataError
from fparec_pipeline.datasets.splits import (
    SplitsError,
    current_splits,
    make_splits,
    read_splits,
    why_outdated,
)
from fparec_pipeline.datasets.staleness import INPUTS
from fparec_pipeline.paths import DataRoot

ROWS = [f"u{u},i{i},{10 * u + i}\n" for u in range(4) for i in range(4)]


def entry(core=1, **keys):
    columns = {"user": "u", "item": "i", "time": "t"}
    source = source_of(reader="csv", address="log.csv", **columns, **keys)
    return Dataset(core=core, sources={"own": source})


def write(data, rows, name="log.csv"):
    data.root.mkdir(parents=True, exist_ok=True)
    path = data.root / name
    path.write_text("u,i,t\n" + "".join(rows))
    return path


@pytest.fixture
def made(data):
    path = write(data, ROWS)
    make_splits("shop", entry(), path, data)
    return path


def test_they_are_current_as_long_as_nothing_changes(made, data):
    assert not why_outdated("shop", entry(), data)
    assert current_splits("shop", entry(), data).n_users == 4


def test_a_file_replaced_by_an_older_one_of_the_same_size_is_noticed(made, data):
    other = write(data, ROWS[::-1], "older.csv")
    os.utime(other, ns=(0, 0))
    other.replace(made)
    assert why_outdated("shop", entry(), data)
    with pytest.raises(SplitsError, match=r"shop: the splits are outdated: .*log\.csv is not"):
        current_splits("shop", entry(), data)


def test_a_link_that_points_elsewhere_is_noticed(made, data):
    first, second = write(data, ROWS, "a.csv"), write(data, ROWS[:-1], "b.csv")
    os.utime(second, ns=(0, 0))
    made.unlink()
    made.symlink_to(first)
    assert not why_outdated("shop", entry(), data)  # the same content
    made.unlink()
    made.symlink_to(second)
    assert why_outdated("shop", entry(), data)


def test_a_touched_file_of_the_same_content_changes_nothing_and_is_hashed_once(
    made, data, monkeypatch
):
    os.utime(made, ns=(1, 1))
    assert not why_outdated("shop", entry(), data)
    monkeypatch.setattr("fparec_pipeline.datasets.staleness.content", pytest.fail)
    assert not why_outdated("shop", entry(), data)


@pytest.mark.parametrize(
    "changed",
    [
        entry(core=2),
        entry(to_date="2020-01-01"),
        entry(time_unit="ms"),
        entry(drop_duplicates=True),
        entry(shuffle_ties=True),
        entry(null_values=["u1"]),
    ],
)
def test_another_entry_makes_them_outdated(changed, made, data):
    assert why_outdated("shop", changed, data)


def test_what_decides_no_split_changes_nothing(made, data):
    other = entry().model_copy(update={"title": "Shop", "hyperparameters": {"n": 5}})
    assert not why_outdated("shop", other, data)


def test_a_data_root_can_be_moved(made, data, tmp_path):
    moved = DataRoot(tmp_path / "elsewhere")
    shutil.copytree(data.root, moved.root)  # other inodes and times
    assert not why_outdated("shop", entry(), moved)
    write(moved, ROWS[:-1])
    assert why_outdated("shop", entry(), moved)
    assert not why_outdated("shop", entry(), data)


def test_a_file_that_is_not_there_cannot_have_changed(made, data):
    made.unlink()
    assert not why_outdated("shop", entry(), data)


def test_a_file_that_changes_while_it_is_read_is_refused(data, monkeypatch):
    path = write(data, ROWS)
    from fparec_pipeline.datasets import splits as module

    def collect(*args):
        found = collected(*args)
        write(data, ROWS[:-1])
        return found

    collected = module.collect
    monkeypatch.setattr(module, "collect", collect)
    with pytest.raises(RawDataError, match="changed while it was read"):
        make_splits("shop", entry(), path, data)


def test_the_same_splits_are_made_of_the_same_content(made, data):
    before = read_splits(data.splits("shop")).stats
    os.utime(made, ns=(1, 1))
    make_splits("shop", entry(), made, data)
    assert read_splits(data.splits("shop")).stats == before
    assert (data.splits("shop") / INPUTS).exists()
