"""The splits of a dataset: made from its raw file, kept on disk, read as flat arrays.

A folder `data/splits/<dataset>/` holds `train`, `valid`, `test`, `items` and `users` as parquet
files and `stats.json`. It is written under a temporary name and renamed, so that a folder of that
name is a finished one. `stats.json` has the sha256 of every file and the *logical data hash*: a
hash of what a model is given (the arrays of `Splits`), not of parquet bytes, so that another
version of the writer changes no trial's fingerprint.
"""

import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from filelock import FileLock

from fparec_pipeline.config import Dataset
from fparec_pipeline.datasets.files import CHECKSUM, digest, naming, seal
from fparec_pipeline.datasets.preprocess import (
    MIN_INTERACTIONS,
    Sequences,
    SplitsError,
    between,
    k_core,
    leave_one_out,
    numbered,
    numbers,
    own_ids,
)
from fparec_pipeline.datasets.readers import PUBLISHED, collect, read_interactions
from fparec_pipeline.paths import DataRoot

PARTS = ("train", "valid", "test")
TABLES = (*PARTS, "items", "users")
QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)


@dataclass(frozen=True)
class Splits:
    """A dataset as flat arrays. Users are 1..n_users, items 1..n_items; 0 is padding."""

    name: str
    n_users: int
    n_items: int
    train_items: np.ndarray  # int32 (training interactions,): user after user, each chronological
    train_offsets: np.ndarray  # int64 (n_users + 1,): user u has train_items[off[u - 1]:off[u]]
    valid: np.ndarray  # int32 (n_users,): user u's validation item at [u - 1]
    test: np.ndarray  # int32 (n_users,)
    stats: dict[str, Any]  # the content of stats.json


def make_splits(name: str, dataset: Dataset, raw_path: Path, data: DataRoot) -> Splits:
    """The whole chain from the raw file to `data.splits(name)`, which it replaces.

    Malformed rows go to `quarantine.parquet` in `data.raw(name)`. Two processes that make the same
    splits do so one after the other.

    Args:
        name: the dataset's name.
        dataset: its configuration; `raw_path` is of its active source.
        raw_path: as `sources.fetch_raw` returned it.
        data: where to write.

    Raises:
        RawDataError: the raw file cannot be read or has too many malformed rows.
        SplitsError: too little is left for leave-one-out, or a published file's ids have gaps.
        CannotWrite: the disk is full; the old splits stay.
    """
    target = data.splits(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    data.raw(name).mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / f".{name}.lock"):
        for leftover in target.parent.glob(
            f".{name}.tmp-*"
        ):  # of killed processes: we hold the lock
            shutil.rmtree(leftover)
        work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{name}.tmp-"))
        try:
            sequences, quarantined = _sequences(name, dataset, raw_path, data)
            folder = work / "splits"
            with naming(target):
                _write(name, dataset.source_name, sequences, quarantined, folder)
            if target.exists():
                target.rename(work / "old")  # a rename cannot replace a folder with files in it
            folder.rename(target)
        finally:
            shutil.rmtree(work)
    return read_splits(target)


def read_splits(folder: Path) -> Splits:
    """The splits in `folder`, after checking every file's sha256 and the logical data hash.

    Raises:
        SplitsError: a file is missing or damaged; the message names it and the command that makes
            the splits again.
    """
    stats = _read_stats(folder)
    name = str(stats["dataset"])
    for file, expected in stats["files"].items():
        path = folder / file
        if not path.is_file():
            raise SplitsError(f"{path} is missing.{_advice(name)}")
        if digest(path) != expected:
            raise SplitsError(f"{path} is damaged: its sha256 is not the recorded.{_advice(name)}")
    parts = [pl.scan_parquet(folder / f"{part}.parquet").select("user", "item") for part in PARTS]
    arrays = _arrays(*pl.collect_all(parts))
    splits = Splits(
        name=name, n_users=int(stats["users"]), n_items=int(stats["items"]), **arrays, stats=stats
    )
    if logical_hash(splits) != stats["data_hash"]:
        raise SplitsError(f"{folder / 'stats.json'} does not fit the files.{_advice(name)}")
    return splits


