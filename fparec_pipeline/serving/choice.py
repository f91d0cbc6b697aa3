"""Which trial becomes the champion: the best validation median, and what stands close to it.

Notable:
* Validation decides, never test: the test set stays what tells how good the choice was.
* The arm with the best median over seeds wins; of its seeds, the one with the best validation.
* The winner is tested against the runner-up and the untrained rows, over users, with Holm's
  correction (`results.significance`). That the winner was picked by the same numbers makes it look
  better than it is; a difference that is not significant even so is none to rely on.

Here belongs who is chosen. What becomes of it belongs to `champion.py`.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict

from fparec_pipeline.config import REFERENCES, Config, TrialId, known
from fparec_pipeline.datasets.files import DatasetError
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.results.medians import ENOUGH_SEEDS, available_medians, leaderboard
from fparec_pipeline.results.significance import compare
from fparec_pipeline.results.winner import Rival
from fparec_pipeline.training.metrics import by_user, per_target
from fparec_pipeline.training.record import RANKS, TrialCorrupt, read_record

METRIC = "valid/ndcg_at_10"  # what also chose the epoch of every trial


class NoChampion(DatasetError):
    """There is no trial to choose, or no champion yet; the message says what to run."""


class Choice(BaseModel):
    """Who was chosen, by what, and against whom."""

    model_config = ConfigDict(frozen=True)

    dataset: str
    arm: str
    title: str
    seed: int
    metric: str = METRIC
    median: float
    seeds: dict[int, float]  # every seed's value
    named: bool = False  # somebody named the arm; it need not be the best
    rivals: tuple[Rival, ...] = ()  # the runner-up first, then the untrained rows

    @property
    def trial(self) -> TrialId:
        return TrialId(self.dataset, self.arm, self.seed)

    @property
    def doubts(self) -> list[str]:
        """Why a simpler choice may do as well, a sentence each."""
        sentences = []
        if len(self.seeds) < ENOUGH_SEEDS:
            sentences.append(
                f"{self.title} was trained with {len(self.seeds)} of {ENOUGH_SEEDS} seeds: its "
                "median is provisional."
            )
        return sentences + [self._doubt(rival) for rival in self.rivals if not rival.beaten]

    def _doubt(self, rival: Rival) -> str:
        better = "significantly better" if (rival.difference or 0.0) > 0 else "better"
        return (
            f"{self.title} is not {better} than {rival.title} (validation NDCG@10 "
            f"{self.median:.4f} against {rival.median:.4f}, p {rival.p_holm:.2g}): {cost(rival)}."
        )


def cost(rival: Rival) -> str:
    """What choosing it instead of the champion would cost, in words."""
    difference = rival.difference or 0.0
    mean = rival.median + difference
    share = f" ({abs(difference) / mean:.1%})" if mean > 0 else ""
    what = f"{rival.title}{'' if rival.trained else ', untrained,'}"
    if difference > 0:
        return f"choosing {what} would cost {difference:.4f}{share}"
    return f"choosing {what} would gain {-difference:.4f}{share}"


def choose(
    trials: pl.DataFrame, dataset: str, config: Config, data: DataRoot, arm: str | None = None
) -> Choice:
    """The champion among the finished trials of a dataset.

    Args:
        trials: `trials_frame`; stale ones are no candidates.
        dataset: whose.
        config: today's.
        data: where the trials' ranks lie.
        arm: the one to take, whatever the others achieve; None: the best.

    Raises:
        ConfigError: no such dataset or arm.
        NoChampion: no finished trial that is not stale.
        TrialCorrupt: a trial's ranks are damaged.
    """
    known(dataset, config.datasets, "dataset")
    rows = leaderboard(available_medians(trials), dataset, METRIC).to_dicts()
    trained = [row for row in rows if row["trained"]]
    if not trained:
        raise NoChampion(
            f"{dataset}: there is no finished trial of today's configuration to choose from. "
            f"`fparec run --datasets {dataset}` trains some."
        )
    winner = _winner(trained, dataset, config, arm)
    others = [row for row in trained if row is not winner]
    close = [*others[:1], *(row for row in rows if not row["trained"])]
    seeds = _values(trials, winner)
    return Choice(
        dataset=dataset,
        arm=winner["model"],
        title=config.titles_on(dataset)[winner["model"]],
        seed=max(seeds, key=lambda seed: (seeds[seed], -seed)),
        median=winner[METRIC],
        seeds=seeds,
        named=arm is not None,
        rivals=_rivals(winner, close, config, data),
    )


def _winner(trained: Sequence[dict], dataset: str, config: Config, arm: str | None) -> dict:
    """The named arm's row, else the best of those with enough seeds, else of those there are."""
    if arm is None:
        return next((row for row in trained if not row["provisional"]), trained[0])
    if arm in REFERENCES:
        raise NoChampion(f"{arm} is an untrained reference: it has no weights to recommend with.")
    name = config.trial(dataset, known(arm, config.arms, "arm"), 0).arm
    for row in trained:
        if row["model"] == name:
            return row
    raise NoChampion(
        f"{dataset}: {arm} has no finished trial of today's configuration. "
        f"`fparec run --datasets {dataset} --models {arm}` trains it."
    )


def _values(trials: pl.DataFrame, row: dict) -> dict[int, float]:
    """Seed -> METRIC of the trials of a leaderboard row."""
    mine = trials.filter(
        ~pl.col("stale"),
        pl.col("dataset") == row["dataset"],
        pl.col("model") == row["model"],
        pl.col("seed").is_in(row["seeds"]),
    )
    return dict(mine.sort("seed").select("seed", METRIC).iter_rows())


def _rivals(
    winner: dict, close: Sequence[dict], config: Config, data: DataRoot
) -> tuple[Rival, ...]:
    arrays = {
        row["model"]: validation_values(row["dataset"], row["model"], row["seeds"], data)
        for row in (winner, *close)
    }
    tests = compare(arrays, [(winner["model"], row["model"]) for row in close])
    titles = config.titles_on(winner["dataset"])
    return tuple(
        Rival(
            arm=row["model"],
            title=titles[row["model"]],
            trained=row["trained"],
            median=row[METRIC],
            difference=tests[winner["model"], row["model"]].difference,
            p_holm=tests[winner["model"], row["model"]].p_holm,
        )
        for row in close
    )


def validation_values(dataset: str, arm: str, seeds: Sequence[int], data: DataRoot) -> np.ndarray:
    """Each user's validation NDCG@10 with history kept, (seeds, users), users sorted.

    Raises:
        TrialCorrupt: a trial is not there or damaged, or the seeds ranked different users.
    """
    frames = []
    for seed in seeds:
        folder = data.trial(dataset, arm, seed)
        if read_record(folder) is None:
            raise TrialCorrupt(f"{folder} holds no finished trial.")
        ranks = pl.read_parquet(folder / RANKS, columns=["user", "valid"]).drop_nulls()
        frames.append(ranks.sort("user", maintain_order=True))
    users = frames[0]["user"].to_numpy()
    if any(not np.array_equal(frame["user"].to_numpy(), users) for frame in frames):
        raise TrialCorrupt(f"{arm} on {dataset}: its seeds ranked different users.")
    values = (per_target(frame["valid"].to_numpy(), METRIC) for frame in frames)
    return np.stack([by_user(value, users) for value in values])
