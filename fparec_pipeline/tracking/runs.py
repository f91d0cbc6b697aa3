"""MLflow, behind one small class: a view of the trials' folders, brought up to date by `sync`.

Notable:
* One run per attempt at a trial. The folders are the facts: a run can be deleted, or the whole
  store, and the next sync makes it again. A finished folder's run is the current one of its
  (dataset, model, seed); runs of other attempts are tagged `superseded=true`.
* Every current run is tagged `superseded=false`, because MLflow's `!=` does not match a run that
  lacks the tag: `tags.superseded = 'false'` is the filter to use.
* MLflow out of reach never stops a training: one warning, None as the answer, and `fparec sync`
  completes the runs later.
* mlflow is imported inside functions: it takes seconds.

Here belong the runs of trials, tables and the report. Champions belong to `registry.py`.
"""

import datetime
import hashlib
import json
import logging
import os
import re
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import polars as pl

from fparec_pipeline.config import (
    REFERENCES,
    TRIAL_KEYS,
    Config,
    Study,
    load_config,
    masked,
)
from fparec_pipeline.datasets.files import write_atomically
from fparec_pipeline.datasets.locks import locked
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.results.trials import data_hash, is_stale
from fparec_pipeline.tracking.models import log_model, set_aside
from fparec_pipeline.tracking.relocation import relocate
from fparec_pipeline.training.record import (
    HISTORY,
    LISTS,
    RANKS,
    RECORD,
    Attempt,
    TrialCorrupt,
    TrialRecord,
    TrialView,
    is_locked,
    view_trial,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

T = TypeVar("T")
logger = logging.getLogger(__name__)

EXPERIMENT = "fparec"  # the experiment of all trials: a leaderboard is one search in it
TABLES_EXPERIMENT = "fparec-tables"
NOTES = {
    EXPERIMENT: "One run a trial (dataset, arm, seed). A view of the trial folders: `fparec sync` "
    "makes it again.",  # the medians describe themselves, once there are any
    TABLES_EXPERIMENT: "One run a table, leaderboard and report, each time that it changed.",
}
LOCAL_SERVER = "http://127.0.0.1:5000"  # shows the default store; started by `make dev`
PAGE = "FPAREC_MLFLOW_PAGE"  # environment: where it is instead; set by `fparec dev`
MODEL_TRAINING = "?workflowType=machine_learning"  # else the page opens in its GenAI mode
NOTE, SOURCE = "mlflow.note.content", "mlflow.source.name"  # MLflow's own tags

DIGEST = 36  # characters that MLflow takes of a data hash
_METRICS_PER_BATCH = 1000  # MLflow's limit
_LOCK_SECONDS = 60.0
_PAUSE_SECONDS = 300.0  # how long a server that failed is left alone
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",  # seconds
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
# Addresses that failed in this process -> when to try again: one warning, and one wait for a
# time-out, however many trackers the process makes.
_outages: dict[str, float] = {}


def default_uri(data: DataRoot) -> str:
    """The SQLite store of the data root."""
    return f"sqlite:///{(data.mlflow / 'mlflow.db').resolve()}"


class Tracker:
    """Keeps MLflow's runs equal to the trials' folders."""

    def __init__(self, uri: str | None, data: DataRoot) -> None:
        """Nothing is opened yet.

        Args:
            uri: the tracking store; None: `MLFLOW_TRACKING_URI`, else SQLite in the data root.
            data: whose trials are tracked.
        """
        self.data = data
        self.uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or default_uri(data)
        self._client: MlflowClient | None = None
        self.experiments: dict[str, str] = {}  # name -> id
        self.origin = ""  # whose trials these are, once the store is open
        self._config: Config | None = None

    def initialise(self) -> bool:
        """Open the store, making its tables and experiments where they are not there yet.

        Processes that call this at the same time wait for one another. Every other method calls it
        when needed; call it before parallel work, so that none of it waits.

        Returns:
            False when MLflow cannot be reached (a warning is logged, the first time).
        """
        return self.reach(lambda client: True) or False

    def sync_trial(self, folder: Path, extra_tags: Mapping[str, str] | None = None) -> str | None:
        """Bring the run of the folder's attempt up to date. Calling it again changes nothing.

        Args:
            folder: a trial's folder, finished or not.
            extra_tags: such as `dagster_run_id`; a run that is finished keeps those it has.

        Returns:
            The run's id; None when nothing was started there or MLflow cannot be reached.

        Raises:
            TrialCorrupt: the folder is damaged.
        """
        view = view_trial(folder)
        if view is None:
            return None
        return self.reach(lambda client: self._sync(client, view, extra_tags or {}))

    def sync_all(self, folders: Iterable[Path]) -> int | None:
        """Bring the runs of all these trials up to date, and settle what was interrupted.

        A run that is RUNNING in MLflow while no process holds its trial becomes KILLED. A damaged
        folder is passed over with a warning.

        Returns:
            How many trials were synced; None when MLflow cannot be reached.
        """
        if self.uri in _outages:
            _outages[self.uri] = 0.0  # try at once
        self._config = None  # a long-lived process sees today's files
        views = (view for folder in folders if (view := _readable_view(folder)))
        return self.reach(lambda client: self._sync_views(client, views))

    def settle_interrupted(self) -> bool:
        """KILLED for each RUNNING run of this data root whose trial no process holds.

        Returns:
            False when MLflow cannot be reached.
        """

        def settle(client: "MlflowClient") -> bool:
            self._settle_interrupted(client)
            return True

        return self.reach(settle) or False

    def log_table(
        self,
        name: str,
        markdown: str,
        rows: list[dict[str, Any]],
        metrics: Mapping[str, float] | None = None,
    ) -> str | None:
        """One run per result table, with its markdown and its rows (JSON) as artifacts.

        The same content as the current run of that name makes no new run; another content makes
        one, and tags the run before `superseded=true`.

        Returns:
            The run's id; None when MLflow cannot be reached.
        """
        files = {f"{name}.md": markdown, f"{name}.json": json.dumps(rows, indent=2)}
        return self.reach(lambda client: self._log_texts(client, name, files, metrics or {}))

    def log_report(self, html: str, metrics: Mapping[str, float] | None = None) -> str | None:
        """The report as a run of its own; otherwise as `log_table`."""
        files = {"report.html": html}
        return self.reach(lambda client: self._log_texts(client, "report", files, metrics or {}))

    def trial_urls(self) -> dict[str, str]:
        """Attempt -> where a browser finds its run; empty when MLflow cannot be reached."""
        runs = self.reach(lambda client: self.runs(client, EXPERIMENT, {"origin": self.origin}))
        return {
            run.data.tags["attempt"]: self._page(run)
            for run in runs or []
            if "attempt" in run.data.tags  # a median has none
        }

    def run_url(self, run_id: str) -> str | None:
        """Where a browser finds the run, or None when MLflow cannot be reached."""
        run = self.reach(lambda client: client.get_run(run_id))
        return None if run is None else self._page(run)

    def artifact_url(self, run_id: str, name: str) -> str | None:
        """Where a browser sees the run's artifact, or None when MLflow cannot be reached."""
        page = self.run_url(run_id)
        if page is None:
            return None
        path = f"{page.removesuffix(MODEL_TRAINING)}/artifacts/{urllib.parse.quote(name)}"
        return path + MODEL_TRAINING

    @property
    def server(self) -> str:
        """The address of MLflow's page, as it may be shown."""
        local = os.environ.get(PAGE, LOCAL_SERVER)
        return re.sub(r"//[^/]*@", "//", self.uri.rstrip("/")) if self._remote else local

    def _page(self, run: "Run") -> str:
        page = f"{self.server}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
        return page + MODEL_TRAINING

    @property
    def _remote(self) -> bool:
        return self.uri.startswith(("http://", "https://"))

    def reach(self, action: Callable[["MlflowClient"], T]) -> T | None:
        """The action's answer, or None, with one warning, when the store does not answer."""
        if time.monotonic() < _outages.get(self.uri, 0.0):
            return None
        try:
            return action(self._connected())
        except _unreachable() as error:
            if self.uri not in _outages:
                logger.warning(
                    "MLflow at %s cannot be used just now; the results are safe in %s, and "
                    "`fparec sync` brings MLflow up to date later. (%s)",
                    masked(self.uri),
                    self.data.trials,
                    masked(str(error).partition("\n")[0]),
                )
            # A file fails at once, perhaps for being locked just then: no need to leave it alone.
            pause = 0.0 if self.uri.startswith("sqlite") else _PAUSE_SECONDS
            _outages[self.uri] = time.monotonic() + pause
            return None

    def _connected(self) -> "MlflowClient":
        if self._client is None:
            for name, value in _ENVIRONMENT.items():
                os.environ.setdefault(name, value)
            # Its word on each retry would double our one warning.
            logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
            from mlflow import MlflowClient

            with self.alone():  # whoever comes first makes the tables
                # By default the registry is that of MLflow's global store, whatever the client's.
                registry = os.environ.get("MLFLOW_REGISTRY_URI") or self.uri
                client = MlflowClient(tracking_uri=self.uri, registry_uri=registry)
                self.origin = _origin(self.data)
                if self.uri == default_uri(self.data):
                    relocate(self.data.mlflow.resolve())
                self.experiments = {
                    name: self.experiment(client, name) for name in (EXPERIMENT, TABLES_EXPERIMENT)
                }
            self._client = client
        return self._client

    def alone(self) -> AbstractContextManager[None]:
        """A lock among the processes of this data root; wait, but not for ever."""
        self.data.mlflow.mkdir(parents=True, exist_ok=True)
        return locked(self.data.mlflow / ".lock", _LOCK_SECONDS)

    def experiment(self, client: "MlflowClient", name: str) -> str:
        found = client.get_experiment_by_name(name)
        if found is None:
            folder = self.data.mlflow.resolve() / "artifacts" / name
            artifacts = None if self._remote else folder.as_uri()
            identity = client.create_experiment(name, artifact_location=artifacts)
            if name in NOTES:
                client.set_experiment_tag(identity, NOTE, NOTES[name])
            return identity
        if found.lifecycle_stage == "deleted":
            logger.warning("The experiment %s was deleted in MLflow; it is restored.", name)
            client.restore_experiment(found.experiment_id)
        return found.experiment_id

    def runs(
        self, client: "MlflowClient", experiment: str, where: Mapping[str, str]
    ) -> list["Run"]:
        """All runs of an experiment with these tags."""
        clauses = " and ".join(f"tags.`{key}` = '{value}'" for key, value in where.items())
        found: list[Run] = []
        token = None
        while True:
            page = client.search_runs([self.experiments[experiment]], clauses, page_token=token)
            found += page
            token = page.token
            if not token:
                return found

    def _sync_views(self, client: "MlflowClient", views: Iterable[TrialView]) -> int:
        synced = [self._sync(client, view, {}) for view in views]
        self._settle_interrupted(client)
        return len(synced)

    def _sync(self, client: "MlflowClient", view: TrialView, extra_tags: Mapping[str, str]) -> str:
        tags = self._tags(view)
        with self.alone():  # two processes that sync one trial must not make two runs
            identity = {key: tags[key] for key in TRIAL_KEYS} | {"origin": self.origin}
            runs = {
                run.data.tags["attempt"]: run for run in self.runs(client, EXPERIMENT, identity)
            }
            there = runs.pop(tags["attempt"], None)
            run = there or self._create(client, view, tags)
        done = run.info.status == "FINISHED"
        if view.record:
            tags |= {"superseded": "false"}
        retag(client, run, tags if done else tags | dict(extra_tags))
        _untag(client, run, tags)
        _rename(client, run, run.data.tags | tags)
        if not done:
            _log_epochs(client, run, view.history, is_new=there is None)
            if view.record:
                _log_result(client, run, view, view.record)
            _set_status(client, run, view)
        self._supersede(client, view, run, runs.values())
        return run.info.run_id

    def _create(self, client: "MlflowClient", view: TrialView, tags: dict[str, str]) -> "Run":
        from mlflow.entities import Param

        attempt = view.attempt
        run = client.create_run(
            self.experiments[EXPERIMENT],
            start_time=_milliseconds(attempt["started"]),
            tags=tags | {"superseded": "false", "origin": self.origin},
            run_name=_run_name(tags | {"superseded": "false"}),
        )
        identity = {name: attempt[name] for name in ("dataset", "model", "seed")}
        values = attempt["hyperparameters"] | {"training_version": attempt["training_version"]}
        client.log_batch(
            run.info.run_id, params=[Param(k, str(v)) for k, v in (identity | values).items()]
        )
        self._log_dataset(client, run, attempt)
        return run

    def _log_dataset(self, client: "MlflowClient", run: "Run", attempt: Mapping[str, Any]) -> None:
        """The splits as the run's input: MLflow's column *Dataset* shows name and data hash."""
        from mlflow.entities import Dataset, DatasetInput

        source = json.dumps({"url": self.data.splits(attempt["dataset"]).as_uri()})
        dataset = Dataset(attempt["dataset"], attempt["data_hash"][:DIGEST], "local", source)
        client.log_inputs(run.info.run_id, [DatasetInput(dataset)])

    def _tags(self, view: TrialView) -> dict[str, str]:
        """All tags that follow from the folder and today's configuration."""
        self._config = self._config or load_config(self.data)
        attempt = Attempt.model_validate(view.attempt)
        stale = is_stale(attempt, self._config, data_hash(attempt.dataset, self._config, self.data))
        names = (
            "attempt",
            "commit",
            "data_hash",
            "fingerprint",
            "arm_fingerprint",
            "hardware",
            "device",
        )
        return (
            {key: str(value) for key, value in zip(TRIAL_KEYS, attempt.id, strict=True)}
            | {key: str(getattr(attempt, key)) for key in names}
            | {"trained": word(attempt.trained), "stale": word(stale)}
            | {"published": word(attempt.published)}
            | ({"resumed": attempt.resumed_words} if attempt.resumed else {})
            | {SOURCE: "fparec run", NOTE: _note(attempt)}
            | {f"study.{name}": "true" for name in _studies(self._config, attempt)}
        )

    def _supersede(
        self, client: "MlflowClient", view: TrialView, run: "Run", others: Iterable["Run"]
    ) -> None:
        """Settle the runs of the trial's other attempts.

        A finished run stays current until the new attempt has finished too. A run that began later
        while the trial is locked is a retraining in progress.
        """
        for other in others:
            if other.data.tags.get("origin") != self.origin:
                continue
            if other.info.status == "FINISHED" and not view.record:
                continue
            if other.info.status == "RUNNING":
                later = other.info.start_time >= run.info.start_time
                if later and is_locked(self._home(other)):
                    continue
                client.set_terminated(other.info.run_id, "KILLED")
            gone = {"superseded": "true", "superseded_by": run.info.run_id}
            retag(client, other, gone)
            set_aside(client, other)
            _rename(client, other, other.data.tags | gone)

    def _settle_interrupted(self, client: "MlflowClient") -> None:
        """KILLED for each RUNNING run of this data root whose trial no process holds."""
        running = client.search_runs(
            [self.experiments[EXPERIMENT]],
            f"attributes.status = 'RUNNING' and tags.origin = '{self.origin}'",
        )
        for run in running:
            if "seed" in run.data.tags and not is_locked(self._home(run)):
                client.set_terminated(run.info.run_id, "KILLED")

    def _home(self, run: "Run") -> Path:
        tags = run.data.tags
        return self.data.trial(tags["dataset"], tags["model"], int(tags["seed"]))

    def _log_texts(
        self,
        client: "MlflowClient",
        name: str,
        files: Mapping[str, str],
        metrics: Mapping[str, float],
    ) -> str:
        from mlflow.entities import Metric

        content = hashlib.sha256("\n".join(files.values()).encode()).hexdigest()
        with self.alone():
            where = {"table": name, "superseded": "false", "origin": self.origin}
            current = self.runs(client, TABLES_EXPERIMENT, where)
            for run in current:
                if run.data.tags["content"] == content and run.info.status == "FINISHED":
                    return run.info.run_id
            own = where | {"content": content, SOURCE: "fparec"}
            new = client.create_run(self.experiments[TABLES_EXPERIMENT], tags=own, run_name=name)
            run_id = new.info.run_id
            at = round(time.time() * 1000)
            logged = [Metric(metric, value, at, 0) for metric, value in metrics.items()]
            client.log_batch(run_id, metrics=logged)
            for file, text in files.items():
                client.log_text(run_id, text, file)
            client.set_terminated(run_id, "FINISHED")
            for run in current:
                retag(client, run, {"superseded": "true", "superseded_by": run_id})
                client.update_run(run.info.run_id, name=f"superseded: {name}")
        return run_id


def _unreachable() -> tuple[type[Exception], ...]:
    """What a store that is out of reach, locked or unusable raises, or one without its driver."""
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, CommandError, OSError, ImportError


def _origin(data: DataRoot) -> str:
    """Whose trials these are, where several data roots share one store; made at the first call."""
    path = data.trials / ".origin"
    if not path.exists():
        with write_atomically(path) as part:
            part.write_text(uuid.uuid4().hex)
    return path.read_text()


def _readable_view(folder: Path) -> TrialView | None:
    try:
        return view_trial(folder)
    except TrialCorrupt as error:
        logger.warning("Not synced: %s", error)
        return None


def _studies(config: Config, attempt: Attempt) -> list[str]:
    """The studies whose tables show the trial, an untrained reference's included."""
    return [
        name
        for name, study in config.studies.items()
        if attempt.dataset in study.datasets
        and (attempt.arm in REFERENCES or _is_of(config, study, attempt))
    ]


def _is_of(config: Config, study: Study, attempt: Attempt) -> bool:
    """Whether the trial is one of the study's, perhaps under another arm's name."""
    arms = (config.trained_as(attempt.dataset, arm) for arm in study.arms)
    return attempt.seed in study.seeds and attempt.arm in arms


def retag(client: "MlflowClient", run: "Run", tags: Mapping[str, str]) -> None:
    """Set the tags that differ from those that the run had when it was read."""
    from mlflow.entities import RunTag

    old = run.data.tags
    changed = [RunTag(key, value) for key, value in tags.items() if old.get(key) != value]
    if changed:
        client.log_batch(run.info.run_id, tags=changed)


def _run_name(tags: Mapping[str, str]) -> str:
    """Short enough that a column shows the seed; one that counts no more says so first."""
    name = f"{tags['model']} {tags['seed']} · {tags['dataset']}"
    for state in ("superseded", "stale"):
        if tags.get(state) == "true":
            return f"{state}: {name}"
    return name


def _rename(client: "MlflowClient", run: "Run", tags: Mapping[str, str]) -> None:
    name = _run_name(tags)
    if run.info.run_name != name:
        client.update_run(run.info.run_id, name=name)


def _note(attempt: Attempt) -> str:
    """What MLflow shows as a run's description."""
    kind = "A trial" if attempt.trained else "An untrained reference"
    origin = ", imported from published results" if attempt.published else ""
    return (
        f"{kind}: {attempt.arm} on {attempt.dataset}, seed {attempt.seed}{origin}. "
        f"Its folder is the fact; this run is a view of it."
    )


def _untag(client: "MlflowClient", run: "Run", tags: Mapping[str, str]) -> None:
    """Take away what the run's new tags say no longer: studies left, having been superseded."""
    old = run.data.tags
    gone = {key for key in old if key.startswith("study.") or key == "resumed"} - tags.keys()
    if tags.get("superseded") == "false" and "superseded_by" in old:
        gone.add("superseded_by")
    for key in gone:
        client.delete_tag(run.info.run_id, key)


def _log_epochs(client: "MlflowClient", run: "Run", history: pl.DataFrame, *, is_new: bool) -> None:
    """The epochs not logged yet, as `epoch/loss` and so on, step = epoch.

    Their time is the run's start plus the seconds trained so far, so that an epoch which two
    processes log at once is one record.
    """
    from mlflow.entities import Metric

    run_id = run.info.run_id
    there = [] if is_new else client.get_metric_history(run_id, "epoch/loss")
    logged = max((metric.step for metric in there), default=0)
    elapsed = (history["seconds"].cum_sum() * 1000).cast(pl.Int64)
    rows = history.with_columns(at=run.info.start_time + elapsed).filter(pl.col("epoch") > logged)
    names = [name for name in history.columns if name != "epoch"]
    metrics = [
        Metric(f"epoch/{name}", row[name], row["at"], row["epoch"])
        for row in rows.to_dicts()
        for name in names
    ]
    size = _METRICS_PER_BATCH // len(names) * len(names)  # an epoch never stands in two batches
    for first in range(0, len(metrics), size):
        client.log_batch(run_id, metrics=metrics[first : first + size])


def _log_result(client: "MlflowClient", run: "Run", view: TrialView, record: TrialRecord) -> None:
    """The final metrics, at the best epoch's step, and the folder's files but for the weights."""
    from mlflow.entities import Metric, RunTag

    run_id, at = run.info.run_id, _milliseconds(record.finished)
    values = record.metrics | {
        "seconds": record.seconds,
        "epochs": record.epochs,
        "best_epoch": record.best_epoch,
    }
    if record.targets_per_second is not None:
        values["targets_per_second"] = record.targets_per_second
    model = log_model(client, run, view.folder, record)
    # With the dataset, which the page shows of a model's metrics.
    of = {
        "model_id": model,
        "dataset_name": record.dataset,
        "dataset_digest": record.data_hash[:DIGEST],
    }
    client.log_batch(
        run_id,
        metrics=[
            Metric(name, value, at, record.best_epoch, **(of if model else {}))
            for name, value in values.items()
        ],
        tags=[RunTag("hit_cap", word(record.hit_cap))],
    )
    for name in (RECORD, HISTORY, RANKS, LISTS):
        if (view.folder / name).exists():
            client.log_artifact(run_id, str(view.folder / name))


def _set_status(client: "MlflowClient", run: "Run", view: TrialView) -> None:
    """FINISHED, RUNNING, or KILLED when no process holds the unfinished trial."""
    run_id, status = run.info.run_id, run.info.status
    if view.record:
        client.set_terminated(run_id, "FINISHED", _milliseconds(view.record.finished))
    elif view.running and status != "RUNNING":
        client.update_run(run_id, status="RUNNING")
    elif not view.running and status != "KILLED":
        client.set_terminated(run_id, "KILLED")


def _milliseconds(moment: str) -> int:
    return round(datetime.datetime.fromisoformat(moment).timestamp() * 1000)


def word(value: bool) -> str:
    """As a tag says it."""
    return "true" if value else "false"
