"""MLflow's model registry: each champion a version of the registered model `fparec-<dataset>`.

Notable:
* A view, like the runs: the champions' folders are the facts, and `sync` brings the registry up to
  date with them. It makes a version where there is none of a fingerprint, tags the others anew, and
  moves the aliases `champion` and `previous`.
* A version is a LoggedModel of a run of its own in the experiment `fparec-champions`, which has the
  metrics of the trial that the champion stands on. No trial's run is changed.
* The model is code (`model_code.py`) with this package's modules, and safetensors, JSON and parquet
  as its artifacts. Nothing is pickled, and it loads where this project is not installed.

Here belong versions and aliases. The runs of trials belong to `runs.py`.
"""

import logging
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fparec_pipeline.config import PACKAGE
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.serving.answers import DEFAULT_K
from fparec_pipeline.serving.champion import (
    Champion,
    ChampionCorrupt,
    promoted,
    read_champion,
    read_pointer,
)
from fparec_pipeline.serving.model import FACTS, ITEMS, WEIGHTS
from fparec_pipeline.tracking.runs import MODEL_TRAINING, Tracker, retag

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import ModelSignature

logger = logging.getLogger(__name__)

CHAMPIONS = "fparec-champions"  # the experiment
CHAMPION, PREVIOUS = "champion", "previous"  # aliases
FOLDER = "champion"  # the artifact of a model, as in model_code.py
FINGERPRINT = "fingerprint"  # the tag of a version that says whose it is
# What the code of a registered model imports.
REQUIREMENTS = ("mlflow", "numpy", "pandas", "polars", "pydantic", "safetensors", "torch")
# Parts of the package that a registered model does not need.
LEFT_BEHIND = ("__pycache__", "defs", "running", "cli", "results", "*.j2", "dagster.yaml")


def model_name(dataset: str) -> str:
    """What the registered model of a dataset is called."""
    return f"fparec-{dataset}"


class Registry:
    """Keeps MLflow's registered models equal to the champions' folders."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker

    @property
    def data(self) -> DataRoot:
        return self.tracker.data

    def sync(self, dataset: str) -> str | None:
        """Register the dataset's champions and let the aliases name them; again changes nothing.

        Returns:
            The champion's version; None where MLflow cannot be reached.

        Raises:
            NoChampion: the dataset has none.
            ChampionCorrupt: the champion's files are damaged.
        """
        champion = read_champion(dataset, self.data)
        pointer = read_pointer(dataset, self.data)
        before = pointer.previous if pointer else None
        previous = self._previous(dataset, before) if before else None
        return self.tracker.reach(lambda client: self._sync(client, champion, previous))

    def _previous(self, dataset: str, fingerprint: str) -> Champion | None:
        """None with a warning where its folder is missing or damaged: the champion needs it not."""
        try:
            return read_champion(dataset, self.data, fingerprint)
        except ChampionCorrupt as error:
            logger.warning("The previous champion is passed over: %s", error)
            return None

    def sync_all(self) -> int | None:
        """Register the champions of every dataset; a damaged one is passed over with a warning.

        Returns:
            Of how many datasets they are up to date; None where MLflow cannot be reached.
        """
        synced = 0
        for dataset in promoted(self.data):
            try:
                version = self.sync(dataset)
            except ChampionCorrupt as error:
                logger.warning("%s", error)
                continue
            if version is None:
                return None
            synced += 1
        return synced

    def url(self, dataset: str) -> str:
        """Where a browser finds the registered model."""
        return f"{self.tracker.server}/#/models/{model_name(dataset)}{MODEL_TRAINING}"

    def _sync(self, client: "MlflowClient", champion: Champion, previous: Champion | None) -> str:
        name = model_name(champion.dataset)
        with self.tracker.alone():  # two processes that register one champion make one version
            found = self._versions(client, name)
            versions = {fingerprint: str(version.version) for fingerprint, version in found.items()}
            for each in (previous, champion):  # in this order, so that the newest is the last
                if each and each.fingerprint in found:
                    self._retag(client, found[each.fingerprint], each)
                elif each:
                    versions[each.fingerprint] = self._register(client, each)
            self._point(client, name, CHAMPION, versions[champion.fingerprint])
            if previous:
                self._point(client, name, PREVIOUS, versions[previous.fingerprint])
            else:
                self._unpoint(client, name, PREVIOUS, versions.values())
        return versions[champion.fingerprint]

    def _versions(self, client: "MlflowClient", name: str) -> "dict[str, ModelVersion]":
        """Fingerprint -> version of what this data root has registered."""
        found = client.search_model_versions(f"name = '{name}'")
        mine = [v for v in found if v.tags.get("origin") == self.tracker.origin]
        return {v.tags[FINGERPRINT]: v for v in mine if FINGERPRINT in v.tags}

    def _retag(self, client: "MlflowClient", version: "ModelVersion", champion: Champion) -> None:
        """The version's tags and its run's, where the same weights were chosen anew."""
        tags = self._tags(champion)
        changed = {key: tag for key, tag in tags.items() if version.tags.get(key) != tag}
        for key, tag in changed.items():
            client.set_model_version_tag(version.name, str(version.version), key, tag)
        if changed and version.run_id:
            retag(client, client.get_run(version.run_id), tags)

    def _point(self, client: "MlflowClient", name: str, alias: str, version: str) -> None:
        aliases = client.get_registered_model(name).aliases
        if aliases.get(alias) != version:
            client.set_registered_model_alias(name, alias, version)

    def _unpoint(
        self, client: "MlflowClient", name: str, alias: str, versions: Collection[str]
    ) -> None:
        """Remove the alias where it names one of these; another data root's stays."""
        aliases = client.get_registered_model(name).aliases
        if alias in aliases and str(aliases[alias]) in versions:
            client.delete_registered_model_alias(name, alias)

    def _register(self, client: "MlflowClient", champion: Champion) -> str:
        """A run, its LoggedModel, and a version of the registered model."""
        name, tags = model_name(champion.dataset), self._tags(champion)
        run = client.create_run(
            self.tracker.experiment(client, CHAMPIONS),
            run_name=f"{champion.dataset}/{champion.arm}",
            tags=tags | {"mlflow.note.content": champion.note},
        )
        run_id = run.info.run_id
        try:
            with _without_bars(), _current(self.tracker.uri, run_id):
                model_id = self._log_model(champion, tags)
                _log_scores(client, run_id, model_id, champion)
                _ensure_registered(client, name)
                # Within the context too: MLflow looks `models:/` up in its own current store.
                version = client.create_model_version(
                    name,
                    source=f"models:/{model_id}",
                    run_id=run_id,
                    tags=tags,
                    description=champion.note,
                    model_id=model_id,
                )
        except BaseException:
            client.set_terminated(run_id, "FAILED")
            raise
        client.set_terminated(run_id, "FINISHED")
        return str(version.version)

    def _log_model(self, champion: Champion, tags: dict[str, str]) -> str:
        """The LoggedModel of MLflow's current run; its id."""
        import mlflow

        champions = self.data.champions(champion.dataset)
        with _staged(champions / champion.fingerprint) as (folder, code):
            logged = mlflow.pyfunc.log_model(
                name=model_name(champion.dataset),
                python_model=str(code / "tracking" / "model_code.py"),
                artifacts={FOLDER: str(folder)},
                code_paths=[str(code)],
                signature=_signature(),
                input_example=_example(folder),
                pip_requirements=[f"{p}=={metadata.version(p)}" for p in REQUIREMENTS],
                metadata={"note": champion.note},
                tags=tags,
            )
        return str(logged.model_id)

    def _tags(self, champion: Champion) -> dict[str, str]:
        choice = champion.choice
        return {
            "origin": self.tracker.origin,
            FINGERPRINT: champion.fingerprint,
            "dataset": champion.dataset,
            "model": champion.arm,
            "seed": str(champion.seed),
            "refit": str(champion.refit).lower(),
            "trial_attempt": champion.stands_on.attempt,
            "trial_fingerprint": champion.stands_on.fingerprint,
            "chosen_by": choice.metric,
            "chosen_median": f"{choice.median:.6f}",
            "commit": champion.commit,
        }


