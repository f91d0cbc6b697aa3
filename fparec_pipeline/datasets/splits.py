"""The splits of a dataset: made from its raw file, kept on disk, read as flat arrays.

What belongs here: parts on disk and the arrays of them. What does not: which interaction is in
which part (`protocols`).

A folder `data/splits/<dataset>/` holds `train`, `valid`, `test`, `items` and `users` as parquet
files and `stats.json`. It is written under a temporary name and renamed, so that a folder of that
name is a finished one. `stats.json` has the sha256 of every file and the *logical data hash*: a
hash of what a model is given (the arrays of `Splits`), not of parquet bytes, so that another
version of the writer changes no trial's fingerprint.

Under leave-one-out every user has one interaction in valid and one in test. Under other protocols a
user may have any number there; the column `target` of the two tables says which are targets. The
others are input only. A target's input is what its user did before it, in whatever part.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from fparec_pipeline.config import Dataset, TimedSource
from fparec_pipeline.datasets.collecting import Interactions, collect, facts
from fparec_pipeline.datasets.files import CHECKSUM, digest, naming, seal
from fparec_pipeline.datasets.locks import locked
from fparec_pipeline.datasets.preprocess import (
    Sequences,
    SplitsError,
    between,
    numbers,
    repetitions,
    with_shuffled_ties,
    without_consecutive_repeats,
    without_duplicates,
)
from fparec_pipeline.datasets.protocols import PARTS, PROTOCOLS, TARGET, Parts, counts
from fparec_pipeline.datasets.sources import RawDataError, raw_files
from fparec_pipeline.datasets.staleness import (
    configuration,
    content,
    outdated,
    traces,
    write_inputs,
)
from fparec_pipeline.paths import DataRoot

TABLES = (*PARTS, "items", "users")
DROPS = {  # what the keys `drop_…` of a source do, in this order
    "duplicates": without_duplicates,
    "consecutive_repeats": without_consecutive_repeats,
}
CASES_AT_ONCE = 1 << 12  # whose inputs are gathered at once
QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)


Part = Literal["valid", "test"]


@dataclass(frozen=True)
class Window:
    """Whose the interactions of a held-out part are, and which of them are targets."""

    offsets: np.ndarray  # int64 (n_users + 1,): user u's are at [offsets[u - 1]:offsets[u]]
    targets: np.ndarray  # bool (interactions of the part,)


@dataclass(frozen=True)
class Cases:
    """What a part asks of a model: each target, and the interactions before it.

    The input of case c is `items[starts[c]:ends[c]]`; it may be empty. A target above the
    catalogue's `n_items` is a cold item, which no model can recommend.
    """

    items: np.ndarray  # int32: what users did, user after user; nothing above n_items
    starts: np.ndarray  # int64 (cases,)
    ends: np.ndarray  # int64 (cases,)
    targets: np.ndarray  # int32 (cases,)
    users: np.ndarray  # int32 (cases,): whose case it is, counted from 0, ascending

    def inputs(self, order: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The inputs of the cases `order`, in blocks, so that memory does not grow with them.

        Yields:
            The cases of a block; of every item in their inputs, the place of its case in the
            block, ascending; the items.
        """
        for start in range(0, len(order), CASES_AT_ONCE):
            block = order[start : start + CASES_AT_ONCE]
            starts = self.starts[block]
            lengths = self.ends[block] - starts
            place = np.repeat(np.arange(len(block)), lengths)
            within = np.arange(len(place)) - (lengths.cumsum() - lengths)[place]
            yield block, place, self.items[starts[place] + within]

    def first_times(self) -> np.ndarray:
        """Whether a user's interaction is its first with the item, (items,) bool.

        Inputs begin with their user's first interaction, so that within each of them these are
        its distinct items. Where a user has no case it is not known whose the items are, and they
        are in no input: what is said of them means nothing.
        """
        edges = np.append(np.unique(self.starts), len(self.items))
        width = int(self.items.max(initial=0)) + 1
        first = np.zeros(len(self.items), bool)
        for start in range(0, len(edges) - 1, CASES_AT_ONCE):
            block = edges[start : start + CASES_AT_ONCE + 1]
            owners = np.repeat(np.arange(len(block) - 1), np.diff(block))
            part = slice(block[0], block[-1])
            first[part] = pl.Series(owners * width + self.items[part]).is_first_distinct()
        return first


