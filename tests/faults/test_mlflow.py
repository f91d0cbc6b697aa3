"""MLflow lost while trials train, its store locked, and eight trials that write to it at once."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from processes import python, said, wait_until
from servers import answers, free_ports

from fparec_pipeline.paths import DataRoot
from fparec_pipeline.tracking import Tracker, default_uri
from fparec_pipeline.training.record import read_record, trial_folders

EPOCHS = 6

# Trains one seed as the training asset does, MLflow told of each epoch; stands still after one.
TRAIN = """
import logging
from pathlib import Path
from tiny import tiny_splits, tiny_trial
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.tracking import Tracker
from fparec_pipeline.training import trial

logging.basicConfig(stream=sys.stdout, format="%(message)s")
data, seed, epochs, stop = DataRoot(Path(sys.argv[1])), *map(int, sys.argv[2:])
tracker = Tracker(None, data)
tracker.initialise()

class Tracking(trial.Silent):
    def on_epoch(self, progress):
        if progress.epoch == stop:
            print("standing", flush=True)
            sys.stdin.readline()

    def on_checkpoint(self, folder):
        tracker.sync_trial(folder)

trial.checkpoint_interval = lambda seconds: -1.0
print("ready", flush=True)
sys.stdin.readline()
trial.run_trial(tiny_trial(seed=seed, max_epochs=epochs), tiny_splits(), data, device="cpu",
                observer=Tracking())
"""


def go_on(process: subprocess.Popen) -> None:
    process.stdin.write("\n")
    process.stdin.flush()


def runs_in(uri: str) -> dict[int, dict]:
    """Seed -> status and number of logged epochs."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name("fparec").experiment_id])
    found = {}
    for run in runs:
        epochs = len(client.get_metric_history(run.info.run_id, "epoch/loss"))
        seed = int(run.data.tags["seed"])
        assert seed not in found
        found[seed] = {"status": run.info.status, "epochs": epochs}
    return found


def complete(seeds: int) -> dict[int, dict]:
    return {seed: {"status": "FINISHED", "epochs": EPOCHS} for seed in range(seeds)}


@contextmanager
def mlflow_server(port: int, folder: Path) -> Iterator[subprocess.Popen]:
    """MLflow's own server on loopback, killed at the end with all its workers."""
    script = str(Path(sys.executable).with_name("mlflow"))
    command = [script, "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with (folder / "server.log").open("a") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        health = f"http://127.0.0.1:{port}/health"
        wait_until(lambda: server.poll() is not None or answers(health), health)
        assert server.poll() is None, (folder / "server.log").read_text()
        yield server
    finally:
        os.killpg(server.pid, 9)
        server.wait()


@pytest.mark.slow_fault
@pytest.mark.fault("mlflow")
def test_a_server_lost_in_the_middle_and_at_the_end_misses_nothing(tmp_path, monkeypatch, harm):
    (port,) = free_ports(1)
    uri = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    data = DataRoot(tmp_path / "data")
    with mlflow_server(port, tmp_path):
        trials = [
            python(TRAIN, data.root, seed, EPOCHS, stop) for seed, stop in enumerate((3, EPOCHS))
        ]
        for trial in trials:
            said(trial, "ready")
            go_on(trial)
            said(trial, "standing")
        assert {seed: run["epochs"] for seed, run in runs_in(uri).items()} == {0: 2, 1: EPOCHS - 1}
    for trial in trials:
        harm()
        printed, _ = trial.communicate("\n")
        assert printed.count("cannot be used just now") == 1, printed
        assert trial.returncode == 0
    folders = trial_folders(data)
    assert [read_record(folder).epochs for folder in folders] == [EPOCHS] * 2
    with mlflow_server(port, tmp_path):
        assert {run["status"] for run in runs_in(uri).values()} == {"RUNNING"}
        assert Tracker(None, data).sync_all(folders) == 2
        assert runs_in(uri) == complete(2)


LOCK = """
import sqlite3
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.readline()
"""


@pytest.mark.slow_fault
@pytest.mark.fault("mlflow")
def test_a_store_that_another_process_has_locked_stops_no_training(tmp_path):
    data = DataRoot(tmp_path)
    assert Tracker(None, data).initialise()
    with python(LOCK, data.mlflow / "mlflow.db") as writer:
        said(writer, "locked")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            sqlite3.connect(data.mlflow / "mlflow.db", timeout=0).execute("SELECT * FROM runs")
        with python(TRAIN, data.root, 0, EPOCHS, 0) as trial:
            printed, _ = trial.communicate("\n")
        assert trial.returncode == 0
        assert "cannot be used just now" in printed and "database is locked" in printed, printed
        assert read_record(data.trial("tiny", "fparec", 0)).epochs == EPOCHS
        writer.communicate("\n")
    assert Tracker(None, data).sync_all(trial_folders(data)) == 1
    assert runs_in(default_uri(data)) == complete(1)


@pytest.mark.slow_fault
@pytest.mark.fault("mlflow")
def test_eight_trials_at_once_land_in_one_sqlite_store(tmp_path):
    data = DataRoot(tmp_path)
    trials = [python(TRAIN, data.root, seed, EPOCHS, 0) for seed in range(8)]
    for trial in trials:
        said(trial, "ready")
    for trial in trials:
        go_on(trial)
    for trial in trials:
        printed, _ = trial.communicate()
        assert (trial.returncode, printed) == (0, "")
    assert runs_in(default_uri(data)) == complete(8)
