"""Split protocols: what a model is trained on, and what it is asked for.

What belongs here: from a table of interactions to the parts train, valid and test, one class a
protocol, and the registry of them. What does not: a protocol's keys (`config`), k-core and
numbering (`preprocess`), parts on disk (`splits`), how targets are ranked (`training.evaluation`).

* `leave_one_out` (the paper's): each user's last item is the test target, the one before the
  validation target, the rest is training. A model so trained has seen what other users did after
  the moment it is tested at.
* `temporal`: two moments cut the whole log. Training is what happened before the first cut,
  validation targets lie between the cuts, test targets after the second. The input of a target is
  everything that its user did before it, trained on or not.

Rules of `temporal`:
* **Ties.** An interaction at the very moment of a cut lies after it, so that equal times never
  stand on both sides. The cut of a quantile q is the time of interaction ⌊q · N⌋, counted from 0
  in the order of time.
* **Ids.** Users and items of the training part are numbered first, from that part alone, then
  those that the validation part adds, then the test part's: nothing after a cut changes an id, a
  batch, a weight or a rank before it. (With `core_on = "all"` the core is of the whole log, so that
  what comes later has a say in who is in it, and the cut of a quantile is of the whole log too.)
* **Cold items** first appear after the first cut. Their ids are above `known_items`: they are no
  candidates, have no embedding, are left out of inputs, and are misses as targets.
"""

import datetime
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import polars as pl

from fparec_pipeline.config import Dataset, Temporal
from fparec_pipeline.datasets.preprocess import (
    EPOCH,
    Sequences,
    SplitsError,
    k_core,
    leave_one_out,
    numbered,
    own_ids,
)

PARTS = ("train", "valid", "test")
TARGET = "target"  # column of valid and test: whether the row is a target, or input only


@dataclass(frozen=True)
class Parts:
    """A dataset that has been split.

    `valid` and `test` have a boolean column `target` where a row may be input only, and a user may
    have no target or several; without it every user has exactly one row in each.
    """

    sequences: Sequences  # all rows of the parts, and the names of users and items
    frames: dict[str, pl.DataFrame]  # part → columns of the sequences; by user, then position
    known_items: int  # items 1..known_items can be recommended; those above are cold
    facts: dict[str, Any] = field(default_factory=dict)  # the protocol's own statistics


class SplitProtocol(Protocol):
    """A way to split; `PROTOCOLS` has one object of each."""

    @property
    def min_interactions(self) -> int:
        """Of every user, after the core."""

    @property
    def columns(self) -> tuple[str, ...]:
        """What it reads of a table beside user and item."""

    def split(self, name: str, dataset: Dataset, table: pl.DataFrame) -> Parts:
        """The parts of a table of interactions.

        Args:
            name: the dataset, for messages.
            dataset: its configuration.
            table: user, item and `columns`, in the order of the file; without `columns` if it is
                a published file, which has ids and an order of its own. Times are never null.

        Raises:
            SplitsError: too little is left, or the protocol needs times that are not there.
        """


class LeaveOneOut:
    """Each user's last item for the test, the one before it for validation."""

    min_interactions = 3  # a training, a validation and a test item
    columns = ("time",)

    def split(self, name: str, dataset: Dataset, table: pl.DataFrame) -> Parts:
        if "time" in table.columns:
            sequences = numbered(k_core(table, dataset.core))
        else:
            sequences = own_ids(name, table)
        _require_enough(name, dataset, sequences, self.min_interactions)
        frames = leave_one_out(sequences.rows.lazy())
        collected = pl.collect_all([frames[part] for part in PARTS])
        return Parts(sequences, dict(zip(PARTS, collected, strict=True)), len(sequences.item_names))


