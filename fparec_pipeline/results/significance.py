"""Bootstrap intervals and paired tests, from each user's rank.

Notable:
* Both speak of users: had other users of the same kind been evaluated, how would the numbers
  differ? The variance of training is *not* covered; the values of the seeds stand beside for that.
* Holm's correction (Holm 1979) is over the comparisons of one dataset and metric.

Here belong statistics over users. The metrics belong to `training/metrics.py`, medians over seeds
to `medians.py`.
"""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from fparec_pipeline.config import Config
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training import beyond
from fparec_pipeline.training.metrics import by_user, per_target
from fparec_pipeline.training.record import LISTS, RANKS, TrialCorrupt, read_record

logger = logging.getLogger(__name__)

LEVEL = 0.95
ALPHA = 0.05
RESAMPLES = 2000
ROUNDING = 1e-12  # two differences of metrics that are this near are the same
_BATCH_NUMBERS = 4_000_000  # counts held at once: 32 MB

Pair = tuple[str, str]


@dataclass(frozen=True)
class Comparison:
    """One arm against another on one dataset, by one metric."""

    difference: float  # mean over users and seeds, first minus second
    p: float  # two-sided, before the correction
    p_holm: float

    @property
    def significant(self) -> bool:
        return self.p_holm < ALPHA


