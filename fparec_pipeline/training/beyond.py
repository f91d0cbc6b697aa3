"""Beyond accuracy: the top-k lists of a trial's test, what they hold, and for whom they are right.

What belongs here: the table of the lists, with facts of each test target that do not depend on the
model, and the metrics made of it. What does not: making lists and ranks (`evaluation`), which needs
torch, and metrics of ranks alone (`metrics`).

A trial that is tested writes one table, `lists.parquet`, with one row a test target in the order of
`Splits.cases`. With the ranks it is all that these metrics need, so that intervals and paired tests
can be worked out later, user by user. `METRICS` says what each metric is.

* **Lists.** The K items of the highest scores, once with the history among the candidates ("test")
  and once without ("test_unseen"). Without input there is no list. Of equal scores any may stand in
  a list, while a *rank* counts ties against the model.
* **Popularity** of an item is the number of training users who have it; the *popular tenth* are the
  ⌈|V| / 10⌉ items of most training interactions, of equal ones those of lower id.
* Users weigh alike: a user's targets are averaged first. In coverage and Gini, which are of all
  lists together, a list counts 1 / (lists of its user).
"""

from collections.abc import Callable

import numpy as np
import polars as pl

from fparec_pipeline.datasets.splits import Cases, Splits
from fparec_pipeline.training.metrics import by_user, per_target

K = 10
USERS_AT_ONCE = 1 << 12  # in one array of intermediate results
RANKINGS = ("test", "test_unseen")


def lists_table(kept: np.ndarray, unseen: np.ndarray, splits: Splits) -> pl.DataFrame:
    """The table of a trial: `target_facts`, then for each of RANKINGS the list and its values.

    "test" and "test_unseen" are arrays of K items in the smallest integers that hold them;
    "test/novelty_at_10" and so on are the values of each list, null where there is no list.

    Args:
        kept: (test targets, K) the recommended items, best first, 0 where there is no further one.
        unseen: the same without the history.
        splits: what was tested on.
    """
    kind = np.min_scalar_type(splits.n_items)
    facts = dict(zip(("novelty", "popular_share"), item_facts(splits), strict=True))
    columns = []
    for ranking, items in zip(RANKINGS, (kept, unseen), strict=True):
        small = items.astype(kind, copy=False)
        columns.append(pl.Series(ranking, small, dtype=pl.Array(_POLARS[kind], K)))
        for name, of_item in facts.items():
            values = _means(small, np.append(0.0, of_item))
            columns.append(pl.Series(f"{ranking}/{name}_at_{K}", values).fill_nan(None))
    return target_facts(splits).with_columns(columns)


def _means(lists: np.ndarray, of_item: np.ndarray) -> np.ndarray:
    """The mean of a fact over each list's items; NaN for an empty list."""
    values = np.full(len(lists), np.nan)
    for start in range(0, len(lists), USERS_AT_ONCE):
        block = lists[start : start + USERS_AT_ONCE]
        counts = (block > 0).sum(1)
        sums = np.where(block > 0, of_item[block], 0.0).sum(1)
        np.divide(sums, counts, out=values[start : start + USERS_AT_ONCE], where=counts > 0)
    return values


_POLARS = {np.dtype(f"uint{bits}"): getattr(pl, f"UInt{bits}") for bits in (8, 16, 32)}


