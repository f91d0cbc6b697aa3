"""Trials on a Ray cluster: the same results, and what becomes of them when something is killed.

Only `make test-cluster` runs these: they start three Ray nodes on this machine, which takes a
minute. The last test ends one of them.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import dagster as dg
import psutil
import pytest
from data_roots import tiny_root
from processes import PATIENCE_S, wait_until
from ray_cluster import Cluster, home_on, ray_cluster
from servers import MAIN

from fparec_pipeline.config import load_config
from fparec_pipeline.datasets.sources import fetch_raw
from fparec_pipeline.datasets.splits import make_splits
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.tracking import default_uri
from fparec_pipeline.training.record import (
    LOCK,
    RECORD,
    WEIGHTS,
    is_locked,
    read_attempt,
    read_record,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
RUN = ("run", "--datasets", "tiny", "--seeds", "0", "--device", "cpu", "--models")


STARTED: list[subprocess.Popen] = []  # commands; those of a test that failed may go on


@pytest.fixture(scope="module")
def cluster():
    with ray_cluster() as started:
        yield started


@pytest.fixture(autouse=True)
def _nothing_goes_on():
    yield
    while STARTED:
        STARTED[-1].kill()
        STARTED.pop().wait()


class Place:
    """A data root whose runs go to the cluster, or stay here."""

    def __init__(self, folder: Path, cluster: Cluster | None, epochs: int) -> None:
        self.data = tiny_root(folder / "data", epochs=epochs)
        self.environment = os.environ | {"FPAREC_DATA": str(self.data.root), "COLUMNS": "200"}
        if cluster:
            self.environment |= home_on(cluster, folder / "home")

    def prepare(self) -> "Place":
        """Make the splits in this process, which takes a moment."""
        tiny = load_config(self.data).datasets["tiny"]
        make_splits("tiny", tiny, fetch_raw("tiny", tiny, self.data), self.data)
        return self

    def start(self, *arguments: str) -> subprocess.Popen:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        command = [sys.executable, "-c", MAIN, *arguments]
        STARTED.append(subprocess.Popen(command, env=self.environment, **pipes))
        return STARTED[-1]

    def run(self, *arguments: str) -> str:
        """What the command prints, which succeeds."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=PATIENCE_S * 2)
        assert process.returncode == 0, output
        return output

    def runs(self) -> list[dg.DagsterRun]:
        """Those that train, the newest first."""
        return [run for run in self.all_runs() if run.job_name.startswith("train_")]

    def all_runs(self) -> list[dg.DagsterRun]:
        """Those of data and results too."""
        with self.instance() as instance:
            return list(instance.get_runs())

    def instance(self) -> dg.DagsterInstance:
        return dg.DagsterInstance.from_config(self.environment["DAGSTER_HOME"])

    def went_to_ray(self, run: dg.DagsterRun) -> bool:
        with self.instance() as instance:
            told = [entry.message for entry in instance.all_logs(run.run_id)]
        return any("Ray run job created" in message for message in told)


def trainer(folder: Path) -> psutil.Process:
    """The process that holds the trial's lock, as the kernel tells it."""
    inode = (folder / LOCK).stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if fields[1] == "FLOCK" and int(fields[5].split(":")[2]) == inode:
            return psutil.Process(int(fields[4]))
    raise AssertionError("nobody holds the lock")


def mlflow_statuses(data: DataRoot) -> list[str]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=default_uri(data))
    experiment = client.get_experiment_by_name("fparec")
    if experiment is None:
        return []
    runs = client.search_runs([experiment.experiment_id], "tags.trained = 'true'")
    return [run.info.status for run in runs]


def test_trials_on_the_cluster_have_the_weights_of_trials_here(cluster, tmp_path):
    there, here = Place(tmp_path / "there", cluster, 30), Place(tmp_path / "here", None, 30)
    there.run(*RUN, "fparec,sasrec", "--jobs", "2")
    here.run(*RUN, "fparec,sasrec", "--jobs", "2")
    for arm in ("fparec", "sasrec"):
        records = [read_record(p.data.trial("tiny", arm, 0)) for p in (there, here)]
        assert records[0].files[WEIGHTS] == records[1].files[WEIGHTS]
    runs = [run for run in there.all_runs() if not run.job_name.startswith("render_")]
    assert {run.job_name for run in runs} == {"prepare_data", "train_benchmark"}
    assert all(run.is_success and there.went_to_ray(run) for run in runs)
    assert {run.tags["arm"] for run in there.runs()} == {"fparec", "sasrec"}


@pytest.mark.fault("cluster")
def test_a_killed_trial_is_resumed_and_ends(cluster, tmp_path, harm):
    place = Place(tmp_path, cluster, 3000).prepare()
    folder = place.data.trial("tiny", "fparec", 0)
    command = place.start(*RUN, "fparec")
    wait_until(lambda: is_locked(folder) and read_attempt(folder) is not None, "it trains")
    attempt = read_attempt(folder).attempt
    trainer(folder).kill()
    harm()
    output, _ = command.communicate(timeout=PATIENCE_S * 2)
    assert command.returncode == 0, output
    assert read_record(folder).attempt == attempt
    (run,) = place.runs()
    assert run.is_success


@pytest.mark.fault("cluster")
def test_a_run_that_is_interrupted_frees_lock_and_slot_and_mlflow_says_killed(
    cluster, tmp_path, harm
):
    place = Place(tmp_path, cluster, 1_000_000).prepare()
    folder = place.data.trial("tiny", "fparec", 0)
    command = place.start(*RUN, "fparec")
    # By then MLflow's tables are there: two that make them at once disturb one another.
    wait_until(lambda: is_locked(folder), "it trains")
    wait_until(lambda: mlflow_statuses(place.data) == ["RUNNING"], "MLflow knows that it trains")
    process = trainer(folder)
    command.send_signal(signal.SIGINT)
    harm()
    assert command.wait(PATIENCE_S) == 130
    wait_until(lambda: not process.is_running(), "the trial's process has ended")
    assert not is_locked(folder)
    wait_until(lambda: mlflow_statuses(place.data) == ["KILLED"], "MLflow says so")
    wait_until(lambda: place.runs()[0].status == dg.DagsterRunStatus.CANCELED, "Dagster says so")


@pytest.mark.fault("cluster")
def test_of_a_killed_nodes_orphan_and_its_successor_one_writes_the_trial(cluster, tmp_path, harm):
    place = Place(tmp_path, cluster, 1_000_000).prepare()
    folder = place.data.trial("tiny", "fparec", 0)
    command = place.start(*RUN, "fparec")
    wait_until(lambda: is_locked(folder) and read_attempt(folder) is not None, "it trains")
    orphan, attempt = trainer(folder), read_attempt(folder).attempt
    raylets = [cluster.raylet(node) for node in range(1, len(cluster.nodes))]
    next(raylet for raylet in raylets if is_below(orphan, raylet)).kill()
    harm()
    # Dagster starts the run anew on the other node.
    output, _ = command.communicate(timeout=PATIENCE_S * 3)
    try:
        assert orphan.is_running() and trainer(folder) == orphan
        assert command.returncode == 1
        assert "is being trained by another process" in output
        assert read_attempt(folder).attempt == attempt
        assert not (folder / RECORD).exists()
    finally:
        orphan.kill()


def is_below(process: psutil.Process, raylet: psutil.Process) -> bool:
    return any(parent.pid == raylet.pid for parent in process.parents())