def statistics_on_disk(folder: Path) -> dict[str, Any] | None:
    """The content of `stats.json`, or None where there are no splits; the files are not checked.

    Raises:
        SplitsError: `stats.json` cannot be read or is incomplete.
    """
    return _read_stats(folder) if (folder / "stats.json").exists() else None


def training_lengths(folder: Path) -> np.ndarray | None:
    """How many training items each user has, (users,), or None where there are no splits."""
    path = folder / "users.parquet"
    if not path.exists():
        return None
    return pl.read_parquet(path, columns=["interactions"])["interactions"].to_numpy() - 2.0


def logical_hash(splits: Splits) -> str:
    """sha256 in hex over the sizes and arrays of the splits, whatever file they came from.

    Array lengths follow from the sizes and offsets, so that no two contents have one text.
    """
    content = hashlib.sha256(f"{splits.n_users} {splits.n_items} ".encode())
    content.update(splits.train_offsets.astype("<i8").tobytes())
    for array in (splits.train_items, splits.valid, splits.test):
        content.update(array.astype("<i4").tobytes())
    return content.hexdigest()


def _advice(name: str) -> str:
    return f" Make the splits again: fparec run --datasets {name}"


def _read_stats(folder: Path) -> dict[str, Any]:
    path = folder / "stats.json"
    if not path.is_file():
        raise SplitsError(f"{path} is missing.{_advice(folder.name)}")
    try:
        stats = json.loads(path.read_text(encoding="utf-8"))
        complete = {"dataset", "users", "items", "data_hash", "files"} <= stats.keys()
        fits = not stats.get(CHECKSUM) or seal(stats) == stats[CHECKSUM]
    except (ValueError, AttributeError) as error:
        raise SplitsError(f"{path} is damaged: {error}.{_advice(folder.name)}") from error
    if not complete or set(stats["files"]) != {f"{table}.parquet" for table in TABLES}:
        raise SplitsError(f"{path} is incomplete.{_advice(folder.name)}")
    if not fits:
        raise SplitsError(f"{path} is damaged: its checksum does not fit.{_advice(folder.name)}")
    return stats


def _sequences(
    name: str, dataset: Dataset, raw_path: Path, data: DataRoot
) -> tuple[Sequences, int]:
    """Sorted, numbered interactions, and how many rows were set aside."""
    source = dataset.active_source
    columns = ("time", "day") if source.from_date or source.to_date else ("time",)
    rows = read_interactions(raw_path, source)
    origin = f"{name}: {raw_path}"
    quarantine = data.raw(name) / "quarantine.parquet"
    if source.reader in PUBLISHED:
        table, quarantined = collect(origin, rows, quarantine, columns=())
        sequences = own_ids(name, table)
    else:
        table, quarantined = collect(origin, rows, quarantine, columns)
        in_range = between(table, source.from_date, source.to_date)
        sequences = numbered(k_core(in_range, dataset.core))
    _require_enough(name, dataset, sequences)
    return sequences, quarantined


def _require_enough(name: str, dataset: Dataset, sequences: Sequences) -> None:
    """At least two users and items, and three interactions of every user."""
    source = dataset.active_source
    users, items = len(sequences.user_names), len(sequences.item_names)
    if users < 2 or items < 2:
        ranged = " and the date range" if source.from_date or source.to_date else ""
        raise SplitsError(
            f"{name}: {users} users and {items} items are left after the {dataset.core}-core"
            f"{ranged}; at least 2 of each are needed. Lower `core` in datasets.toml or give it "
            "more data."
        )
    if _counts(sequences.rows["user"], users).min() < MIN_INTERACTIONS:
        raise SplitsError(
            f"{name}: there are users with fewer than {MIN_INTERACTIONS} interactions, which "
            "leave-one-out cannot split. Set `core` to 3 or more in datasets.toml."
        )


