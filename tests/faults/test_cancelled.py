"""A run that is cancelled in Dagster's page: here through GraphQL, as the page's button does it."""

import signal
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterExecutionInterruptedError
from data_roots import tiny_root
from processes import wait_until
from servers import graphql, served

from fparec_pipeline.paths import DataRoot
from fparec_pipeline.running.context import open_context
from fparec_pipeline.running.home import prepare_dagster_home
from fparec_pipeline.running.materialization import materialize
from fparec_pipeline.tracking import Tracker, default_uri
from fparec_pipeline.training.record import LOCK, is_locked, read_attempt

LAUNCH = """
mutation Launch($executionParams: ExecutionParams!) {
  launchPipelineExecution(executionParams: $executionParams) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}
"""
STATUS = "query Status($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }"
TERMINATE = """
mutation Terminate($run: String!) {
  terminateRun(runId: $run) {
    __typename
    ... on TerminateRunFailure { message }
    ... on PythonError { message }
  }
}
"""
PARTITION = {"dataset": "tiny", "seed": "0"}


class Dagster:
    """What the page asks of its server."""

    def __init__(self, address: str) -> None:
        self.address = address

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        return graphql(self.address, query, **variables)

    def train(self) -> str:
        """Launches the training of one partition; the run's id."""
        tags = {"dagster/partition": "tiny|0"}
        tags |= {f"dagster/partition/{name}": key for name, key in PARTITION.items()}
        selector = {
            "repositoryLocationName": "fparec_pipeline.definitions",
            "repositoryName": "__repository__",
            "pipelineName": "__ASSET_JOB",
            "assetSelection": [{"path": ["trained", "fparec"]}],
            "assetCheckSelection": [],
        }
        metadata = {"tags": [{"key": key, "value": value} for key, value in tags.items()]}
        parameters = {"selector": selector, "runConfigData": {}, "executionMetadata": metadata}
        answer = self.ask(LAUNCH, executionParams=parameters | {"mode": "default"})
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return answer["run"]["runId"]

    def is_(self, run: str, status: str) -> bool:
        return self.ask(STATUS, run=run)["status"] == status

    def cancel(self, run: str) -> None:
        answer = self.ask(TERMINATE, run=run)
        assert answer["__typename"] == "TerminateRunSuccess", answer


def trainer(folder: Path) -> int:
    """The process that holds the trial's lock, as the kernel tells it."""
    inode = (folder / LOCK).stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if fields[1] == "FLOCK" and int(fields[5].split(":")[2]) == inode:
            return int(fields[4])
    raise AssertionError("nobody holds the lock")


def is_alive(process: int) -> bool:
    return Path(f"/proc/{process}").exists()


def mlflow_statuses(data: DataRoot) -> list[str]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=default_uri(data))
    experiment = client.get_experiment_by_name("fparec").experiment_id
    return [run.info.status for run in client.search_runs([experiment])]


def one_at_a_time(data: DataRoot) -> None:
    settings = prepare_dagster_home(data) / "dagster.yaml"
    text = settings.read_text()
    settings.write_text(text.replace("default_limit: 2", "default_limit: 1"))
    assert settings.read_text() != text


@pytest.mark.slow_fault
@pytest.mark.timeout(900)
@pytest.mark.fault("cancelled")
def test_a_cancelled_run_ends_and_the_next_one_has_its_lock_and_its_slot(tmp_path, harm):
    data = tiny_root(tmp_path / "data", epochs=1_000_000)
    folder = data.trial("tiny", "fparec", 0)
    one_at_a_time(data)
    Tracker(None, data).initialise()
    with open_context(data) as context:
        assert materialize(["raw", "splits"], context, "prepare_data", partition="tiny") is None
    with served(data.root) as pages:
        dagster = Dagster(pages.dagster)
        first = dagster.train()
        wait_until(lambda: is_locked(folder), "the first run trains")
        wait_until(lambda: mlflow_statuses(data) == ["RUNNING"], "MLflow knows it")
        attempt, process = read_attempt(folder).attempt, trainer(folder)
        second = dagster.train()
        wait_until(lambda: dagster.is_(second, "QUEUED"), "the second waits for the pool's slot")

        dagster.cancel(first)
        harm()
        wait_until(lambda: not is_alive(process), "the first run's process has ended")
        wait_until(lambda: dagster.is_(first, "CANCELED"), "Dagster says so")
        wait_until(lambda: is_locked(folder), "the second run has slot and lock")
        wait_until(lambda: mlflow_statuses(data) == ["RUNNING"], "MLflow knows it")
        assert read_attempt(folder).attempt == attempt

        process = trainer(folder)
        dagster.cancel(second)
        harm()
        wait_until(lambda: not is_alive(process), "the second run's process has ended")
        wait_until(lambda: dagster.is_(second, "CANCELED"), "Dagster says so")
        assert not is_locked(folder)
        assert mlflow_statuses(data) == ["KILLED"]


@pytest.mark.fault("cancelled")
def test_a_run_that_is_cancelled_while_it_tells_mlflow_tells_it_all_first(
    tmp_path, monkeypatch, harm
):
    data = tiny_root(tmp_path / "data", epochs=3)
    sync = Tracker.sync_trial
    told = []

    def cancelled(*arguments: Any) -> str | None:
        harm()
        signal.raise_signal(signal.SIGTERM)
        told.append(sync(*arguments))
        return told[-1]

    monkeypatch.setattr(Tracker, "sync_trial", cancelled)
    with open_context(data) as context:
        assert materialize(["raw", "splits"], context, "prepare_data", partition="tiny") is None
        error = materialize(["trained/fparec"], context, "train_table_3", partition="tiny|0")
    assert DagsterExecutionInterruptedError.__name__ in str(error)
    assert len(told) == 1 and told[0] is not None
    assert mlflow_statuses(data) == ["KILLED"]
