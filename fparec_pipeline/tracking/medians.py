"""Medians in MLflow: one run a dataset and arm, above the runs of its seeds, and views of them.

Notable:
* MLflow nests runs of one experiment only, so the medians stand in that of the trials. Their
  metrics are called `median/…`: sorted by one of them, the page has the order of the leaderboard,
  and the seeds, which have no metric of that name, come last.
* A view is a tag of the experiment, as the page's own button *Share* makes it: filter, order and
  columns, which a link opens. The experiment's description has the links.

Here belongs what the page shows of medians. How one is taken belongs to `results/medians.py`.
"""

import hashlib
import json
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fparec_pipeline.tracking.runs import (
    EXPERIMENT,
    MODEL_TRAINING,
    NOTE,
    SOURCE,
    Tracker,
    retag,
    word,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

LEVEL = "level"  # the tag that tells medians from trials
PARENT = "mlflow.parentRunId"  # MLflow's own
VIEW = "mlflow.sharedViewState."  # and that of a view, before its name
ALL = "medians"  # the view of the medians of all datasets
NESTED = "seeds"  # that of medians with their seeds nested: MLflow nests what is sorted by date
HEADLINE = "median/test/ndcg_at_10"
COLUMNS = (
    HEADLINE,
    f"{HEADLINE}/low",
    f"{HEADLINE}/high",
    "median/test/hr_at_10",
    "median/test_unseen/ndcg_at_10",
)
PIXELS = {HEADLINE: 170, f"{HEADLINE}/low": 180, f"{HEADLINE}/high": 185, "seconds": 110}
DESCRIPTION = (
    "Leaderboards: {links}. [All runs, seeds nested in their median]({nested}).\n\n"
    "The runs are a view of the trial folders; `fparec sync` makes them again. The trials that "
    "count: `tags.superseded = 'false' and tags.stale = 'false'`. `…/low` and `…/high` are the "
    "95 % interval over users."
)


class Medians:
    """Keeps MLflow's runs of medians equal to the leaderboards."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker

    def log(self, dataset: str, rows: Sequence[Mapping[str, Any]]) -> bool:
        """One run for each arm of a dataset, with the runs of its seeds nested in it.

        A median that is as it was is left alone; the run of an arm that has none any more is
        deleted.

        Args:
            dataset: whose medians they are.
            rows: `medians.available_medians` of the dataset, perhaps with intervals.

        Returns:
            False when MLflow cannot be reached.
        """

        def log(client: "MlflowClient") -> bool:
            with self.tracker.alone():
                self._log(client, dataset, rows)
                self._describe(client)
            return True

        return self.tracker.reach(log) or False

    def url(self, dataset: str | None = None) -> str:
        """Where a browser finds the medians of a dataset, or of all, best first.

        The server's start when MLflow is out of reach.
        """
        found = self.tracker.reach(lambda client: self.tracker.experiments[EXPERIMENT])
        return (
            f"{self.tracker.server}/{_link(found, dataset or ALL)}"
            if found
            else self.tracker.server
        )

    def datasets(self) -> list[str]:
        """The datasets of this data root that have a median; none when MLflow is out of reach."""
        return self.tracker.reach(self._datasets) or []

    def _datasets(self, client: "MlflowClient") -> list[str]:
        where = {LEVEL: "median", "origin": self.tracker.origin}
        runs = self.tracker.runs(client, EXPERIMENT, where)
        return sorted({run.data.tags["dataset"] for run in runs})

    def _log(self, client: "MlflowClient", dataset: str, rows: Sequence[Mapping[str, Any]]) -> None:
        where = {"dataset": dataset, "origin": self.tracker.origin}
        runs = self.tracker.runs(client, EXPERIMENT, where)
        there = {run.data.tags["model"]: run for run in runs if LEVEL in run.data.tags}
        experiment = self.tracker.experiments[EXPERIMENT]
        parents: dict[tuple[str, str], str] = {}
        for row in reversed(rows):  # so that the best is the newest, and first in the nested view
            run = there.pop(row["model"], None)
            run_id = _log_median(client, experiment, run, row, where)
            parents |= {(row["model"], str(seed)): run_id for seed in row["seeds"]}
        for run in there.values():
            client.delete_run(run.info.run_id)
        for run in runs:
            tags = run.data.tags
            if "attempt" in tags:
                counts = tags.get("superseded") == "false"
                parent = parents.get((tags["model"], tags["seed"])) if counts else None
                _nest(client, run, parent)

    def _describe(self, client: "MlflowClient") -> None:
        """The views, and links to them in the experiment's description."""
        identity = self.tracker.experiments[EXPERIMENT]
        names = self._datasets(client)
        tags = {VIEW + ALL: _leaderboard(None), VIEW + NESTED: _nested()}
        tags |= {VIEW + name: _leaderboard(name) for name in names}
        links = ", ".join(f"[{name}]({_link(identity, name)})" for name in names)
        tags[NOTE] = DESCRIPTION.format(links=links, nested=_link(identity, NESTED))
        old = client.get_experiment(identity).tags
        for key, value in tags.items():
            if old.get(key) != value:
                client.set_experiment_tag(identity, key, value)


def _link(experiment: str, view: str) -> str:
    """To a view, from the page's root."""
    key = urllib.parse.quote(view, safe="")
    return f"#/experiments/{experiment}/runs{MODEL_TRAINING}&viewStateShareKey={key}"


def _leaderboard(dataset: str | None) -> str:
    """The view of the medians of a dataset, or of all, best NDCG@10 first."""
    only = f"tags.{LEVEL} = 'median'"
    return _view(
        filter=only if dataset is None else f"{only} and tags.dataset = '{dataset}'",
        order=f"metrics.`{HEADLINE}`",
        columns=[*COLUMNS, "seconds"],
        tags=["seeds", "provisional", "published"],
    )


def _nested() -> str:
    """The view of all runs, those of the seeds nested in their median's."""
    return _view("", "attributes.start_time", [HEADLINE, "test/ndcg_at_10", "seconds"], ["stale"])


def _view(filter: str, order: str, columns: Sequence[str], tags: Sequence[str]) -> str:
    """A view as MLflow keeps it."""
    metrics = {f"metrics.`{name}`": PIXELS.get(name, 190) for name in columns}
    shown = [*metrics, *(f"tags.`{name}`" for name in tags)]
    state = {
        "searchFilter": filter,
        "orderByKey": order,
        "orderByAsc": False,
        "selectedColumns": shown,
        "columnOrder": shown,
        "columnWidths": metrics,
    }
    return json.dumps(state)


def _log_median(
    client: "MlflowClient",
    experiment: str,
    run: "Run | None",
    row: Mapping[str, Any],
    where: Mapping[str, str],
) -> str:
    """The id of a median's run: made, or given new values where they are not those it has."""
    from mlflow.entities import Metric, Param

    values = {
        f"median/{name}": value
        for name, value in row.items()
        if "/" in name and isinstance(value, float)
    } | {"seconds": row["seconds"]}
    seeds = ", ".join(map(str, row["seeds"]))
    words = {key: word(row[key]) for key in ("trained", "provisional", "published")}
    content = json.dumps([values, seeds, words], sort_keys=True)
    tags = {
        **where,
        **words,
        LEVEL: "median",
        "model": row["model"],
        "seeds": seeds,
        "content": hashlib.sha256(content.encode()).hexdigest(),
        SOURCE: "fparec",
        NOTE: f"Median over the seeds {seeds} of {row['model']} on {row['dataset']}. The runs of "
        "the seeds are its child runs.",
    }
    if run and run.data.tags.get("content") == tags["content"]:
        return str(run.info.run_id)
    if run is None:
        name = f"{row['model']} · {row['dataset']}"
        run = client.create_run(experiment, tags=tags, run_name=name)
        params = [Param("dataset", row["dataset"]), Param("model", row["model"])]
    else:
        params = []
    at = round(time.time() * 1000)
    metrics = [Metric(name, value, at, 0) for name, value in values.items()]
    client.log_batch(run.info.run_id, metrics=metrics, params=params)
    retag(client, run, tags)
    client.set_terminated(run.info.run_id, "FINISHED")
    return str(run.info.run_id)


def _nest(client: "MlflowClient", run: "Run", parent: str | None) -> None:
    """Let the trial's run be a child of the median's, or of none."""
    if parent:
        retag(client, run, {PARENT: parent})
    elif PARENT in run.data.tags:
        client.delete_tag(run.info.run_id, PARENT)
