"""What must be true of splits on disk; each check reads the files, never the code that made them.

A failed check of severity `error` blocks what stands downstream; a `warning` is only shown.

Here belong the checks that every protocol has. Those of one protocol belong to `protocols.py`,
those of results to `defs/checks.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import polars as pl

from fparec_pipeline.config import Dataset, LeaveOneOut, Temporal
from fparec_pipeline.datasets.notes import MANY_DUPLICATES, MANY_REPEATS
from fparec_pipeline.datasets.splits import PARTS, TARGET, read_splits


@dataclass(frozen=True)
class CheckResult:
    """What one check found; `details` are plain values to show beside the message."""

    name: str
    passed: bool
    severity: Literal["error", "warning"]
    message: str
    details: dict[str, Any] = field(default_factory=dict)


def check_splits(folder: Path, dataset: Dataset) -> list[CheckResult]:
    """All of `CHECKS`, in order, on intact splits.

    Args:
        folder: `data/splits/<dataset>/`.
        dataset: its configuration (expected counts, core).

    Raises:
        SplitsError: a file is missing or damaged.
    """
    read_splits(folder)
    return [check(folder, dataset) for check in CHECKS.values()]


def expected_counts(folder: Path, dataset: Dataset) -> CheckResult:
    """Users, items and interactions equal the configured counts (the paper's Table 2).

    A warning only for a source placed by hand: its publisher changes it over the years.
    """
    everything = _interactions(folder)
    found = everything.select(
        users=pl.col("user").n_unique(), items=pl.col("item").n_unique(), interactions=pl.len()
    )
    counts = found.collect().row(0, named=True)
    expected = dataset.expected.model_dump() if dataset.expected else {}
    off = [
        f"{counts[key]:,} {key}, not {value:,}"
        for key, value in expected.items()
        if counts[key] != value
    ]
    message = "; ".join(off) or ("as expected" if expected else "no counts are configured")
    return CheckResult(
        name="expected_counts",
        passed=not off,
        severity="warning" if getattr(dataset.active_source, "manual", False) else "error",
        message=message,
        details=counts | {f"expected_{key}": value for key, value in expected.items()},
    )


def one_validation_and_test_item(folder: Path, dataset: Dataset) -> CheckResult:
    """Under leave-one-out every user has one validation and one test item, and a training item."""
    if not isinstance(dataset.protocol, LeaveOneOut):
        return _not_asked("one_validation_and_test_item", dataset)
    users = pl.scan_parquet(folder / "users.parquet").select("user")
    for part in PARTS:
        rows = _part(folder, part).group_by("user").agg(pl.len().alias(part))
        users = users.join(rows, on="user", how="full", coalesce=True)
    wrong = pl.col("train").is_null() | pl.any_horizontal(
        pl.col("valid", "test").fill_null(0).ne(1)
    )
    return _none_of("one_validation_and_test_item", "user", users.filter(wrong))


def split_by_time(folder: Path, dataset: Dataset) -> CheckResult:
    """Under temporal no training item is later than a target, and the cuts part the targets.

    Every user has the targets that the protocol says: one at most of each part, or any number.
    """
    if not isinstance(dataset.protocol, Temporal):
        return _not_asked("split_by_time", dataset)
    valid_from, test_from = (read_splits(folder).stats[k] for k in ("valid_from", "test_from"))
    time, is_target = pl.col("time"), pl.col(TARGET)
    most = pl.len() if dataset.protocol.target == "all" else 1
    several = (is_target.sum() > most).over("user")
    wrong = pl.concat(
        [
            _part(folder, "train").filter(time >= valid_from).select("user"),
            _part(folder, "valid")
            .filter((time >= test_from) | (is_target & (time < valid_from)) | several)
            .select("user"),
            _part(folder, "test").filter((time < test_from) | several).select("user"),
        ]
    )
    return _none_of("split_by_time", "user", wrong.unique())


def contiguous_ids(folder: Path, dataset: Dataset) -> CheckResult:
    """Users and items are 1..N in their tables, in this order, and those of the parts."""
    wrong = []
    for table, column in (("users", "user"), ("items", "item")):
        listed = pl.read_parquet(folder / f"{table}.parquet")[column]
        if listed.to_list() != list(range(1, len(listed) + 1)):
            wrong.append(f"{table}.parquet is not 1..{len(listed):,}")
        used = _interactions(folder).select(pl.col(column).unique().sort()).collect()[column]
        if not used.equals(listed.sort()):
            wrong.append(f"the {table} of train, valid and test are not those of {table}.parquet")
    message = "; ".join(wrong) or "users and items are numbered from 1 without gaps"
    return CheckResult("contiguous_ids", not wrong, "error", message)


def held_out_come_last(folder: Path, dataset: Dataset) -> CheckResult:
    """Where there are times: training in order, then validation, then test; ties are allowed."""
    everything = _interactions(folder)
    if "time" not in everything.collect_schema():
        return CheckResult("held_out_come_last", True, "error", "the source has no times")
    backwards = (pl.col("time").diff() < 0).over("user")
    unordered = everything.filter(backwards | pl.col("time").is_null()).select("user").unique()
    return _none_of("held_out_come_last", "user", unordered)


def at_least_core(folder: Path, dataset: Dataset) -> CheckResult:
    """No user and no item has fewer interactions than the dataset's core.

    In training alone, where the protocol has the core on that part.
    """
    core_on_train = isinstance(dataset.protocol, Temporal) and dataset.protocol.core_on == "train"
    everything = _part(folder, "train") if core_on_train else _interactions(folder)
    below = {
        f"{column}s_below_core": everything.group_by(column)
        .len()
        .filter(pl.col("len") < dataset.core)
        .select(pl.len())
        .collect()
        .item()
        for column in ("user", "item")
    }
    passed = not any(below.values())
    message = (
        f"every user and item has at least {dataset.core} interactions"
        if passed
        else "; ".join(f"{count:,} {key.replace('_', ' ')}" for key, count in below.items())
    )
    return CheckResult("at_least_core", passed, "error", message, below)


def few_repetitions(folder: Path, dataset: Dataset) -> CheckResult:
    """Few interactions repeat another one exactly, or are of the item before; a warning only."""
    everything = _interactions(folder)
    timed = "time" in everything.collect_schema()
    key = ("user", "item", "time") if timed else ("user", "item")
    same = (pl.col("item") == pl.col("item").shift()) & (pl.col("user") == pl.col("user").shift())
    found = everything.sort("user", maintain_order=True).select(
        interactions=pl.len(),
        duplicates=pl.len() - pl.struct(key).n_unique() if timed else pl.lit(0),
        consecutive_repeats=same.sum(),
    )
    counts = {name: int(value) for name, value in found.collect().row(0, named=True).items()}
    most = {"duplicates": MANY_DUPLICATES, "consecutive_repeats": MANY_REPEATS}
    many = [key for key, share in most.items() if counts[key] > share * counts["interactions"]]
    words = "; ".join(f"{counts[key]:,} {key.replace('_', ' ')}" for key in most)
    advice = f"; set drop_{many[0]} in datasets.toml to keep the first of each" if many else ""
    return CheckResult("few_repetitions", not many, "warning", words + advice, counts)


def _part(folder: Path, part: str) -> pl.LazyFrame:
    return pl.scan_parquet(folder / f"{part}.parquet")


def _interactions(folder: Path) -> pl.LazyFrame:
    """All three parts, so that each user's rows stand in the order train, valid, test."""
    return pl.concat([_part(folder, part).drop(TARGET, strict=False) for part in PARTS])


def _not_asked(name: str, dataset: Dataset) -> CheckResult:
    return CheckResult(name, True, "error", f"the protocol is {dataset.protocol.name}")


def _none_of(name: str, what: str, violating: pl.LazyFrame) -> CheckResult:
    """The result of a check that looks for violating users or items and should find none."""
    found = violating.select(what).sort(what).collect()[what]
    examples = found.head(5).to_list()
    message = f"{len(found):,} {what}s violate it, such as {examples}" if examples else "holds"
    return CheckResult(name, not examples, "error", message, {f"violating_{what}s": len(found)})


CHECKS: dict[str, Callable[[Path, Dataset], CheckResult]] = {
    "expected_counts": expected_counts,
    "one_validation_and_test_item": one_validation_and_test_item,
    "split_by_time": split_by_time,
    "contiguous_ids": contiguous_ids,
    "held_out_come_last": held_out_come_last,
    "at_least_core": at_least_core,
    "few_repetitions": few_repetitions,
}
