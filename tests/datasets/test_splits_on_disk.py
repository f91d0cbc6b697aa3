"""The folder of splits: its statistics, its hashes, its atomicity, its error messages."""

import contextlib
import json
import os
import subprocess
import sys
import threading

import polars as pl
import pytest

from fparec_pipeline.config import Dataset, source_of
from fparec_pipeline.datasets import splits as module
from fparec_pipeline.datasets.files import CannotWrite
from fparec_pipeline.datasets.splits import SplitsError, make_splits, read_splits

URL = "https://example.org/file.txt"
# Item 5 is never trained; user 1 repeats item 1; users 1 and 3 end on an item of their history.
LINES = ["1 1 1 2 3 1", "2 2 3 1 5", "3 4 2 2"]


def made(data, lines=LINES, core=1, reader="sequences", **source):
    data.root.mkdir(parents=True, exist_ok=True)
    path = data.root / "file.txt"
    path.write_text("\n".join(lines) + "\n")
    dataset = Dataset(core=core, sources={"only": source_of(reader=reader, address=URL, **source)})
    return make_splits("shop", dataset, path, data)


def test_arrays_hold_each_part(data):
    splits = made(data)
    assert (splits.name, splits.n_users, splits.n_items) == ("shop", 3, 5)
    assert splits.train_items.tolist() == [1, 1, 2, 2, 3, 4]
    assert splits.train_offsets.tolist() == [0, 3, 5, 6]
    assert splits.valid.tolist() == [3, 1, 2]
    assert splits.test.tolist() == [1, 5, 2]
    dtypes = (splits.train_items.dtype, splits.train_offsets.dtype, splits.valid.dtype)
    assert [str(dtype) for dtype in dtypes] == ["int32", "int64", "int32"]


def test_statistics_by_hand(data):
    stats = made(data).stats
    assert {key: stats[key] for key in ("dataset", "source", "users", "items", "interactions")} == {
        "dataset": "shop", "source": "only", "users": 3, "items": 5, "interactions": 12,
    }  # fmt: skip
    assert stats["average_length"] == 4
    assert stats["density"] == pytest.approx(12 / 15)
    assert (stats["length_quantiles"]["0"], stats["length_quantiles"]["1"]) == (3, 5)
    assert stats["length_quantiles"]["0.5"] == 4
    assert stats["items_never_trained"] == 1
    assert (stats["users_with_repeats"], stats["repeated_interactions"]) == (2, 3)
    assert stats["test_items_in_history"] == 2
    assert stats["quarantined_rows"] == 0


def test_tables_have_the_documented_columns(data):
    made(data)
    folder = data.splits("shop")
    items = pl.read_parquet(folder / "items.parquet")
    assert items.columns == ["item", "source_id", "train_count"]
    assert items["train_count"].to_list() == [2, 2, 1, 1, 0]
    users = pl.read_parquet(folder / "users.parquet")
    assert users.rows() == [(1, "1", 5), (2, "2", 4), (3, "3", 3)]
    assert pl.read_parquet_schema(folder / "valid.parquet") == {"user": pl.Int32, "item": pl.Int32}


def test_the_data_hash_is_of_the_content_not_of_the_files(data):
    before = made(data)
    train = data.splits("shop") / "train.parquet"
    old_bytes = train.read_bytes()
    pl.read_parquet(train).write_parquet(train, compression="uncompressed")
    assert train.read_bytes() != old_bytes
    stats_path = data.splits("shop") / "stats.json"
    stats = json.loads(stats_path.read_text())
    stats["files"]["train.parquet"] = module.digest(train)
    stats["checksum"] = module.seal(stats)
    stats_path.write_text(json.dumps(stats))
    assert read_splits(data.splits("shop")).stats["data_hash"] == before.stats["data_hash"]


@pytest.mark.parametrize(
    "lines",
    [
        ["1 1 1 2 1 3", LINES[1], LINES[2]],  # another order
        ["1 1 1 2 2 3 1", "2 3 1 5", LINES[2]],  # the same training items, cut elsewhere
        [LINES[0], LINES[1], "3 4 2 6"],  # another test item, and one item more
    ],
)
def test_another_content_has_another_data_hash(data, lines):
    assert made(data).stats["data_hash"] != made(data, lines).stats["data_hash"]