class TemporalSplit:
    """Two moments cut the log; see the module's docstring for the rules."""

    min_interactions = 1
    columns = ("time", "day")

    def split(self, name: str, dataset: Dataset, table: pl.DataFrame) -> Parts:
        settings = dataset.protocol
        assert isinstance(settings, Temporal)  # noqa: S101  # the registry's key is its name
        if "time" not in table.columns:
            raise SplitsError(
                f"{name}: the protocol temporal needs times, and its source "
                f"{dataset.source_name!r} has none. Choose a source that has them (`source` in "
                "datasets.toml), or the protocol leave_one_out."
            )
        if settings.core_on == "all":
            table = k_core(table, dataset.core)
        valid_from, test_from = cuts(name, table, settings)
        table, trained = _trained(table, valid_from, dataset.core, settings)
        known_users, known_items = table.filter(trained).select(pl.n_unique("user", "item")).row(0)
        stages = np.where(trained, 0, np.where(table["time"] < test_from, 1, 2))
        sequences = numbered(table, stages)
        _require_enough(name, dataset, sequences, self.min_interactions)
        window = (pl.col("time") >= valid_from).cast(pl.Int8) + (pl.col("time") >= test_from)
        rows = _with_targets(sequences.rows.with_columns(window=window), settings.target)
        facts = {
            "valid_from": valid_from,
            "test_from": test_from,
            **_cold(rows, known_users, known_items),
        }
        _require_targets(name, rows, facts)
        return Parts(sequences, _frames(rows, known_users), known_items, facts)


PROTOCOLS: dict[str, SplitProtocol] = {
    "leave_one_out": LeaveOneOut(),
    "temporal": TemporalSplit(),
}


def counts(ids: pl.Series, size: int) -> np.ndarray:
    """How often each of 1..size stands in `ids`, (size,)."""
    return np.bincount(ids.to_numpy(), minlength=size + 1)[1:]


def cuts(name: str, table: pl.DataFrame, settings: Temporal) -> tuple[int, int]:
    """The first times of the validation and of the test part, in the unit of the column time.

    Args:
        name: the dataset, for messages.
        table: columns time and, where a cut is a date, day.
        settings: quantiles or dates; the validation quantile is taken within what lies before the
            test cut.

    Raises:
        SplitsError: a part would be empty.
    """
    test_from = _cut(table, settings.test_from, settings.test_quantile)
    before = table.filter(pl.col("time") < test_from) if test_from is not None else table.clear()
    valid_from = _cut(before, settings.valid_from, settings.valid_quantile)
    if test_from is None or valid_from is None or not (before["time"] < valid_from).any():
        raise SplitsError(
            f"{name}: the cuts of the protocol temporal leave a part without interactions. "
            "(Interactions at the very moment of a cut lie after it, so that many equal times may "
            "leave nothing before it.) Change test_quantile, valid_quantile, test_from or "
            "valid_from of its protocol in datasets.toml."
        )
    return valid_from, test_from


def _cut(table: pl.DataFrame, date: datetime.date | None, quantile: float) -> int | None:
    """The first time that lies after the date's start or the quantile; None where none does."""
    if date is not None:
        after = pl.col("time").filter(pl.col("day") >= (date - EPOCH).days)
        first: int | None = table.select(after.min()).item()
        return first
    return int(table["time"].sort()[int(quantile * table.height)]) if table.height else None


def _trained(
    table: pl.DataFrame, valid_from: int, core: int, settings: Temporal
) -> tuple[pl.DataFrame, pl.Series]:
    """The rows that are of use, and which of them are training's, (rows,).

    With the core on the training part alone, what came before the first cut and is outside that
    core is of use where its user is not trained on and comes back later: as input.
    """
    before = pl.col("time") < valid_from
    if settings.core_on == "all":
        return table, table.select(before)["time"]
    table = table.with_row_index("place")
    core_places = k_core(table.filter(before), core)["place"]
    trained = pl.col("place").is_in(core_places.implode())
    untrained_user = ~trained.any().over("user")
    comes_back = (~before).any().over("user")
    table = table.with_columns(trained=trained).filter(
        pl.col("trained") | ~before | (untrained_user & comes_back)
    )
    return table.drop("place", "trained"), table["trained"]


def _with_targets(rows: pl.DataFrame, target: str) -> pl.DataFrame:
    """`rows` (user, item, time, window; by user, then time) with the column `target`.

    Args:
        target: which of a user's rows in a window are: the "last", the "first" or "all".
    """
    key = pl.struct("user", "window")
    chosen = {
        "last": key.ne_missing(key.shift(-1)),
        "first": key.ne_missing(key.shift(1)),
        "all": pl.lit(True),
    }[target]
    return rows.with_columns((chosen & (pl.col("window") > 0)).alias(TARGET))


