"""Runs in Dagster's queue, started on this machine: by whom, how often, and how they end."""

import os
import signal
import subprocess
import sys
import threading
import uuid

import dagster as dg
import pytest
from data_roots import tiny_root
from processes import PATIENCE_S, wait_until
from servers import MAIN

from fparec_pipeline.datasets.locks import is_held
from fparec_pipeline.defs.private import LaunchRunContext
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.running.context import Context, open_context, open_instance
from fparec_pipeline.running.launcher import lock_of
from fparec_pipeline.running.liveness import ALIVE, alive, settle_dead_runs
from fparec_pipeline.running.materialization import materialize
from fparec_pipeline.running.training import Outcome, train
from fparec_pipeline.training.record import is_locked, read_attempt, read_record

# Each loads torch and Dagster anew for the processes of its runs.
pytestmark = pytest.mark.timeout(600)
FOREVER = 1_000_000


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A function that makes a data root with splits, of trials that long."""

    def made(epochs: int) -> DataRoot:
        data = tiny_root(tmp_path / "data", epochs=epochs)
        monkeypatch.setenv("FPAREC_DATA", str(data.root))
        with open_context(data) as context:
            assert materialize(["raw", "splits"], context, "prepare_data", partition="tiny") is None
        return data

    return made


def outcomes(context: Context, arms: list[str], seeds: list[int], heard=None) -> list[Outcome]:
    trials = context.config.trials(["tiny"], arms, seeds)
    hear = heard or (lambda progress: None)
    options = {"jobs": 2, "device": "cpu", "retrain": False, "on_progress": hear}
    return list(train(trials, context, **options))


def training_runs(data: DataRoot) -> list[dg.DagsterRun]:
    with open_instance(data) as on:
        return [run for run in on.get_runs() if run.job_name.startswith("train_")]


def fparec(data: DataRoot, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, *arguments],
        env=os.environ | {"FPAREC_DATA": str(data.root), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def process_of(data: DataRoot, run: dg.DagsterRun) -> int:
    """The run's process, as the file says that it holds locked."""
    path = lock_of(data, run.run_id)
    wait_until(lambda: is_held(path) and path.read_text().isdigit(), "the run has a process")
    return int(path.read_text())


def test_trials_are_runs_with_a_jobs_name_and_words_that_a_person_reads(root):
    data, epochs = root(3), []
    with open_context(data) as context:
        ends = outcomes(context, ["fparec", "sasrec"], [0], epochs.append)
    assert [end.error for end in ends] == [None, None]
    runs = training_runs(data)
    assert [run.job_name for run in runs] == ["train_benchmark"] * 2
    assert [run.status for run in runs] == [dg.DagsterRunStatus.SUCCESS] * 2
    for run in runs:
        shown = {tag: value for tag, value in run.tags.items() if not tag.startswith(".dagster/")}
        assert (shown["dataset"], shown["seed"]) == ("tiny", "0")
        assert shown["dagster/partition"] == "tiny|0"
        assert not [tag for tag in shown if "alive" in tag]
    assert {run.tags["arm"] for run in runs} == {"fparec", "sasrec"}
    assert not list((data.dagster_home / "alive").iterdir())
    assert not list((data.dagster_home / "logs").iterdir())


@pytest.mark.fault("engine")
def test_a_killed_run_is_one_line_and_the_others_go_on(root, harm):
    data = root(400)
    killed: list[str] = []

    def kill(progress):
        if progress.trial.arm == "sasrec" and not killed:
            (run,) = [run for run in training_runs(data) if run.tags["arm"] == "sasrec"]
            os.kill(process_of(data, run), signal.SIGKILL)
            killed.append(run.run_id)
            harm()

    with open_context(data) as context:
        ends = {
            end.trial.arm: end.error for end in outcomes(context, ["fparec", "sasrec"], [0], kill)
        }
    assert ends["fparec"] is None
    assert "its process was killed" in ends["sasrec"]
    assert not is_locked(data.trial("tiny", "sasrec", 0))
    with open_instance(data) as on:
        assert on.get_run_by_id(killed[0]).status == dg.DagsterRunStatus.FAILURE