def item_facts(splits: Splits) -> tuple[np.ndarray, np.ndarray]:
    """Each item's novelty, and whether it is in the popular tenth, (n_items,) each.

    Novelty is −log₂ of the share of training users who have the item (Zhou et al. 2010); an item
    that no one has counts as if one user had it.
    """
    offsets, width = splits.train_offsets, splits.n_items + 1
    lengths = np.diff(offsets)
    users = np.zeros(width, np.int64)
    for start in range(0, splits.n_users, USERS_AT_ONCE):
        counts = lengths[start : start + USERS_AT_ONCE]
        items = splits.train_items[offsets[start] :][: counts.sum()]
        pairs = np.unique(np.repeat(np.arange(len(counts)), counts) * width + items)
        users += np.bincount(pairs % width, minlength=width)
    users = users[1:]
    novelty = -np.log2(np.maximum(users, 1) / max(1, (lengths > 0).sum()))
    counts = np.bincount(splits.train_items, minlength=width)[1:]
    popular = np.zeros(splits.n_items, bool)
    popular[np.argsort(-counts, kind="stable")[: -(-splits.n_items // 10)]] = True
    return novelty, popular


def target_facts(splits: Splits) -> pl.DataFrame:
    """What each test target is, whatever the model; one row a target, as in `Splits.cases`.

    Columns: user (from 1); `answerable` (the item is known and there is an input); `repeated` (the
    user has had the item before); `long_history` (the input has more items than the median
    target's); `popular` (the item is in the popular tenth).
    """
    cases = splits.cases("test")
    lengths = cases.ends - cases.starts
    known = cases.targets <= splits.n_items
    popular = np.append(item_facts(splits)[1], False)
    facts = pl.DataFrame(
        {
            "user": cases.users + 1,
            "answerable": known & (lengths > 0),
            "repeated": _repeated(cases),
            "long_history": lengths > np.median(lengths),
            "popular": popular[np.where(known, cases.targets, 0) - 1],
        }
    )
    return facts.with_columns(facts["user"].cast(pl.UInt32).shrink_dtype())


def _repeated(cases: Cases) -> np.ndarray:
    """Whether each case's target is among its input, (cases,) bool."""
    found = [
        np.bincount(place[items == cases.targets[block][place]], minlength=len(block)) > 0
        for block, place, items in cases.inputs(np.arange(len(cases.targets)))
    ]
    return np.concatenate([np.zeros(0, bool), *found])


# --- metrics ------------------------------------------------------------------------------------

# Of a trial's table and the ranks of its targets (targets,): each target's value, NaN where it has
# none. `ranking` is one of RANKINGS.
PerTarget = Callable[[pl.DataFrame, np.ndarray, str], np.ndarray]


def _of_lists(name: str) -> PerTarget:
    def values(table: pl.DataFrame, ranks: np.ndarray, ranking: str) -> np.ndarray:
        return table[f"{ranking}/{name}"].to_numpy()

    return values


def _has_list(table: pl.DataFrame, ranks: np.ndarray, ranking: str) -> np.ndarray:
    return (table[ranking].arr.get(0) > 0).cast(pl.Float64).to_numpy()


def _where(fact: str, wanted: bool, metric: str) -> PerTarget:
    def values(table: pl.DataFrame, ranks: np.ndarray, ranking: str) -> np.ndarray:
        return np.where(table[fact].to_numpy() == wanted, per_target(ranks, metric), np.nan)

    return values


SEGMENTS = {
    "answerable": ("answerable", True),  # without cold items and without users who have no past
    "new": ("repeated", False),
    "repeated": ("repeated", True),
    "short_history": ("long_history", False),
    "long_history": ("long_history", True),
    "popular": ("popular", True),
    "unpopular": ("popular", False),
}
OF_SEGMENTS = (f"hr_at_{K}", f"ndcg_at_{K}")

# Means over users, so that intervals and paired tests are as those of accuracy.
PER_TARGET: dict[str, PerTarget] = {
    f"novelty_at_{K}": _of_lists(f"novelty_at_{K}"),
    f"popular_share_at_{K}": _of_lists(f"popular_share_at_{K}"),
    "user_coverage": _has_list,
} | {
    f"{metric}_{segment}": _where(fact, wanted, metric)
    for segment, (fact, wanted) in SEGMENTS.items()
    for metric in OF_SEGMENTS
}


def coverage(weights: np.ndarray) -> float:
    """The share of the catalogue that stands in some list.

    Args:
        weights: (n_items,) how much each item is recommended, 0 where it is not.
    """
    return float((weights > 0).mean())


def gini(weights: np.ndarray) -> float:
    """The Gini coefficient of how much each item of the catalogue is recommended.

    0: all alike; 1 − 1 / |V|: one item alone. Σᵢ (2i − |V| − 1) wᵢ / (|V| Σ w), weights ascending.
    """
    ascending, size = np.sort(weights), len(weights)
    ranks = 2 * np.arange(1, size + 1) - size - 1
    return float((ranks * ascending).sum() / (size * ascending.sum()))


# Of all lists together: no user has a value of their own, so there is no interval and no test.
OF_ALL_LISTS: dict[str, Callable[[np.ndarray], float]] = {
    f"coverage_at_{K}": coverage,
    f"gini_at_{K}": gini,
}
METRICS = (*PER_TARGET, *OF_ALL_LISTS)
NAMES = [f"{ranking}/{metric}" for ranking in RANKINGS for metric in METRICS]


def per_user(metric: str, ranking: str, table: pl.DataFrame, ranks: np.ndarray) -> np.ndarray:
    """Each user's value of one of PER_TARGET, in the order of the users; those who have one.

    Args:
        metric: a name of PER_TARGET.
        ranking: one of RANKINGS.
        table: `lists_table`.
        ranks: of its rows by that ranking, (rows,).
    """
    values = PER_TARGET[metric](table, ranks, ranking)
    there = ~np.isnan(values)
    return by_user(values[there], table["user"].to_numpy()[there])


def recommended(table: pl.DataFrame, ranking: str, n_items: int) -> np.ndarray:
    """How much each item is recommended, (n_items,): every user's lists count 1 together."""
    items = table[ranking].to_numpy()
    users = table["user"].to_numpy()
    weights = 1 / np.bincount(users)[users]
    total = np.zeros(n_items + 1)
    for place in range(items.shape[1]):  # memory of one place, not of K
        total += np.bincount(items[:, place], weights, minlength=n_items + 1)
    return total[1:]


def beyond_accuracy(table: pl.DataFrame, ranks: pl.DataFrame, n_items: int) -> dict[str, float]:
    """All of METRICS, as "test/coverage_at_10"; without those that no user has a value of.

    Args:
        table: `lists_table`.
        ranks: `evaluation.ranks_table` of the same trial.
        n_items: the catalogue's size.
    """
    found: dict[str, float] = {}
    for ranking in RANKINGS:
        rows = ranks[ranking].drop_nulls().to_numpy()
        for metric in PER_TARGET:
            values = per_user(metric, ranking, table, rows)
            if len(values):
                found[f"{ranking}/{metric}"] = float(values.mean())
        weights = recommended(table, ranking, n_items)
        if weights.any():
            for metric, function in OF_ALL_LISTS.items():
                found[f"{ranking}/{metric}"] = function(weights)
    return found