def _counts(ids: pl.Series, size: int) -> np.ndarray:
    """How often each of 1..size stands in `ids`, (size,)."""
    return np.bincount(ids.to_numpy(), minlength=size + 1)[1:]


def _write(
    name: str, source_name: str, sequences: Sequences, quarantined: int, folder: Path
) -> None:
    """Writes the five parquet files and stats.json into the new folder `folder`."""
    folder.mkdir()
    parts = leave_one_out(sequences.rows.lazy())
    train, valid, test = pl.collect_all([parts[part] for part in PARTS])
    tables = dict(zip(PARTS, (train, valid, test), strict=True))
    tables["items"] = _named("item", sequences.item_names, train_count=train["item"])
    tables["users"] = _named("user", sequences.user_names, interactions=sequences.rows["user"])
    pl.collect_all(
        [
            rows.lazy().sink_parquet(folder / f"{table}.parquet", lazy=True)
            for table, rows in tables.items()
        ]
    )
    stats = {"dataset": name, "source": source_name} | _statistics(sequences, train)
    arrays = _arrays(train, valid, test)
    splits = Splits(name=name, n_users=stats["users"], n_items=stats["items"], **arrays, stats={})
    stats |= {
        "quarantined_rows": quarantined,
        "data_hash": logical_hash(splits),
        "files": {f"{table}.parquet": digest(folder / f"{table}.parquet") for table in TABLES},
    }
    stats[CHECKSUM] = seal(stats)
    (folder / "stats.json").write_text(json.dumps(stats, indent=2) + "\n", encoding="utf-8")


def _named(kind: str, names: pl.Series, **counted: pl.Series) -> pl.DataFrame:
    """Every id, its name in the source, and how often it stands in the column `counted`."""
    counts = {
        column: pl.Series(_counts(rows, len(names)).astype(np.uint32))
        for column, rows in counted.items()
    }
    return pl.DataFrame([numbers(kind, len(names)), names.alias("source_id")]).with_columns(
        **counts
    )


def _arrays(train: pl.DataFrame, valid: pl.DataFrame, test: pl.DataFrame) -> dict[str, np.ndarray]:
    """The arrays of `Splits` from the three tables, which are sorted by user, then position.

    They own their memory, because torch warns of arrays that it could not write to.
    """
    lengths = _counts(train["user"], valid.height)
    return {
        "train_items": train["item"].to_numpy(writable=True),
        "train_offsets": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        "valid": valid["item"].to_numpy(writable=True),
        "test": test["item"].to_numpy(writable=True),
    }


def _statistics(sequences: Sequences, train: pl.DataFrame) -> dict[str, Any]:
    """Counts, lengths (all interactions of a user) and repeats."""
    users, items = len(sequences.user_names), len(sequences.item_names)
    interactions = sequences.rows.height
    per_user = (
        sequences.rows.lazy()
        .group_by("user")
        .agg(
            pl.len().alias("length"),
            (pl.len() - pl.col("item").n_unique()).alias("repeats"),
            pl.col("item").head(pl.len() - 1).eq(pl.col("item").last()).any().alias("test_seen"),
        )
        .collect()
    )
    lengths = per_user["length"]
    return {
        "users": users,
        "items": items,
        "interactions": interactions,
        "average_length": interactions / users,
        "density": interactions / (users * items),
        "length_quantiles": {
            f"{q:g}": lengths.quantile(q, interpolation="nearest") for q in QUANTILES
        },
        "items_never_trained": items - train["item"].n_unique(),
        "users_with_repeats": per_user.filter(pl.col("repeats") > 0).height,
        "repeated_interactions": int(per_user["repeats"].sum()),
        "test_items_in_history": int(per_user["test_seen"].sum()),
    }