@pytest.mark.fault("engine")
def test_a_run_that_two_launch_is_started_once(root, harm):
    data = root(3)
    with open_context(data) as context:
        launch = context.instance.run_launcher.launch_run
        attempts = []

        def twice(wanted: LaunchRunContext) -> None:
            for _ in range(2):
                launch(wanted)
                attempts.append(wanted.dagster_run.run_id)
            harm()

        context.instance.run_launcher.launch_run = twice
        (end,) = outcomes(context, ["fparec"], [0])
    assert end.error is None
    assert len(attempts) == 2
    with open_instance(data) as on:
        starts = on.all_logs(attempts[0], of_type=dg.DagsterEventType.RUN_START)
    assert len(starts) == 1


@pytest.mark.fault("engine")
def test_a_run_that_another_process_cancels_ends_and_says_so(root, harm):
    data = root(FOREVER)
    folder = data.trial("tiny", "fparec", 0)

    def cancel() -> None:
        wait_until(lambda: is_locked(folder) and read_attempt(folder) is not None, "it trains")
        with open_instance(data) as other:
            (run,) = [run for run in other.get_runs() if run.job_name.startswith("train_")]
            assert other.run_launcher.terminate(run.run_id)
        harm()

    with open_context(data) as context:
        thread = threading.Thread(target=cancel)
        thread.start()
        (end,) = outcomes(context, ["fparec"], [0])
        thread.join()
    assert end.error == "the run was cancelled"
    assert not is_locked(folder)


@pytest.mark.fault("engine")
def test_when_the_command_that_serves_the_queue_is_killed_another_goes_on_serving_it(root, harm):
    data = root(1500)
    options = ("run", "--datasets", "tiny", "--device", "cpu", "--seeds", "0", "--models")
    first = fparec(data, *options, "fparec")
    wait_until(lambda: is_locked(data.trial("tiny", "fparec", 0)), "the first command trains")
    second = fparec(data, *options, "sasrec")
    wait_until(lambda: len(training_runs(data)) == 2, "the second one has asked for its run")
    first.kill()
    harm()
    output, _ = second.communicate(timeout=PATIENCE_S * 2)
    assert second.returncode == 0, output
    assert read_record(data.trial("tiny", "sasrec", 0)) is not None
    assert not is_locked(data.trial("tiny", "fparec", 0))
    first.communicate()


@pytest.mark.fault("engine")
def test_runs_of_another_data_root_with_the_same_database_are_left_alone(root, tmp_path, harm):
    data, other = root(3), DataRoot(tmp_path / "other")
    own, foreign = str(uuid.uuid4()), str(uuid.uuid4())
    with open_instance(data) as on:
        job = dg.job(name="going")(lambda: None)
        for run_id, home in ((own, data), (foreign, other)):
            path = lock_of(home, run_id)  # not there: its process has died, or is far away
            run = on.create_run_for_job(job, run_id=run_id, tags={ALIVE: str(path)})
            on.report_dagster_event(started(run), run.run_id)
        assert settle_dead_runs(on, data) == 1
        harm()
        assert on.get_run_by_id(own).status == dg.DagsterRunStatus.FAILURE
        assert on.get_run_by_id(foreign).status == dg.DagsterRunStatus.STARTED


def started(run: dg.DagsterRun) -> dg.DagsterEvent:
    return dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, run.job_name)


def test_a_command_that_ends_takes_no_run_of_another_with_it(root):
    """The first takes the second's run off the queue. Its end ends that process, not that trial."""
    data = root(FOREVER)
    (data.root / "models.toml").write_text("[average]\nmax_epochs = 300\n")
    first, second = (data.trial("tiny", arm, 0) for arm in ("fparec", "average"))
    commands = []
    for arm, folder in (("fparec", first), ("average", second)):
        commands.append(fparec(data, "run", "--datasets", "tiny", "--models", arm, "--seeds", "0"))
        wait_until(lambda folder=folder: is_locked(folder), f"{arm} is trained")
    commands[0].send_signal(signal.SIGINT)
    said = [command.communicate(timeout=PATIENCE_S)[0] for command in commands]
    assert commands[1].returncode == 0, said
    assert read_record(second).epochs == 300
    states = [run.status for run in training_runs(data) if run.tags["arm"] == "average"]
    assert sorted(states, key=str)[-1] == dg.DagsterRunStatus.SUCCESS


def test_to_cancel_a_run_in_a_process_of_its_own_ends_that_process_and_no_other(root):
    data = root(1)
    with open_context(data) as context, alive(data) as path:
        assert path.read_text() == str(os.getpid())
        path.write_text("")  # as a run that has only just begun
        run = context.instance.create_run_for_job(
            context.repository.get_job("prepare_data"), tags={ALIVE: str(path)}
        )
        assert context.instance.run_launcher.terminate(run.run_id) is False
