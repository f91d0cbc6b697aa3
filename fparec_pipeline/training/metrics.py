"""The metrics: each a function from ranks to one value a target, and what is made of those values.

What belongs here: whatever needs ranks only. What does not: making ranks (`evaluation`), and
statistics over users (`results.significance`). Nothing here needs torch.

To add a metric, write the function and register it in METRICS. Training, the frame of trials,
tables, tests, help texts and the importer of published results read the registry. A trial that is
older than a metric has no value of it; published ranks give it at the import.

* HR@k is 1 where the rank is at most k. NDCG@k is 1 / log₂(1 + rank) there, else 0: with one target
  the ideal gain is 1. MRR is the mean of 1 / rank.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import polars as pl

Metric = Callable[[np.ndarray], np.ndarray]  # ranks from 1, float64 → values, of any shape

CUTOFFS = (1, 5, 10, 20, 50)
# "unseen" ranks the target among the items that the history does not hold.
RANKINGS = ("valid", "valid_unseen", "test", "test_unseen")


def hit(ranks: np.ndarray, k: int) -> np.ndarray:
    """1 where the target is among the first k."""
    return (ranks <= k).astype(np.float64)


def discounted_gain(ranks: np.ndarray, k: int) -> np.ndarray:
    """1 / log₂(1 + rank) where the target is among the first k, else 0."""
    return np.where(ranks <= k, 1 / np.log2(1 + ranks), 0.0)


def reciprocal_rank(ranks: np.ndarray) -> np.ndarray:
    """1 / rank."""
    return 1 / ranks


METRICS: dict[str, Metric] = {
    **{f"hr_at_{k}": partial(hit, k=k) for k in CUTOFFS},
    **{f"ndcg_at_{k}": partial(discounted_gain, k=k) for k in CUTOFFS},
    "mrr": reciprocal_rank,
}
# Under these names they stand in records, frames, tables and MLflow.
NAMES = [f"{ranking}/{metric}" for ranking in RANKINGS for metric in METRICS]


def per_target(ranks: np.ndarray, metric: str) -> np.ndarray:
    """The metric's value for each target, as float64 of the shape of `ranks`.

    Args:
        ranks: whole numbers from 1, of any shape and width.
        metric: a name in METRICS, with or without a ranking before it ("test/ndcg_at_10").

    Raises:
        ValueError: no such metric.

    Examples:
        >>> per_target(np.array([1, 3, 11]), "ndcg_at_10").tolist()
        [1.0, 0.5, 0.0]
    """
    name = metric.rpartition("/")[2]
    if name not in METRICS:
        raise ValueError(f"There is no metric {metric!r}; there are: {', '.join(METRICS)}.")
    return METRICS[name](ranks.astype(np.float64))  # a uint8's logarithm would be half precise


def by_user(values: np.ndarray, users: np.ndarray) -> np.ndarray:
    """The mean of each user's values, (users,), in the order of the users.

    Args:
        values: (targets,) floats.
        users: (targets,) whose they are, equal ones side by side.
    """
    first = np.flatnonzero(np.diff(users, prepend=-1))
    if len(first) == len(users):
        return values
    return np.add.reduceat(values, first) / np.diff(np.append(first, len(users)))


def metrics_from_ranks(ranks: np.ndarray, users: np.ndarray | None = None) -> dict[str, float]:
    """All METRICS, each as the mean over users.

    Args:
        ranks: (targets,).
        users: (targets,) the user of each target; a user's targets are averaged first, so that
            all users have the same weight. None means that each target has its own user.

    Examples:
        >>> metrics_from_ranks(np.array([1, 3, 11, 60]))["hr_at_10"]
        0.5
    """
    users = np.arange(len(ranks)) if users is None else users
    return {name: float(by_user(per_target(ranks, name), users).mean()) for name in METRICS}


def metrics_of_table(ranks: pl.DataFrame) -> dict[str, float]:
    """`metrics_from_ranks` of each of RANKINGS of an `evaluation.ranks_table`; keys as NAMES."""
    metrics: dict[str, float] = {}
    for ranking in RANKINGS:
        rows = ranks.select("user", ranking).drop_nulls()
        found = metrics_from_ranks(rows[ranking].to_numpy(), rows["user"].to_numpy())
        metrics |= {f"{ranking}/{metric}": value for metric, value in found.items()}
    return metrics