def bootstrap_interval(
    values: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile-bootstrap interval (Efron 1979) of the median over seeds of the mean.

    Users are drawn with replacement, the same ones for all seeds, and the median over seeds is
    taken again each time. Users with equal values are interchangeable, so it is enough to draw how
    often each distinct column occurs (one multinomial): the same distribution, fewer numbers.

    Args:
        values: (seeds, users), a metric of each user.
        resamples: how many samples of users.
        seed: decides the draws; equal seeds give equal intervals.

    Raises:
        ValueError: no user.

    Examples:
        >>> hits = np.array([[1.0, 0.0] * 50, [1.0, 1.0, 0.0, 0.0] * 25])  # 2 seeds, 100 users
        >>> low, high = bootstrap_interval(hits)
        >>> low < 0.5 < high
        True
    """
    users = values.shape[1]
    if users == 0:
        raise ValueError("An interval needs users.")
    columns, counts = _distinct_columns(values)
    draw = np.random.default_rng(seed)
    size = max(1, _BATCH_NUMBERS // len(counts))
    medians = [
        np.median(
            draw.multinomial(users, counts / users, size=min(size, resamples - first)) @ columns.T,
            axis=1,
        )
        / users
        for first in range(0, resamples, size)
    ]
    low, high = np.quantile(np.concatenate(medians), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _distinct_columns(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows, columns) → the distinct columns in ascending order, and how often each is there.

    What `np.unique` gives with `axis=1`, which compares whole columns and is three times as slow.
    """
    codes = np.zeros(values.shape[1], np.int64)
    for row in values:
        levels, places = np.unique(row, return_inverse=True)
        _, codes = np.unique(codes * len(levels) + places, return_inverse=True)
    _, first, counts = np.unique(codes, return_index=True, return_counts=True)
    return values[:, first], counts


def paired_p(first: np.ndarray, second: np.ndarray) -> float:
    """Two-sided p of the paired t-test over users.

    The claim is about means, and the t-test is of the mean difference; with hundreds of users or
    more it agrees with the permutation test (Smucker, Allan and Carterette 2007). Wilcoxon's test
    is not used: most differences are zero, which it drops, and it tests ranks of the rest.

    Args:
        first: (users,), a metric of each user, averaged over seeds.
        second: the same for the other arm, users in the same order.

    Returns:
        p; 1.0 if there is one user, or all differ by the same: the t-test has no variance then.

    Examples:
        >>> first, second = np.array([1.0, 0.5, 0.0, 0.6]), np.array([0.5, 0.4, 0.0, 0.2])
        >>> round(paired_p(first, second), 3)
        0.127
    """
    differences = first - second
    if len(differences) < 2 or np.ptp(differences) <= ROUNDING:
        return 1.0
    from scipy import stats  # a second, which Dagster's code location need not wait

    return float(stats.ttest_rel(first, second).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given.

    Examples:
        >>> [round(p, 2) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    count = len(p_values)
    corrected = [0.0] * count
    largest = 0.0
    for position, index in enumerate(sorted(range(count), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (count - position) * p_values[index]))
        corrected[index] = largest
    return corrected


def compare(values: dict[str, np.ndarray], pairs: Iterable[Pair]) -> dict[Pair, Comparison]:
    """Test pairs of arms on the same users, on the mean over seeds, with Holm's correction.

    Args:
        values: arm -> (seeds, users), one metric, with the users in the same order.
        pairs: (first, second) arms; a pair with an arm that is not in `values` is left out.
    """
    means = {arm: array.mean(axis=0) for arm, array in values.items()}
    there = [(a, b) for a, b in dict.fromkeys(pairs) if a in means and b in means]
    p_values = [paired_p(means[a], means[b]) for a, b in there]
    return {
        (a, b): Comparison(float((means[a] - means[b]).mean()), p, corrected)
        for (a, b), p, corrected in zip(there, p_values, holm(p_values), strict=True)
    }


@dataclass(frozen=True)
class Outcomes:
    """How the seeds of an arm ranked the test targets of a dataset."""

    ranks: dict[str, np.ndarray]  # "test" or "test_unseen" → (seeds, targets)
    users: np.ndarray  # (targets,) whose each is, ascending
    lists: list[pl.DataFrame]  # a seed's `beyond.lists_table`; empty where a seed has none

    def values(self, metric: str) -> np.ndarray:
        """The metric of each user, the mean over the user's targets: (seeds, users).

        Args:
            metric: such as "test/ndcg_at_10" or "test_unseen/novelty_at_10". Users without a
                value are left out; for metrics of lists, all are if a seed has no lists.

        Raises:
            ValueError: no such metric, or it has one value for all users together (coverage).
        """
        ranking, _, name = metric.rpartition("/")
        ranks = self.ranks[ranking or "test"]
        if name not in beyond.PER_TARGET:
            return np.stack([by_user(row, self.users) for row in per_target(ranks, name)])
        if not self.lists:
            return np.empty((len(ranks), 0))
        pairs = zip(self.lists, ranks, strict=True)
        return np.stack([beyond.per_user(name, ranking, table, row) for table, row in pairs])


def read_tested(
    dataset: str,
    arm: str,
    seeds: Sequence[int],
    data: DataRoot,
    fingerprint: str | None = None,
) -> Outcomes:
    """Read the ranks and lists of an arm's finished trials.

    Args:
        dataset: whose trials.
        arm: the name of the trials' folder, as `trials_frame` and `available_medians` have it. An
            arm that is trained under another's name lies there (`Config.trained_as`).
        seeds: each must have finished.
        data: where the trials are.
        fingerprint: the `arm_fingerprint` that each must have; None: any.

    Raises:
        TrialCorrupt: files are missing or damaged, the seeds ranked different users, or a trial
            has another fingerprint.
    """
    frames, lists = [], []
    for seed in seeds:
        folder = data.trial(dataset, arm, seed)
        record = read_record(folder)
        if record is None:
            raise TrialCorrupt(f"{folder} holds no finished trial.")
        if fingerprint and record.arm_fingerprint != fingerprint:
            raise TrialCorrupt(
                f"{folder} holds another trial than the median's. `fparec sync` renders the "
                "results again from today's trials."
            )
        ranks = pl.read_parquet(folder / RANKS).filter(pl.col("test").is_not_null())
        frames.append(ranks.sort("user", maintain_order=True))
        if (folder / LISTS).exists():
            lists.append(pl.read_parquet(folder / LISTS))
    if any(not frame["user"].equals(frames[0]["user"]) for frame in frames):
        raise TrialCorrupt(f"{arm} on {dataset}: its seeds ranked different users.")
    return Outcomes(
        {part: np.stack([f[part].to_numpy() for f in frames]) for part in beyond.RANKINGS},
        frames[0]["user"].to_numpy().astype(np.int64),
        lists if len(lists) == len(frames) else [],
    )


# Of this process: a digest of the values -> their interval. Medians, leaderboard, tables and report
# show the same ones, and drawing them is most of the work.
_intervals: dict[bytes, tuple[float, float]] = {}


def _known_interval(values: np.ndarray) -> tuple[float, float]:
    """`bootstrap_interval`, drawn once in this process."""
    shape = str(values.shape).encode()
    digest = hashlib.sha256(shape + np.ascontiguousarray(values).tobytes()).digest()
    if digest not in _intervals:
        _intervals[digest] = bootstrap_interval(values)
    return _intervals[digest]


@dataclass(frozen=True)
class UserRanks:
    """Ranks and intervals of arms, each read once: make one for each rendering."""

    config: Config
    data: DataRoot
    _tested: dict[tuple, Outcomes | None] = field(default_factory=dict)
    _found: dict[tuple, tuple[float, float]] = field(default_factory=dict)

    def read(
        self, dataset: str, arm: str, seeds: tuple[int, ...], fingerprint: str | None
    ) -> Outcomes | None:
        """`read_tested`, or None with a warning where a trial is damaged or not the median's."""
        key = dataset, arm, seeds, fingerprint
        if key not in self._tested:
            try:
                self._tested[key] = read_tested(dataset, arm, seeds, self.data, fingerprint)
            except TrialCorrupt as error:
                logger.warning("No interval: %s", error)
                self._tested[key] = None
        return self._tested[key]

    def interval(
        self,
        dataset: str,
        arm: str,
        seeds: tuple[int, ...],
        fingerprint: str | None,
        metric: str,
    ) -> tuple[float, float] | None:
        """`bootstrap_interval` of the arm's median, or None where `read` gives None."""
        tested = self.read(dataset, arm, seeds, fingerprint)
        if tested is None:
            return None
        key = dataset, arm, seeds, fingerprint, metric
        if key not in self._found:
            self._found[key] = _known_interval(tested.values(metric))
        return self._found[key]