def test_made_again_they_are_the_same_and_nothing_is_left_over(data):
    first = made(data)
    leftover = data.splits("shop").parent / ".shop.tmp-of-a-killed-process"
    leftover.mkdir()
    second = made(data)
    assert first.stats == second.stats
    assert sorted(p.name for p in data.splits("shop").parent.iterdir()) == [".shop.lock", "shop"]


def test_a_failure_is_told_even_if_another_file_is_still_being_written(data, monkeypatch):
    """As Polars does, which stops at the first sink that fails and does not wait for the others."""
    made(data)
    going, others = threading.Event(), []

    def writes(folder):
        going.set()
        with contextlib.suppress(FileNotFoundError):  # once the folder is gone
            for number in range(3_000):
                (folder / str(number)).touch()

    def fails(_name, _dataset, _parts, _stats, folder):
        folder.mkdir()
        others.append(threading.Thread(target=writes, args=(folder,)))
        others[0].start()
        going.wait()
        raise OSError("the disk is full")

    monkeypatch.setattr(module, "_write", fails)
    with pytest.raises(CannotWrite, match="the disk is full"):
        made(data, ["1 1 2 3", "2 1 2 3"])
    others[0].join()
    monkeypatch.undo()
    made(data)
    assert sorted(p.name for p in data.splits("shop").parent.iterdir()) == [".shop.lock", "shop"]


def test_a_failure_leaves_the_old_splits_and_no_temporary_folder(data, monkeypatch):
    before = made(data)

    def fails(*_args):
        raise OSError("the disk is full")

    monkeypatch.setattr(module, "logical_hash", fails)
    with pytest.raises(OSError, match="the disk is full"):
        made(data, ["1 1 2 3", "2 1 2 3"])
    monkeypatch.undo()
    assert read_splits(data.splits("shop")).stats == before.stats
    assert sorted(p.name for p in data.splits("shop").parent.iterdir()) == [".shop.lock", "shop"]


@pytest.mark.parametrize("file", ["stats.json", "train.parquet", "items.parquet"])
def test_a_missing_file_is_named_with_the_command(data, file):
    made(data)
    (data.splits("shop") / file).unlink()
    with pytest.raises(SplitsError, match=rf"{file} is missing.*fparec run --datasets shop"):
        read_splits(data.splits("shop"))


@pytest.mark.parametrize("file", ["stats.json", "valid.parquet", "users.parquet"])
def test_a_damaged_file_is_named_with_the_command(data, file):
    made(data)
    path = data.splits("shop") / file
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SplitsError, match=rf"{file} is damaged.*fparec run --datasets shop"):
        read_splits(data.splits("shop"))


def test_a_data_hash_that_does_not_fit_is_found(data):
    made(data)
    path = data.splits("shop") / "stats.json"
    stats = json.loads(path.read_text()) | {"data_hash": "0" * 64}
    path.write_text(json.dumps(stats | {"checksum": module.seal(stats)}))
    with pytest.raises(SplitsError, match=r"stats\.json does not fit"):
        read_splits(data.splits("shop"))


def csv_rows(users, items):
    return ["u,i,t", *(f"u{u},i{i},{i}" for u in range(users) for i in range(items))]


OWN = {"reader": "csv", "user": "u", "item": "i", "time": "t"}


@pytest.mark.parametrize(
    ("lines", "core", "dates", "message"),
    [
        (csv_rows(3, 4), 5, {}, "shop: 0 users and 0 items are left after the 5-core; "),
        (
            csv_rows(6, 6),
            5,
            {"from_date": "2019-01-01"},
            "no interaction .* run from 1970",
        ),
        (csv_rows(1, 6), 1, {}, "shop: 1 users and 6 items are left"),
        (csv_rows(3, 2), 2, {}, "shop: there are users with fewer than 3 .* Set `core` to 3"),
    ],
)
def test_too_little_data_is_a_clear_error(data, lines, core, dates, message):
    with pytest.raises(SplitsError, match=message):
        made(data, lines, core, **OWN, **dates)


def test_the_layer_imports_without_the_heavy_libraries():
    heavy = "torch mlflow dagster pandas requests pooch"
    code = (
        "import sys; from fparec_pipeline.datasets import checks, sources;"
        f"print([name for name in '{heavy}'.split() if name in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert answer.stdout.strip() == "[]"
