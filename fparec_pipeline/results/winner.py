"""Who wins on a dataset, by how much, and is it sure: one answer for page, report and terminal.

The winner is the trained model with the best median. It is tested against every other trained
model, paired over users, with Holm's correction (`significance.compare`): "not significantly ahead
of" is said of all that the test cannot tell from it.

Here belong the winner and its rivals. Which trial is served belongs to `serving/choice.py`, which
asks validation.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict

from fparec_pipeline.results.medians import COLUMNS, median_key
from fparec_pipeline.results.significance import ALPHA, UserRanks, compare

HEADLINE = "test/ndcg_at_10"


class Rival(BaseModel):
    """Another arm or an untrained row, and the test of the best arm against it."""

    model_config = ConfigDict(frozen=True)

    arm: str
    title: str
    trained: bool
    median: float  # over its seeds
    difference: float | None  # best minus it, mean over users and seeds; None: ranks are damaged
    p_holm: float | None

    @property
    def beaten(self) -> bool:
        """Whether the best arm is significantly ahead of it."""
        if self.difference is None or self.p_holm is None:
            return False
        return self.difference > 0 and self.p_holm < ALPHA


@dataclass(frozen=True)
class Winner:
    """The best trained model of a dataset by one metric."""

    dataset: str
    metric: str
    arm: str
    median: float
    interval: tuple[float, float] | None
    seeds: tuple[int, ...]
    provisional: bool
    published: bool
    margin: float | None  # its median minus the next one below; None where there is none
    rivals: tuple[Rival, ...]  # best first
    untrained_above: tuple[str, ...]  # references whose value is at least as good

    @property
    def sure(self) -> bool:
        """Whether it is significantly ahead of every other trained model, of which there is one.

        Never while a median is higher: the test is of means over seeds, and may say otherwise.
        """
        beaten = bool(self.rivals) and all(rival.beaten for rival in self.rivals)
        return beaten and not self.provisional_above

    @property
    def provisional_above(self) -> tuple[str, ...]:
        """Models with a higher median, of fewer seeds: those cannot win."""
        return tuple(rival.arm for rival in self.rivals if rival.median > self.median)

    @property
    def not_ahead_of(self) -> tuple[str, ...]:
        """The models that it is not significantly ahead of, the higher ones included."""
        return tuple(rival.arm for rival in self.rivals if not rival.beaten)

    @property
    def level(self) -> tuple[str, ...]:
        """The models that are not higher and that the test cannot tell from it."""
        return tuple(arm for arm in self.not_ahead_of if arm not in self.provisional_above)


def winner(
    medians: pl.DataFrame, dataset: str, users: UserRanks, metric: str = HEADLINE
) -> Winner | None:
    """The winner of a dataset; None where no model has been trained.

    Args:
        medians: `available_medians`, perhaps with intervals.
        dataset: whose models are compared.
        users: gives each user's ranks.
        metric: by which; of a model without enough seeds it counts only where no other has them.
    """
    rows = (
        medians.filter(pl.col("dataset") == dataset, pl.col(metric).is_not_null())
        .sort(metric, "model", descending=[True, False])
        .to_dicts()
    )
    trained = [row for row in rows if row["trained"]]
    if not trained:
        return None
    best = next((row for row in trained if not row["provisional"]), trained[0])
    others = [row for row in trained if row is not best]
    below = [row[metric] for row in others if row[metric] <= best[metric]]
    return Winner(
        dataset=dataset,
        metric=metric,
        arm=best["model"],
        median=best[metric],
        interval=users.interval(*median_key(best), metric),
        seeds=tuple(best["seeds"]),
        provisional=best["provisional"],
        published=best["published"],
        margin=best[metric] - below[0] if below else None,
        rivals=tuple(_rivals(best, others, users, metric)),
        untrained_above=tuple(
            row["model"] for row in rows if not row["trained"] and row[metric] >= best[metric]
        ),
    )


def _rivals(
    best: dict[str, Any], others: list[dict[str, Any]], users: UserRanks, metric: str
) -> list[Rival]:
    values: dict[str, np.ndarray] = {}
    for row in (best, *others):
        tested = users.read(*median_key(row))
        if tested:
            values[row["model"]] = tested.values(metric)
    tests = compare(values, [(best["model"], row["model"]) for row in others])
    titles = users.config.titles_on(best["dataset"])
    rivals = []
    for row in others:
        test = tests.get((best["model"], row["model"]))
        rivals.append(
            Rival(
                arm=row["model"],
                title=titles.get(row["model"], row["model"]),
                trained=True,
                median=row[metric],
                difference=None if test is None else test.difference,
                p_holm=None if test is None else test.p_holm,
            )
        )
    return rivals


def seconds_beside(found: Winner, trials: pl.DataFrame) -> dict[str, float]:
    """Model → mean seconds of a trial, of the winner and the models trained where it was.

    Seconds of different machines say nothing of the models: one of which a trial ran on another
    hardware or device than the winner's is left out.

    Args:
        found: the winner.
        trials: `trials_frame`.
    """
    machine = pl.struct("hardware", "device")
    fresh = trials.filter(pl.col("dataset") == found.dataset, "trained", ~pl.col("stale"))
    models = fresh.group_by("model").agg(pl.col("seconds").mean(), machine.unique().alias("where"))
    where = {row["model"]: row["where"] for row in models.iter_rows(named=True)}
    seconds = dict(models.select("model", "seconds").iter_rows())
    alike = len(where[found.arm]) == 1
    return {
        model: value
        for model, value in seconds.items()
        if model == found.arm or (alike and where[model] == where[found.arm])
    }


def sentence(found: Winner, titles: Mapping[str, str]) -> str:
    """The answer in words, with plain text for names.

    Args:
        found: the winner.
        titles: arm -> name as printed; an arm that it lacks keeps its name.
    """
    name = titles.get(found.arm, found.arm)
    heading = COLUMNS.get(found.metric, found.metric)
    of = "Of the models with all seeds, " if found.provisional_above else ""
    words = f"{of}{name} has the best {heading}: {found.median:.4f}"
    if found.interval:
        words += f" [{found.interval[0]:.4f}, {found.interval[1]:.4f}]"
    words += f" (seeds {', '.join(map(str, found.seeds))})."
    if found.provisional:
        words += " Provisional: fewer than three seeds."
    if not found.rivals:
        words += " No other model has been trained."
    elif found.sure:
        words += f" It is significantly ahead of every other model, by {found.margin:.4f} or more."
    else:
        for lead, arms in (
            ("Higher, but with fewer seeds: ", found.provisional_above),
            ("Not significantly ahead of ", found.level),
            ("Significantly ahead of ", [rival.arm for rival in found.rivals if rival.beaten]),
        ):
            words += f" {lead}{listed(arms, titles)}." if arms else ""
    if found.untrained_above:
        words += f" Untrained and at least as good: {listed(found.untrained_above, titles)}."
    return words


def listed(arms: Iterable[str], titles: Mapping[str, str]) -> str:
    """The arms' names one after the other, whether or not a name has a comma in it."""
    names = [titles.get(arm, arm) for arm in arms]
    return ("; " if any("," in name for name in names) else ", ").join(names)