def _log_scores(client: "MlflowClient", run_id: str, model_id: str, champion: Champion) -> None:
    """The scores of the trial that the champion stands on, of the run and of its model."""
    from mlflow.entities import Metric, Param

    at = round(time.time() * 1000)
    client.log_batch(
        run_id,
        metrics=[
            Metric(key, value, at, 0, model_id=model_id)
            for key, value in champion.stands_on.metrics.items()
        ],
        params=[Param(key, str(value)) for key, value in champion.hyperparameters.items()],
    )


@contextmanager
def _current(uri: str, run_id: str) -> Iterator[None]:
    """The store and the run are MLflow's current ones, for what only its fluent calls can do."""
    import mlflow

    # None where there was none: what is set here stands in the environment too, until it is unset.
    before: Any = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(uri)
    try:
        with mlflow.start_run(run_id=run_id):
            yield
    finally:
        mlflow.set_tracking_uri(before)


@contextmanager
def _staged(champion: Path) -> Iterator[tuple[Path, Path]]:
    """The packed model's three files and the package's modules, in temporary folders."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, code = Path(temporary) / FOLDER, Path(temporary) / PACKAGE.name
        folder.mkdir()
        for name in (FACTS, ITEMS, WEIGHTS):
            shutil.copyfile(champion / name, folder / name)
        shutil.copytree(PACKAGE, code, ignore=shutil.ignore_patterns(*LEFT_BEHIND))
        yield folder, code


@contextmanager
def _without_bars() -> Iterator[None]:
    """No progress bars of MLflow's for three small files, nor its remarks."""
    from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR as BAR

    talkative = logging.getLogger("mlflow.pyfunc")
    before, level = BAR.get_raw(), talkative.level
    BAR.set(False)
    talkative.setLevel(logging.WARNING)
    try:
        yield
    finally:
        talkative.setLevel(level)
        BAR.unset() if before is None else BAR.set(before)


def _ensure_registered(client: "MlflowClient", name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        client.create_registered_model(name, description="Champions of a dataset, newest last.")


def _signature() -> "ModelSignature":
    """In: `history`, a list of item ids. Out: what `serving.answers.answer` says."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType, Array

    return ModelSignature(
        # Of any type, so that a wrong one gets our own sentence, and numbers count as ids.
        inputs=Schema([ColSpec(AnyType(), "history")]),
        outputs=Schema(
            [
                ColSpec(Array("string"), "items"),
                ColSpec(AnyType(), "scores"),
                ColSpec("string", "by"),
                ColSpec("long", "k"),
                ColSpec("boolean", "exclude_seen"),
                ColSpec(Array("string"), "unknown"),
                ColSpec("long", "unknown_count"),
            ]
        ),
        params=ParamSchema(
            [ParamSpec("k", "long", DEFAULT_K), ParamSpec("exclude_seen", "boolean", True)]
        ),
    )


def _example(folder: Path) -> Any:
    """Two requests: somebody with a history of two items, and somebody without one."""
    import pandas as pd
    import polars as pl

    items = pl.read_parquet(folder / ITEMS, columns=["source_id"])
    return pd.DataFrame({"history": [items["source_id"].head(2).to_list(), []]})