def _frames(rows: pl.DataFrame, known_users: int) -> dict[str, pl.DataFrame]:
    """Train, valid and test of the rows of `_with_targets`.

    What an untrained user did before the first cut stands in valid, as input.
    """
    trained = (pl.col("window") == 0) & (pl.col("user") <= known_users)
    held_out = rows.filter(~trained)
    plain = ("user", "item", "time")
    return {
        "train": rows.filter(trained).select(plain),
        "valid": held_out.filter(pl.col("window") < 2).select(*plain, TARGET),
        "test": held_out.filter(pl.col("window") == 2).select(*plain, TARGET),
    }


def _cold(rows: pl.DataFrame, known_users: int, known_items: int) -> dict[str, int]:
    """What the test cannot be answered well for, and why, as counts.

    `…_without_input`: the user has no earlier interaction with a known item.
    """
    usable = (pl.col("item") <= known_items).cast(pl.Int32)
    marked = rows.lazy().with_columns(
        inputs=usable.cum_sum().over("user") - usable,
        repeated=pl.int_range(pl.len()).over("user", "item") > 0,
    )
    found: dict[str, int] = {
        "known_users": known_users,
        "known_items": known_items,
        "cold_users": int(rows["user"].n_unique()) - known_users,
        "cold_items": int(rows["item"].n_unique()) - known_items,
    }
    for window, part in enumerate(PARTS[1:], start=1):
        targets = marked.filter(pl.col(TARGET), pl.col("window") == window)
        cold_item = pl.col("item") > known_items
        answers = targets.select(
            pl.len().alias("targets"),
            pl.col("user").n_unique().alias("users"),
            cold_item.sum().alias("targets_cold_item"),
            (pl.col("user") > known_users).sum().alias("targets_cold_user"),
            (pl.col("inputs") == 0).sum().alias("targets_without_input"),
            (~cold_item & (pl.col("inputs") > 0)).sum().alias("targets_ranked"),
            pl.col("repeated").sum().alias("targets_in_history"),
        )
        found |= {
            f"{part}_{key}": int(v) for key, v in answers.collect().row(0, named=True).items()
        }
    return found


def _require_targets(name: str, rows: pl.DataFrame, facts: dict[str, Any]) -> None:
    """Something to learn from, items to choose among, and in each part a target to rank."""
    for part in PARTS[1:]:
        if not facts[f"{part}_targets_ranked"]:
            raise SplitsError(
                f"{name}: no {part} target of the protocol temporal is an item that training has, "
                "of a user who has done something before. Move the cuts (test_quantile, "
                "valid_quantile, test_from or valid_from) in datasets.toml."
            )
    trained = rows.filter(pl.col("window") == 0, pl.col("user") <= facts["known_users"])
    if trained["user"].n_unique() == trained.height or facts["known_items"] < 2:
        raise SplitsError(
            f"{name}: before the first cut of the protocol temporal no user has two interactions, "
            "or there is only one item, so that there is nothing to train on. Move it later in "
            "datasets.toml."
        )


def _require_enough(name: str, dataset: Dataset, sequences: Sequences, at_least: int) -> None:
    """At least two users and items, and `at_least` interactions of every user."""
    source = dataset.active_source
    users, items = len(sequences.user_names), len(sequences.item_names)
    if users < 2 or items < 2:
        dates = [getattr(source, key, None) for key in ("from_date", "to_date")]
        ranged = " and the date range" if any(dates) else ""
        raise SplitsError(
            f"{name}: {users} users and {items} items are left after the {dataset.core}-core"
            f"{ranged}; at least 2 of each are needed. Lower `core` in datasets.toml or give it "
            "more data."
        )
    if counts(sequences.rows["user"], users).min() < at_least:
        raise SplitsError(
            f"{name}: there are users with fewer than {at_least} interactions, which "
            f"{dataset.protocol.name.replace('_', '-')} cannot split. Set `core` to {at_least} or "
            "more in datasets.toml."
        )