@dataclass(frozen=True)
class Splits:
    """A dataset as flat arrays. Users are 1..n_users, items 1..n_items; 0 is padding."""

    name: str
    n_users: int
    n_items: int  # the catalogue: what can be recommended; cold items have ids above it
    train_items: np.ndarray  # int32 (training interactions,): user after user, each chronological
    train_offsets: np.ndarray  # int64 (n_users + 1,): user u has train_items[off[u - 1]:off[u]]
    valid: np.ndarray  # int32 (validation interactions,), in the same order
    test: np.ndarray  # int32 (test interactions,)
    stats: dict[str, Any]  # the content of stats.json
    # part → whose; {}: valid and test have one interaction of each user, which is a target
    windows: Mapping[str, Window] = field(default_factory=dict)

    def cases(self, part: Part) -> Cases:
        """The targets of a part with the inputs of each, ordered by user, then time."""
        if self.windows:
            return self._window_cases(part)
        items, offsets = self.train_items, self.train_offsets
        if part == "test":  # the validation item is the last item of the input
            items = np.insert(items, offsets[1:], self.valid)
            offsets = offsets + np.arange(len(offsets))
        targets = self.valid if part == "valid" else self.test
        users = np.arange(self.n_users, dtype=np.int32)
        return Cases(items, offsets[:-1], offsets[1:], targets, users)

    def _window_cases(self, part: Part) -> Cases:
        parts = PARTS[: PARTS.index(part) + 1]
        offsets = [self.train_offsets, *(self.windows[p].offsets for p in parts[1:])]
        every = np.arange(self.n_users, dtype=np.int32)
        users = np.concatenate([np.repeat(every, np.diff(o)) for o in offsets])
        items = np.concatenate([self.train_items, self.valid, self.test][: len(parts)])
        is_target = np.zeros(len(items), bool)
        is_target[len(items) - len(self.windows[part].targets) :] = self.windows[part].targets
        order = users.argsort(kind="stable")  # each user's parts one after the other
        users, items, is_target = users[order], items[order], is_target[order]
        known = items <= self.n_items
        before: np.ndarray = np.cumsum(known) - known  # how many known items stand before each row
        first = np.searchsorted(users, users)  # the row of the user's first interaction
        return Cases(
            items[known],
            before[first][is_target],
            before[is_target],
            items[is_target],
            users[is_target],
        )


