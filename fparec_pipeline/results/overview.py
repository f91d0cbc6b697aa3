"""The report's first screen: for each dataset who wins, by how much, and whether it is sure.

Every dataset that has a trial stands in it, a user's own first, and every model of it, those with
fewer than three seeds too. What a study makes of the same trials belongs to `tables`.
"""

import tomllib
from dataclasses import dataclass
from functools import cache

import polars as pl

from fparec_pipeline.config import FILES, Config
from fparec_pipeline.results.forest import Estimate, Forest, forest
from fparec_pipeline.results.medians import COLUMNS, available_medians, leaderboard, with_intervals
from fparec_pipeline.results.significance import UserRanks
from fparec_pipeline.results.winner import HEADLINE, Winner, listed, sentence, winner

SHOWN = 16  # rows of a forest plot: the best ones
NEAR = 0.5  # an untrained reference below this part of the worst model is not drawn


@dataclass(frozen=True)
class Row:
    """A model in a dataset's leaderboard."""

    title: str
    trained: bool
    kind: str  # of `forest.KINDS`
    seeds: str
    marks: tuple[str, ...]  # "provisional", "published", "hit its cap of epochs"
    values: tuple[tuple[float | None, float | None, float | None], ...]  # median, low, high


@dataclass(frozen=True)
class Card:
    """What the first screen says of a dataset."""

    dataset: str
    title: str
    own: bool
    winner: Winner | None
    name: str  # the winner's, as printed
    level: str  # names of the models that it is not significantly ahead of
    above: str  # names of those that are higher, of fewer seeds
    answer: str
    origin: str  # "published", "trained here", or how many of each
    rows: tuple[Row, ...]
    forest: Forest
    undrawn: int  # how many models stand in the table only: the forest has no room


def overview(trials: pl.DataFrame, config: Config, users: UserRanks) -> list[Card]:
    """One card a dataset: a user's own first, then those of the package in their order.

    Args:
        trials: `trials_frame`; what is stale is left out.
        config: for titles; a dataset that it does not know is left out.
        users: each user's ranks.
    """
    medians = with_intervals(available_medians(trials), users)
    there = medians["dataset"].unique().to_list()
    known = sorted((d for d in config.datasets if d in there), key=lambda d: d in _packaged())
    return [_card(dataset, medians, trials, config, users) for dataset in known]


def _card(
    dataset: str, medians: pl.DataFrame, trials: pl.DataFrame, config: Config, users: UserRanks
) -> Card:
    found = winner(medians, dataset, users)
    frame = leaderboard(medians, dataset)
    titles = config.titles_on(dataset)
    rows = []
    for row in frame.iter_rows(named=True):
        marks = [name for name in ("provisional", "published") if row[name] and row["trained"]]
        if row["capped"]:
            marks.append("hit its cap of epochs")
        rows.append(
            Row(
                title=titles.get(row["model"], row["model"]),
                trained=row["trained"],
                kind=_kind(row, found),
                seeds=", ".join(map(str, row["seeds"])) if row["trained"] else "untrained",
                marks=tuple(marks),
                values=tuple(
                    (row[metric], row[f"{metric}/low"], row[f"{metric}/high"]) for metric in COLUMNS
                ),
            )
        )
    place = list(COLUMNS).index(HEADLINE)
    estimates = [
        Estimate(
            row.title,
            value,
            None if low is None or high is None else (low, high),
            row.kind,
            f"seeds {row.seeds}" if row.trained else row.seeds,
        )
        for row in rows
        for value, low, high in [row.values[place]]
        if value is not None
    ]
    lowest = min((e.value for e in estimates if e.kind != "untrained"), default=0.0)
    estimates = [e for e in estimates if e.value >= NEAR * lowest]  # else the scale is theirs
    return Card(
        dataset=dataset,
        title=config.datasets[dataset].title or dataset,
        own=dataset not in _packaged(),
        winner=found,
        name=titles.get(found.arm, found.arm) if found else "",
        level=listed(found.level, titles) if found else "",
        above=listed(found.provisional_above, titles) if found else "",
        answer=sentence(found, titles) if found else "No model has been trained here.",
        origin=_origin(
            trials.filter(pl.col("dataset") == dataset, pl.col("trained"), ~pl.col("stale"))
        ),
        rows=tuple(rows),
        forest=forest(estimates[:SHOWN]),
        undrawn=len(estimates[SHOWN:]),
    )


def _kind(row: dict, found: Winner | None) -> str:
    if not row["trained"]:
        return "untrained"
    if found and row["model"] == found.arm:
        return "best"
    if found and row["model"] in found.provisional_above:
        return "higher"
    return "level" if found and row["model"] in found.level else "behind"


def _origin(trained: pl.DataFrame) -> str:
    published = int(trained["published"].sum())
    here = trained.height - published
    words = [f"{published} published"] if published else []
    words += [f"{here} trained here"] if here else []
    return f"{trained.height} trials: {', '.join(words)}" if words else "no trained trial"


@cache
def _packaged() -> frozenset[str]:
    return frozenset(tomllib.loads((FILES / "datasets.toml").read_text(encoding="utf-8")))
