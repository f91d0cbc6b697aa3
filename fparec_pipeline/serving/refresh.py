"""Newer data: may a challenger take the champion's place?

Notable:
* Both are compared as validation saw them: the challenger's trial, and the weights of the trial
  that the champion was chosen by. Neither was trained on a validation item, whereas a refitted
  champion was trained on all that is old.
* The champion knows items by the source's ids. An item that it does not know is no part of its
  input, and a target that it does not know is a miss, as is one of a user without a known item.
* It ranks its target among the items it knows, which are fewer: that is in its favour.

Here belongs the comparison. When it is made belongs to `defs/serving.py`.
"""

from pathlib import Path

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict

from fparec_pipeline.config import Hyperparameters
from fparec_pipeline.datasets.splits import Cases, Splits
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.results.significance import ALPHA, paired_p
from fparec_pipeline.serving.champion import CHOSEN, Champion
from fparec_pipeline.serving.choice import METRIC, Choice, validation_values
from fparec_pipeline.serving.model import ITEMS, read_network
from fparec_pipeline.training.evaluation import EvaluationSet, network_scorer, rank_targets
from fparec_pipeline.training.metrics import by_user, per_target


class Comparison(BaseModel):
    """A challenger against the champion on today's validation items."""

    model_config = ConfigDict(frozen=True)

    users: int
    challenger: float  # mean validation NDCG@10
    champion: float
    p: float  # two-sided, paired over users

    @property
    def worse(self) -> bool:
        """Whether the challenger is significantly worse."""
        return self.challenger < self.champion and self.p < ALPHA

    @property
    def sentence(self) -> str:
        """How it ended, for people."""
        verdict = "significantly worse than" if self.worse else "not significantly worse than"
        return (
            f"The challenger is {verdict} the champion on today's validation: NDCG@10 "
            f"{self.challenger:.4f} against {self.champion:.4f}, {self.users:,} users, "
            f"p {self.p:.2g}."
        )


def compare_with_champion(
    choice: Choice, champion: Champion, splits: Splits, data: DataRoot
) -> Comparison | None:
    """The chosen trial of today's data against the trial that the champion stands on.

    Returns:
        None where the champion's folder lacks the weights that validation saw (a published trial).

    Raises:
        TrialCorrupt: the challenger's ranks are damaged.
        ModelUnusable: the champion's own mixer or network has changed since it was trained.
    """
    folder = data.champions(champion.dataset) / champion.fingerprint
    if not (folder / CHOSEN).exists():
        return None
    challenger = validation_values(choice.dataset, choice.arm, [choice.seed], data)[0]
    names = pl.read_parquet(data.splits(choice.dataset) / "items.parquet")
    old = _values(champion, folder, splits, names.select("item", "source_id"))
    return Comparison(
        users=len(old),
        challenger=float(challenger.mean()),
        champion=float(old.mean()),
        p=paired_p(challenger, old),
    )


def _values(champion: Champion, folder: Path, splits: Splits, names: pl.DataFrame) -> np.ndarray:
    """Each user's validation NDCG@10 by the champion's trial, (users,), users ascending."""
    known = pl.read_parquet(folder / ITEMS)
    h = Hyperparameters(**champion.hyperparameters)
    n_items = champion.stands_on.n_items
    network = read_network(h, n_items, folder / CHOSEN)
    cases = splits.cases("valid")
    old = _renumbered(cases, _numbers(names, known, n_items), n_items)
    ranks = rank_targets(network_scorer(network), EvaluationSet(old, "valid", h.n))
    return by_user(per_target(ranks.kept, METRIC), cases.users)


def _numbers(names: pl.DataFrame, known: pl.DataFrame, n_items: int) -> np.ndarray:
    """The champion's number of each of today's items, (items + 1,); n_items + 1 where it has none.

    An item that the champion's trial did not know has none either: its refit may know more.
    """
    pairs = names.join(known.select("source_id", number="item"), on="source_id", how="left").select(
        "item", pl.col("number").fill_null(n_items + 1).clip(upper_bound=n_items + 1)
    )
    numbers = np.full(int(names["item"].max() or 0) + 1, n_items + 1)  # type: ignore[arg-type]
    numbers[pairs["item"].to_numpy()] = pairs["number"].to_numpy()
    return numbers


def _renumbered(cases: Cases, numbers: np.ndarray, n_items: int) -> Splits:
    """The cases by the champion's numbers, each as a user of its own; unknown input left out."""
    lengths = cases.ends - cases.starts
    owner = np.repeat(np.arange(len(lengths)), lengths)
    within = np.arange(len(owner)) - (lengths.cumsum() - lengths)[owner]
    items = numbers[cases.items[cases.starts[owner] + within]]
    kept = items <= n_items
    counts = np.bincount(owner[kept], minlength=len(lengths))
    targets = numbers[cases.targets].astype(np.int32)
    return Splits(
        name="renumbered",
        n_users=len(lengths),
        n_items=n_items,
        train_items=items[kept].astype(np.int32),
        train_offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        valid=targets,
        test=targets,  # not looked at
        stats={},
    )
