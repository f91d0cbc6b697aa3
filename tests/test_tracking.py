"""Expectations are read with MLflow's own client from a temporary SQLite store."""

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import urllib.parse
from pathlib import Path

import pytest
from processes import wait_until
from trial_folders import (
    DATA_HASH,
    make_attempt,
    make_history,
    write_finished,
    write_splits,
    write_unfinished,
)

from fparec_pipeline.config import TRAINING_VERSION, load_config, masked
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.results import leaderboard
from fparec_pipeline.tracking import MachineMonitor, Medians, Tracker, default_uri
from fparec_pipeline.training.record import RANKS, WEIGHTS, lock_trial, trial_folders

NDCG = "test/ndcg_at_10"


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """A database with MLflow's tables and nothing in them: making one takes a second."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "empty.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}")
    return path


@pytest.fixture
def data(tmp_path):
    root = DataRoot(tmp_path)
    write_splits(root, "beauty")
    return root


@pytest.fixture
def config(data):
    return load_config(data)


@pytest.fixture
def tracker(data):
    return Tracker(None, data)


@pytest.fixture
def client(tracker, data, empty_store):
    data.mlflow.mkdir()
    shutil.copy(empty_store, data.mlflow / "mlflow.db")
    tracker.initialise()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=default_uri(data))


def all_runs(client, experiment="fparec", where=""):
    identity = client.get_experiment_by_name(experiment).experiment_id
    return list(client.search_runs([identity], where))


def status(client, run_id):
    return client.get_run(run_id).info.status


def steps(client, run_id, metric="epoch/loss"):
    return [m.step for m in client.get_metric_history(run_id, metric)]


def test_a_finished_trial_becomes_a_finished_run(tracker, client, data, config):
    attempt = make_attempt(config, "beauty", "fparec", 1)
    folder = write_finished(data, attempt, {NDCG: 0.0417}, epochs=4, hit_cap=True)
    run = client.get_run(tracker.sync_trial(folder, {"dagster_run_id": "abc"}))
    expected_tags = {
        "dataset": "beauty",
        "model": "fparec",
        "seed": "1",
        "study.table_3": "true",
        "attempt": attempt.attempt,
        "commit": "c" * 40,
        "data_hash": DATA_HASH,
        "fingerprint": attempt.fingerprint,
        "dagster_run_id": "abc",
        "superseded": "false",
        "stale": "false",
        "trained": "true",
        "published": "false",
        "hit_cap": "true",
    }
    assert expected_tags.items() <= run.data.tags.items()
    assert "study.table_4" not in run.data.tags  # Table 4 has no Beauty
    assert run.info.status == "FINISHED"
    assert run.info.end_time - run.info.start_time == 5 * 60 * 1000
    assert run.data.params["mixer"] == "factorized_positional"
    assert (run.data.params["n"], run.data.params["training_version"]) == (
        "50",
        str(TRAINING_VERSION),
    )
    assert (run.data.metrics[NDCG], run.data.metrics["test_unseen/mrr"]) == (0.0417, 0.5)
    assert (run.data.metrics["best_epoch"], run.data.metrics["seconds"]) == (4, 300)


def test_every_epoch_is_logged_once_at_its_step(tracker, client, data, config):
    attempt = make_attempt(config, "beauty", "fparec", 0)
    with lock_trial(data.trial("beauty", "fparec", 0)):
        folder = write_unfinished(data, attempt, epochs=2)
        run_id = tracker.sync_trial(folder)
        assert steps(client, run_id) == [1, 2]
        write_unfinished(data, attempt, epochs=5)
        assert tracker.sync_trial(folder) == run_id
        assert status(client, run_id) == "RUNNING"
    write_finished(data, attempt, epochs=230)  # more than one batch of 1000 metrics
    assert tracker.sync_trial(folder) == run_id
    for name in ("loss", "valid_ndcg_at_10", "targets_per_second"):
        logged = client.get_metric_history(run_id, f"epoch/{name}")
        assert {m.step: m.value for m in logged} == {
            row["epoch"]: row[name] for row in make_history(230)
        }
        assert len(logged) == 230
    assert status(client, run_id) == "FINISHED"


def test_the_folders_files_are_its_artifacts(tracker, client, data, config, tmp_path):
    folder = write_finished(data, make_attempt(config, "beauty", "fparec", 0))
    run_id = tracker.sync_trial(folder)
    names = {artifact.path for artifact in client.list_artifacts(run_id)}
    assert names == {"trial.json", "history.parquet", "ranks.parquet"}
    fetched = Path(client.download_artifacts(run_id, RANKS, str(tmp_path)))
    assert fetched.read_bytes() == (folder / RANKS).read_bytes()
    location = urllib.parse.urlsplit(client.get_run(run_id).info.artifact_uri).path
    assert Path(location).is_relative_to(data.mlflow)


def test_syncing_again_changes_nothing(tracker, client, data, config):
    folder = write_finished(data, make_attempt(config, "beauty", "fparec", 0))
    run_id = tracker.sync_trial(folder, {"dagster_run_id": "first"})
    before = client.get_run(run_id).to_dictionary()
    assert tracker.sync_trial(folder, {"dagster_run_id": "second"}) == run_id
    assert tracker.sync_all([folder, folder]) == 2
    assert client.get_run(run_id).to_dictionary() == before
    assert len(all_runs(client)) == 1
    assert steps(client, run_id) == [1, 2, 3]


def test_a_reference_is_tracked_without_epochs(tracker, client, data, config):
    folder = write_finished(data, make_attempt(config, "beauty", "popularity", 0))
    run = client.get_run(tracker.sync_trial(folder))
    assert run.data.metrics[NDCG] == 0.5
    assert (run.data.tags["trained"], run.data.tags["study.table_3"]) == ("false", "true")
    assert not [name for name in run.data.metrics if name.startswith("epoch/")]


def test_nothing_started_makes_no_run(tracker, client, data):
    assert tracker.sync_trial(data.trial("beauty", "fparec", 0)) is None
    assert all_runs(client) == []


def test_an_interrupted_run_is_killed_and_runs_again_when_it_resumes(tracker, client, data, config):
    attempt = make_attempt(config, "beauty", "fparec", 0)
    folder = data.trial("beauty", "fparec", 0)
    with lock_trial(folder):
        write_unfinished(data, attempt)
        run_id = tracker.sync_trial(folder)
        tracker.sync_all([folder])
        assert status(client, run_id) == "RUNNING"
    tracker.sync_all([folder])
    assert status(client, run_id) == "KILLED"
    with lock_trial(folder):
        assert tracker.sync_trial(folder) == run_id
        assert status(client, run_id) == "RUNNING"
    write_finished(data, attempt)
    tracker.sync_trial(folder)
    assert status(client, run_id) == "FINISHED"


def test_a_run_that_another_machine_went_on_with_says_from_where_on(tracker, client, data, config):
    attempt = make_attempt(config, "beauty", "fparec", 0)
    other = {"epoch": 2, "commit": "d" * 40, "versions": {"torch": "2.11.0"}, "hardware": "a GPU"}
    changed = make_attempt(config, "beauty", "fparec", 0, resumed=[other])
    words = f"from epoch 2: commit {'d' * 40}, torch 2.11.0, a GPU"
    for each, told in ((attempt, None), (changed, words), (attempt, None)):
        run_id = tracker.sync_trial(write_finished(data, each))
        assert client.get_run(run_id).data.tags.get("resumed") == told


def test_a_running_run_whose_folder_is_gone_is_killed(tracker, client, data, config):
    folder = data.trial("beauty", "fparec", 0)
    with lock_trial(folder):
        write_unfinished(data, make_attempt(config, "beauty", "fparec", 0))
        run_id = tracker.sync_trial(folder)
    for path in folder.iterdir():
        path.unlink()
    assert tracker.sync_all([]) == 0
    assert status(client, run_id) == "KILLED"


def test_a_new_attempt_settles_the_interrupted_one(tracker, client, data, config):
    folder = data.trial("beauty", "fparec", 0)
    with lock_trial(folder):
        write_unfinished(data, make_attempt(config, "beauty", "fparec", 0, attempt="a" * 32))
        old = tracker.sync_trial(folder)
    later = {"attempt": "b" * 32, "started": "2024-05-02T10:00:00+00:00"}
    with lock_trial(folder):
        write_unfinished(data, make_attempt(config, "beauty", "fparec", 0, **later))
        new = tracker.sync_trial(folder)
    assert status(client, old) == "KILLED"
    tags = client.get_run(old).data.tags
    assert (tags["superseded"], tags["superseded_by"]) == ("true", new)
    assert client.get_run(new).data.tags["superseded"] == "false"


def test_a_retraining_supersedes_only_when_it_has_finished(tracker, client, data, config):
    folder = data.trial("beauty", "fparec", 0)
    aside = folder.with_name("seed=0.next")
    write_finished(data, make_attempt(config, "beauty", "fparec", 0, attempt="a" * 32))
    old = tracker.sync_trial(folder)
    later = {"attempt": "b" * 32, "started": "2024-05-02T10:00:00+00:00"}
    attempt = make_attempt(config, "beauty", "fparec", 0, **later)
    with lock_trial(folder), lock_trial(aside):
        elsewhere = write_unfinished(DataRoot(data.root / "elsewhere"), attempt)
        for path in elsewhere.iterdir():
            path.replace(aside / path.name)
        new = tracker.sync_trial(aside)
        tracker.sync_all([folder])  # as another process might, in the middle
        assert (status(client, old), status(client, new)) == ("FINISHED", "RUNNING")
        assert client.get_run(old).data.tags["superseded"] == "false"
        write_finished(data, attempt)
    assert tracker.sync_trial(folder) == new
    assert status(client, new) == "FINISHED"
    tags = client.get_run(old).data.tags
    assert (tags["superseded"], tags["superseded_by"]) == ("true", new)


def test_the_folder_decides_which_attempt_is_current(tracker, client, data, config):
    later = {"attempt": "b" * 32, "started": "2024-05-02T10:00:00+00:00"}
    first = make_attempt(config, "beauty", "fparec", 0, attempt="a" * 32)
    old = tracker.sync_trial(write_finished(data, first))
    new = tracker.sync_trial(
        write_finished(data, make_attempt(config, "beauty", "fparec", 0, **later))
    )
    write_finished(data, first)  # copied back
    tracker.sync_all(trial_folders(data))
    assert "superseded_by" not in client.get_run(old).data.tags
    assert client.get_run(old).data.tags["superseded"] == "false"
    assert client.get_run(new).data.tags["superseded"] == "true"


MACHINE = "system/cpu_utilization_percentage"


def test_the_machines_metrics_are_logged_where_mlflows_switch_asks(
    tracker, client, data, config, monkeypatch
):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    write_unfinished(data, make_attempt(config, "beauty", "fparec", 0))
    with lock_trial(data.trial("beauty", "fparec", 0)):
        run_id = tracker.sync_trial(data.trial("beauty", "fparec", 0))
        machine = MachineMonitor(tracker)
        machine.follow(run_id)
        machine.end()
        assert MACHINE not in client.get_run(run_id).data.metrics
        monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
        machine.follow(run_id)
        wait_until(lambda: MACHINE in client.get_run(run_id).data.metrics, "the metric")
        machine.end()


def test_without_psutil_training_goes_on_and_says_what_is_missing(tracker, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    module = "mlflow.system_metrics.system_metrics_monitor"
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    MachineMonitor(tracker).follow("0" * 32)
    assert "pip install psutil" in caplog.text


def test_another_data_roots_runs_are_left_alone(tracker, client, data, config):
    theirs = DataRoot(data.root / "another")
    folder = theirs.trial("beauty", "fparec", 0)
    other = Tracker(tracker.uri, theirs)
    with lock_trial(folder):
        write_unfinished(theirs, make_attempt(config, "beauty", "fparec", 0, attempt="a" * 32))
        run_id = other.sync_trial(folder)
    ours = tracker.sync_trial(write_finished(data, make_attempt(config, "beauty", "fparec", 0)))
    tracker.sync_all(trial_folders(data))
    assert ours != run_id
    assert status(client, run_id) == "RUNNING"
    assert client.get_run(run_id).data.tags["superseded"] == "false"
    other.sync_all([folder])
    assert status(client, run_id) == "KILLED"


def test_two_data_roots_have_a_run_each_of_a_trial_that_both_imported(
    tracker, client, data, config
):
    theirs = DataRoot(data.root / "another")
    attempt = make_attempt(config, "beauty", "fparec", 0, published=True)
    runs = [
        each.sync_trial(write_finished(root, attempt))
        for each, root in ((tracker, data), (Tracker(tracker.uri, theirs), theirs))
    ]
    assert runs[0] != runs[1]
    assert [client.get_run(run).data.tags["superseded"] for run in runs] == ["false", "false"]


def test_a_trial_is_tagged_with_every_study_that_has_its_arm(tracker, client, data, config):
    """On ml-latest-small FPARec is the arm of two blocks, of n = 50, and without position."""
    folder = write_finished(data, make_attempt(config, "ml-latest-small", "fparec", 0))
    tags = client.get_run(tracker.sync_trial(folder)).data.tags
    studies = {"table_6", "sequence_length", "position_embedding", "table_3", "table_4"}
    assert {f"study.{name}" for name in studies} <= tags.keys()
    assert "study.table_5" not in tags


def test_studies_and_staleness_follow_the_configuration(tracker, client, data, config):
    run_id = tracker.sync_trial(write_finished(data, make_attempt(config, "beauty", "fparec", 0)))
    (data.root / "studies.toml").write_text('[table_3]\ndatasets = ["toys"]\n')
    (data.root / "datasets.toml").write_text("[beauty.hyperparameters]\ndropout = 0.1\n")
    tracker.sync_all(trial_folders(data))
    tags = client.get_run(run_id).data.tags
    assert "study.table_3" not in tags
    assert tags["stale"] == "true"


def test_one_search_gives_the_folders_leaderboard(tracker, client, data, config):
    for model, values in {"fparec": (0.05, 0.01, 0.02), "sasrec": (0.03, 0.04)}.items():
        for seed, value in enumerate(values):
            write_finished(data, make_attempt(config, "beauty", model, seed), {NDCG: value})
    stale = {"fingerprint": "x", "attempt": "e" * 32}
    write_finished(data, make_attempt(config, "beauty", "parec", 0, **stale), {NDCG: 0.9})
    tracker.sync_all(trial_folders(data))
    current = "tags.superseded = 'false' and tags.stale = 'false'"
    runs = all_runs(client, where=f"{current} and attributes.status = 'FINISHED'")
    asked = {(r.data.tags["model"], int(r.data.tags["seed"])): r.data.metrics[NDCG] for r in runs}
    assert asked == {
        ("fparec", 0): 0.05,
        ("fparec", 1): 0.01,
        ("fparec", 2): 0.02,
        ("sasrec", 0): 0.03,
        ("sasrec", 1): 0.04,
    }
    rows = leaderboard("beauty", data=data).to_dicts()
    assert {(r["model"], s) for r in rows for s in r["seeds"]} == asked.keys()


def test_a_damaged_folder_is_passed_over_by_sync_all(tracker, client, data, config, caplog):
    damaged = write_finished(data, make_attempt(config, "beauty", "fparec", 0))
    (damaged / RANKS).unlink()
    write_finished(data, make_attempt(config, "beauty", "fparec", 1))
    with caplog.at_level(logging.WARNING):
        assert tracker.sync_all(trial_folders(data)) == 1
    assert str(damaged / RANKS) in caplog.text


def test_a_table_is_one_run_until_its_content_changes(tracker, client, tmp_path):
    rows = [{"model": "fparec", "ours": 0.0417}]
    first = tracker.log_table("table_3", "| a |", rows, {"best/ndcg_at_10": 0.04})
    assert tracker.log_table("table_3", "| a |", rows) == first
    assert tracker.log_table("table_4", "| a |", rows) != first
    second = tracker.log_table("table_3", "| b |", rows)
    tags = client.get_run(first).data.tags
    assert (tags["superseded"], tags["superseded_by"]) == ("true", second)
    assert tags["table"] == "table_3"
    assert client.get_run(first).data.metrics == {"best/ndcg_at_10": 0.04}
    assert len(all_runs(client, "fparec-tables")) == 3
    assert status(client, second) == "FINISHED"
    text = Path(client.download_artifacts(second, "table_3.md", str(tmp_path))).read_text()
    assert text == "| b |"


def test_a_run_has_an_address_on_the_local_server(tracker, client, data, config):
    run_id = tracker.sync_trial(write_finished(data, make_attempt(config, "beauty", "fparec", 0)))
    identity = client.get_experiment_by_name("fparec").experiment_id
    expected = f"http://127.0.0.1:5000/#/experiments/{identity}/runs/{run_id}?workflowType=machine_learning"
    assert tracker.run_url(run_id) == expected


def test_the_report_is_one_run_until_it_changes_and_a_browser_finds_it(tracker, client, tmp_path):
    first = tracker.log_report("<p>a</p>")
    assert tracker.log_report("<p>a</p>") == first
    second = tracker.log_report("<p>b</p>")
    assert client.get_run(first).data.tags["superseded_by"] == second
    (current,) = all_runs(client, "fparec-tables", "tags.superseded = 'false'")
    assert (current.info.run_id, current.data.tags["table"]) == (second, "report")
    text = Path(client.download_artifacts(second, "report.html", str(tmp_path))).read_text()
    assert text == "<p>b</p>"
    page = tracker.artifact_url(second, "report.html")
    run = tracker.run_url(second).removesuffix("?workflowType=machine_learning")
    assert page == f"{run}/artifacts/report.html?workflowType=machine_learning"


def test_the_addresses_of_all_trials_are_found_by_their_attempts(tracker, client, data, config):
    attempts = [make_attempt(config, "beauty", "fparec", seed) for seed in (0, 1)]
    runs = [tracker.sync_trial(write_finished(data, attempt)) for attempt in attempts]
    expected = {a.attempt: tracker.run_url(r) for a, r in zip(attempts, runs, strict=True)}
    assert tracker.trial_urls() == expected


def test_of_a_store_out_of_reach_there_are_no_addresses(data):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and nobody listens there
        tracker = Tracker(f"http://127.0.0.1:{nobody.getsockname()[1]}", data)
        assert tracker.trial_urls() == {}
        assert tracker.log_report("<p>a</p>") is None


def test_the_environment_names_the_store(data, monkeypatch):
    assert Tracker(None, data).uri == f"sqlite:///{data.mlflow}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere:5000")
    assert Tracker(None, data).uri == "http://elsewhere:5000"
    assert Tracker("sqlite:///own.db", data).uri == "sqlite:///own.db"


@pytest.mark.fault("mlflow")
def test_out_of_reach_is_one_warning_without_the_password(data, config, caplog):
    with socket.socket() as taken:  # bound and not listening: every connection is refused
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        uri = f"http://user:se%23cret@127.0.0.1:{port}"
        folder = write_finished(data, make_attempt(config, "beauty", "fparec", 0))
        with caplog.at_level(logging.WARNING, "fparec_pipeline"):
            assert Tracker(uri, data).initialise() is False
            assert Tracker(uri, data).sync_trial(folder) is None
            assert Tracker(uri, data).sync_all([folder]) is None
            assert Tracker(uri, data).log_table("table_3", "", []) is None
            assert Tracker(uri, data).run_url("a" * 32) is None
    warnings = [r.getMessage() for r in caplog.records if r.name == "fparec_pipeline.tracking.runs"]
    assert len(warnings) == 1
    assert f"http://user:***@127.0.0.1:{port}" in warnings[0]
    assert "fparec sync" in warnings[0]
    assert "cret" not in caplog.text


def test_a_store_whose_driver_is_not_installed_is_one_warning(data, config, caplog, monkeypatch):
    for driver in ("psycopg", "psycopg2"):  # which of them depends on SQLAlchemy's version
        monkeypatch.setitem(sys.modules, driver, None)  # as if it were not installed
    tracker = Tracker("postgresql://user:secret@127.0.0.1:9/mlflow", data)
    folder = write_finished(data, make_attempt(config, "beauty", "fparec", 0))
    with caplog.at_level(logging.WARNING, "fparec_pipeline"):
        assert tracker.initialise() is False
        assert tracker.sync_all([folder]) is None
    (warning,) = [r.getMessage() for r in caplog.records]
    assert "psycopg" in warning
    assert "fparec sync" in warning
    assert "secret" not in warning


@pytest.mark.fault("mlflow")
def test_a_later_sync_completes_what_was_missed(data, config, tmp_path):
    folder = write_finished(data, make_attempt(config, "beauty", "fparec", 0), {NDCG: 0.04})
    blocked = tmp_path / "store"
    blocked.write_text("a file where the store's folder should be")
    tracker = Tracker(f"sqlite:///{blocked}/mlflow.db", data)
    assert tracker.sync_trial(folder) is None
    blocked.unlink()
    assert tracker.sync_all([folder]) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://me:pass@host:5000/x", "http://me:***@host:5000/x"),
        ("at postgresql://me:p@ss@host/db: no", "at postgresql://me:***@host/db: no"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("http://me:pa/ss@host", "http://me:***@host"),
        (
            "postgresql://host/db?user=a&password=b&x=1",
            "postgresql://host/db?user=a&password=***&x=1",
        ),
        ("https://host/f.csv?X-Token=b", "https://host/f.csv?X-Token=***"),
        ("https://ghp_abc@host/x.csv", "https://***@host/x.csv"),
        ("https://b/x?X-Amz-Signature=ab&y=1", "https://b/x?X-Amz-Signature=***&y=1"),
        ("https://b/x?sig=ab%2F&api_key=cd", "https://b/x?sig=***&api_key=***"),
    ],
)
def test_passwords_are_masked(text, expected):
    assert masked(text) == expected


def test_processes_may_open_a_fresh_store_at_once(data):
    script = (
        "import sys; from pathlib import Path\n"
        "from fparec_pipeline.paths import DataRoot; from fparec_pipeline.tracking import Tracker\n"
        "print(Tracker(None, DataRoot(Path(sys.argv[1]))).initialise())"
    )
    command = [sys.executable, "-c", script, str(data.root)]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
        for _ in range(3)
    ]
    assert [process.communicate()[0].strip() for process in processes] == ["True"] * 3


MEDIAN = {
    "dataset": "beauty",
    "trained": True,
    "seeds": [0, 1, 2],
    "provisional": False,
    "published": False,
    "seconds": 30.0,
}


def median(model, value, **changes):
    low_high = {"test/ndcg_at_10/low": value - 0.01, "test/ndcg_at_10/high": value + 0.01}
    return MEDIAN | {"model": model, "test/ndcg_at_10": value} | low_high | changes


def test_sorting_the_medians_gives_the_official_order(tracker, client, data, config):
    """The mean over seeds would order these two the other way; the medians do not."""
    for seed, (first, second) in enumerate([(0.01, 0.05), (0.06, 0.05), (0.07, 0.05)]):
        for model, value in (("fparec", first), ("sasrec", second)):
            write_finished(data, make_attempt(config, "beauty", model, seed), {NDCG: value})
    tracker.sync_all(trial_folders(data))
    rows = [median("sasrec", 0.05), median("fparec", 0.06), median("parec", 0.07, seeds=[0])]
    assert Medians(tracker).log("beauty", rows)
    assert Medians(tracker).log("toys", [median("sasrec", 0.9, dataset="toys")])
    identity = client.get_experiment_by_name("fparec").experiment_id
    order = ["metrics.`median/test/ndcg_at_10` DESC"]
    found = client.search_runs([identity], "tags.dataset = 'beauty'", order_by=order)
    # The seeds have no such metric: they come last, whatever their own values are.
    levels = [(run.data.tags["model"], run.data.tags.get("level")) for run in found]
    official = [("parec", "median"), ("fparec", "median"), ("sasrec", "median")]
    assert levels[:3] == official
    assert [level for _, level in levels[3:]] == [None] * 6
    assert found[2].data.metrics["median/test/ndcg_at_10/low"] == pytest.approx(0.04)
    assert {run.info.status for run in found} == {"FINISHED"}
    shared = client.get_experiment(identity).tags["mlflow.sharedViewState.beauty"]
    view = json.loads(shared)
    by = f"{view['orderByKey']} {'ASC' if view['orderByAsc'] else 'DESC'}"
    only = client.search_runs([identity], view["searchFilter"], order_by=[by])
    assert [run.data.tags["model"] for run in only] == ["parec", "fparec", "sasrec"]
    assert "metrics.`median/test/ndcg_at_10`" in view["selectedColumns"]


def test_the_runs_of_a_medians_seeds_are_its_children(tracker, client, data, config):
    runs = {
        seed: tracker.sync_trial(
            write_finished(data, make_attempt(config, "beauty", "sasrec", seed))
        )
        for seed in (0, 1, 2)
    }
    Medians(tracker).log("beauty", [median("sasrec", 0.05, seeds=[0, 1])])
    (parent,) = all_runs(client, where="tags.level = 'median'")
    where = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    children = {run.info.run_id for run in all_runs(client, where=where)}
    assert children == {runs[0], runs[1]}
    tracker.sync_all(trial_folders(data))
    assert len(all_runs(client, where=where)) == 2  # a sync of the trials changes nothing
    assert tracker.trial_urls().keys() == {
        make_attempt(config, "beauty", "sasrec", seed).attempt for seed in (0, 1, 2)
    }
    Medians(tracker).log("beauty", [median("sasrec", 0.05, seeds=[1])])
    assert {run.info.run_id for run in all_runs(client, where=where)} == {runs[1]}


def test_medians_are_updated_in_place_and_those_of_no_arm_go(tracker, client, data, config):
    medians = Medians(tracker)
    medians.log("beauty", [median("sasrec", 0.05), median("fparec", 0.06)])
    before = {run.data.tags["model"]: run for run in all_runs(client)}
    medians.log("beauty", [median("sasrec", 0.07, provisional=True)])
    (after,) = all_runs(client)
    assert after.info.run_id == before["sasrec"].info.run_id
    assert after.data.metrics["median/test/ndcg_at_10"] == 0.07
    assert after.data.tags["provisional"] == "true"


def test_the_description_links_to_the_medians_of_each_dataset(tracker, client):
    medians = Medians(tracker)
    medians.log("beauty", [median("sasrec", 0.05)])
    medians.log("toys", [median("sasrec", 0.05, dataset="toys")])
    experiment = client.get_experiment_by_name("fparec")
    assert medians.datasets() == ["beauty", "toys"]
    note = experiment.tags["mlflow.note.content"]
    for dataset in ("beauty", "toys"):
        link = medians.url(dataset)
        assert f"[{dataset}]({link.partition('/#')[2] and '#' + link.partition('/#')[2]})" in note
        assert f"mlflow.sharedViewState.{dataset}" in experiment.tags


def test_a_trial_has_its_weights_as_a_model_with_metrics(tracker, client, data, config, tmp_path):
    folder = write_finished(data, make_attempt(config, "beauty", "fparec", 0), {NDCG: 0.0417})
    run = client.get_run(tracker.sync_trial(folder))
    tracker.sync_trial(folder)
    (model,) = client.search_logged_models([run.info.experiment_id])
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]
    assert (model.source_run_id, str(model.status)) == (run.info.run_id, "READY")
    assert model.params["mixer"] == "factorized_positional"
    scores = {m.key: (m.value, m.dataset_name, m.dataset_digest) for m in model.metrics}
    assert scores[NDCG] == (0.0417, "beauty", DATA_HASH)
    stored = Path(urllib.parse.urlsplit(model.artifact_location).path)
    assert stored.is_relative_to(data.mlflow)
    names = {path.name for path in stored.iterdir()}
    assert names == {WEIGHTS, "trial.json"}  # nothing is pickled
    assert (stored / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()


def test_a_published_trial_has_no_model_and_a_superseded_one_says_so(tracker, client, data, config):
    folder = write_finished(data, make_attempt(config, "beauty", "fparec", 0, attempt="a" * 32))
    run = client.get_run(tracker.sync_trial(folder))
    later = {"attempt": "b" * 32, "started": "2024-05-02T10:00:00+00:00", "published": True}
    folder = write_finished(data, make_attempt(config, "beauty", "fparec", 0, **later))
    (folder / WEIGHTS).unlink()
    record = json.loads((folder / "trial.json").read_text())
    del record["files"][WEIGHTS]
    (folder / "trial.json").write_text(json.dumps(record))
    tracker.sync_trial(folder)
    (model,) = client.search_logged_models([run.info.experiment_id])
    assert model.tags["superseded"] == "true"


def test_a_run_has_a_short_name_its_dataset_and_its_identity(tracker, client, data, config):
    folder = write_finished(data, make_attempt(config, "beauty", "sasrec", 1))
    run = client.get_run(tracker.sync_trial(folder))
    assert run.info.run_name == "sasrec 1 · beauty"
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("beauty", DATA_HASH)
    assert {"dataset": "beauty", "model": "sasrec", "seed": "1"}.items() <= run.data.params.items()


def test_what_counts_no_more_says_so_in_its_name(tracker, client, data, config):
    folder = write_finished(data, make_attempt(config, "beauty", "sasrec", 1, fingerprint="other"))
    assert client.get_run(tracker.sync_trial(folder)).info.run_name == "stale: sasrec 1 · beauty"