def make_splits(name: str, dataset: Dataset, raw_path: Path, data: DataRoot) -> Splits:
    """Make a dataset's splits from its raw file and write them to `data.splits(name)`.

    Older splits are replaced. Malformed rows go to `quarantine.parquet` in `data.raw(name)`. If two
    processes make the same splits, one waits for the other.

    Args:
        name: the dataset's name.
        dataset: its configuration.
        raw_path: the file or folder that `sources.fetch_raw` returned.
        data: where to write.

    Raises:
        RawDataError: the raw file cannot be read or has too many malformed rows.
        SplitsError: too little is left for the protocol, or a published file's ids have gaps.
        CannotWrite: the disk is full; the old splits stay.
    """
    target = data.splits(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    data.raw(name).mkdir(parents=True, exist_ok=True)
    with locked(target.parent / f".{name}.lock"):
        # Of processes that were killed, and of the `finally` below. We hold the lock.
        for leftover in target.parent.glob(f".{name}.tmp-*"):
            shutil.rmtree(leftover)
        work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{name}.tmp-"))
        try:
            found, made_from, seen = _collected(name, dataset, raw_path, data, work)
            parts, dropped = _parts(name, dataset, found)
            folder = work / "splits"
            with naming(target):
                _write(name, dataset, parts, facts(found) | dropped | made_from, folder)
                write_inputs(folder, seen)
            if target.exists():
                target.rename(work / "old")  # a rename cannot replace a folder with files in it
            folder.rename(target)
        finally:
            # After an error Polars may still be writing other files into the folder; that must not
            # hide the error.
            shutil.rmtree(work, ignore_errors=True)
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
    scans = [pl.scan_parquet(folder / f"{part}.parquet") for part in PARTS]
    columns = pl.col("user", "item", f"^{TARGET}$")
    splits = _splits(name, stats, *pl.collect_all([scan.select(columns) for scan in scans]))
    if logical_hash(splits) != stats["data_hash"]:
        raise SplitsError(f"{folder / 'stats.json'} does not fit the files.{_advice(name)}")
    return splits


def current_splits(name: str, dataset: Dataset, data: DataRoot) -> Splits:
    """`read_splits`, for who trains on them: they must be of today's file and configuration.

    Raises:
        SplitsError: they are missing, damaged or outdated.
    """
    splits = read_splits(data.splits(name))
    if reason := outdated(name, dataset, data, splits.stats):
        raise SplitsError(f"{name}: the splits are outdated: {reason}.{_advice(name)}")
    return splits


def why_outdated(name: str, dataset: Dataset, data: DataRoot) -> str | None:
    """Why splits that are there are not of today's file and configuration; None if they are.

    Raises:
        SplitsError: `stats.json` cannot be read or is incomplete.
    """
    stats = statistics_on_disk(data.splits(name))
    return None if stats is None else outdated(name, dataset, data, stats)


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
    users = pl.read_parquet(path)
    if "train_count" in users.columns:
        return users["train_count"].to_numpy().astype(np.float64)
    return users["interactions"].to_numpy() - 2.0


def logical_hash(splits: Splits) -> str:
    """sha256 in hex over the sizes and arrays of the splits, whatever file they came from.

    Array lengths follow from the sizes and offsets, so that no two contents have one text.
    """
    content = hashlib.sha256(f"{splits.n_users} {splits.n_items} ".encode())
    content.update(splits.train_offsets.astype("<i8").tobytes())
    for array in (splits.train_items, splits.valid, splits.test):
        content.update(array.astype("<i4").tobytes())
    for window in splits.windows.values():
        content.update(window.offsets.astype("<i8").tobytes())
        content.update(window.targets.astype("u1").tobytes())
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
        older = CHECKSUM not in stats and "protocol" not in stats  # older ones have no checksum
        fits = older or seal(stats) == stats.get(CHECKSUM)
    except (ValueError, AttributeError) as error:
        raise SplitsError(f"{path} is damaged: {error}.{_advice(folder.name)}") from error
    if not complete or set(stats["files"]) != {f"{table}.parquet" for table in TABLES}:
        raise SplitsError(f"{path} is incomplete.{_advice(folder.name)}")
    if not fits:
        raise SplitsError(f"{path} is damaged: its checksum does not fit.{_advice(folder.name)}")
    return stats


def _collected(
    name: str, dataset: Dataset, raw_path: Path, data: DataRoot, scratch: Path
) -> tuple[Interactions, dict[str, Any], list[list[Any]]]:
    """The well-formed rows of the raw file, what they were made from, and the files' traces.

    Raises:
        RawDataError: among others, the file changed while it was read.
    """
    quarantine = data.raw(name) / "quarantine.parquet"
    origin = f"{name}: {raw_path}"
    files = raw_files(raw_path)
    seen = traces(files, data)
    with ThreadPoolExecutor(1) as beside:  # hashing leaves a core to what follows
        hashed = beside.submit(content, files)
        found = collect(origin, files, dataset.active_source, scratch, quarantine)
        made_from = {"configuration": configuration(dataset), "content": hashed.result()}
    if traces(files, data) != seen:
        raise RawDataError(f"{origin} changed while it was read. Run again when it is complete.")
    return found, made_from, seen


def in_range(dataset: Dataset, found: Interactions) -> tuple[pl.DataFrame, dict[str, int]]:
    """The rows in the source's date range, ties shuffled if it says so, without what its keys
    `drop_…` drop; and how many each of these has dropped (`dropped_…`).
    """
    source, table, dropped = dataset.active_source, found.table, {}
    if found.unit is not None and isinstance(source, TimedSource):
        table = between(table, source.from_date, source.to_date, found.unit)
        if source.shuffle_ties:
            table = with_shuffled_ties(table)
        for key, drop in DROPS.items():
            if getattr(source, f"drop_{key}"):
                fewer = drop(table)
                dropped[f"dropped_{key}"] = table.height - fewer.height
                table = fewer
    return table, dropped


def _parts(name: str, dataset: Dataset, found: Interactions) -> tuple[Parts, dict[str, int]]:
    """The interactions, split; and how many were dropped because they repeat others."""
    protocol = PROTOCOLS[dataset.protocol.name]
    table, dropped = in_range(dataset, found)
    _require_some(name, found, table)
    if found.unit is not None and "day" in protocol.columns:
        table = table.with_columns((pl.col("time") // found.unit.day).alias("day"))
    return protocol.split(name, dataset, table), dropped


def _require_some(name: str, found: Interactions, table: pl.DataFrame) -> None:
    if found.table.height and not table.height and found.unit:
        first, last = (found.unit.moment(int(t)) for t in found.span)
        raise SplitsError(
            f"{name}: no interaction lies between from_date and to_date: the times run from {first}"
            f" to {last}, read as {found.unit.words}. Correct the dates, or `time_unit`, in "
            "datasets.toml."
        )


def _write(
    name: str, dataset: Dataset, parts: Parts, reading: dict[str, Any], folder: Path
) -> None:
    """Writes the five parquet files and stats.json into the new folder `folder`."""
    folder.mkdir()
    sequences, frames = parts.sequences, parts.frames
    per_user = {"interactions": sequences.rows["user"]}
    if parts.facts:
        per_user["train_count"] = frames["train"]["user"]
    tables = dict(frames)
    tables["items"] = _named("item", sequences.item_names, train_count=frames["train"]["item"])
    tables["users"] = _named("user", sequences.user_names, **per_user)
    pl.collect_all(
        [
            rows.lazy().sink_parquet(folder / f"{table}.parquet", lazy=True)
            for table, rows in tables.items()
        ]
    )
    stats: dict[str, Any] = {
        "dataset": name,
        "source": dataset.source_name,
        "protocol": dataset.protocol.model_dump(mode="json"),
    }
    stats |= _statistics(sequences, frames["train"]) | parts.facts
    stats |= {
        **reading,
        "data_hash": logical_hash(_splits(name, stats, *(frames[part] for part in PARTS))),
        "files": {f"{table}.parquet": digest(folder / f"{table}.parquet") for table in TABLES},
    }
    stats[CHECKSUM] = seal(stats)
    (folder / "stats.json").write_text(json.dumps(stats, indent=2) + "\n", encoding="utf-8")


def _named(kind: str, names: pl.Series, **counted: pl.Series) -> pl.DataFrame:
    """Every id, its name in the source, and how often it stands in the column `counted`."""
    counted_rows = {
        column: pl.Series(counts(rows, len(names)).astype(np.uint32))
        for column, rows in counted.items()
    }
    return pl.DataFrame([numbers(kind, len(names)), names.alias("source_id")]).with_columns(
        **counted_rows
    )


def _splits(
    name: str, stats: dict[str, Any], train: pl.DataFrame, valid: pl.DataFrame, test: pl.DataFrame
) -> Splits:
    """The three tables, which are sorted by user, then position, as arrays.

    They own their memory, because torch warns of arrays that it could not write to.
    """
    users = int(stats["users"])

    def offsets(part: pl.DataFrame) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(counts(part["user"], users))]).astype(np.int64)

    held_out = {"valid": valid, "test": test}
    return Splits(
        name=name,
        n_users=users,
        n_items=int(stats.get("known_items", stats["items"])),
        train_items=train["item"].to_numpy(writable=True),
        train_offsets=offsets(train),
        valid=valid["item"].to_numpy(writable=True),
        test=test["item"].to_numpy(writable=True),
        stats=stats,
        windows={
            part: Window(offsets(rows), rows[TARGET].to_numpy())
            for part, rows in held_out.items()
            if TARGET in rows.columns
        },
    )


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
        **repetitions(sequences.rows),
    }
