"""The `fparec` command as a user meets it: a process of its own on a tiny dataset."""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
from data_roots import tiny_root
from processes import PATIENCE_S, wait_until

from fparec_pipeline import cli
from fparec_pipeline.defs.automation import in_progress
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.running.context import open_instance
from fparec_pipeline.tracking import default_uri
from fparec_pipeline.training.record import (
    ATTEMPT,
    CHECKPOINT,
    RECORD,
    TrialRecord,
    lock_trial,
    read_record,
    trial_folders,
)

# Five runs of the command stand before the first test: a minute on an idle machine.
pytestmark = pytest.mark.timeout(900)

COMMAND = str(Path(sys.executable).with_name("fparec"))
EPOCHS = 300  # a few seconds, so that a kill finds the trials in training
RUN = ("run", "--datasets", "tiny", "--models", "fparec,sasrec", "--jobs", "2", "--seeds")


def environment(data: DataRoot) -> dict[str, str]:
    return os.environ | {"FPAREC_DATA": str(data.root), "COLUMNS": "200"}


def fparec(data: DataRoot, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command's result; whatever it answers, it is no traceback."""
    result = subprocess.run(
        [COMMAND, *arguments], env=environment(data), capture_output=True, text=True
    )
    assert "Traceback" not in result.stdout + result.stderr, result.stderr
    return result


def records(data: DataRoot) -> dict[tuple[str, int], TrialRecord]:
    found = [read_record(folder) for folder in trial_folders(data)]
    return {(record.arm, record.seed): record for record in found if record}


def dagster_runs(data: DataRoot, *statuses: dg.DagsterRunStatus) -> list[dg.DagsterRun]:
    with open_instance(data) as on:
        return list(on.get_runs(dg.RunsFilter(statuses=list(statuses))))


def mlflow_runs(data: DataRoot, experiment: str = "fparec", where: str = "") -> list:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=default_uri(data))
    identity = client.get_experiment_by_name(experiment).experiment_id
    return list(client.search_runs([identity], where))


def mlflow_statuses(data: DataRoot) -> dict[str, str]:
    runs = mlflow_runs(data, where="tags.trained = 'true'")
    return {run.data.tags["model"]: run.info.status for run in runs}


@dataclass(frozen=True)
class History:
    """What `fparec run` did: killed, run again, run once more, and with a trial that failed."""

    data: DataRoot
    interrupted: list[str]  # attempts that the kill left unfinished
    going: int  # runs that Dagster showed as going on after the kill
    statuses: list[dict[str, str]]  # MLflow's, by model: after the kill, and after another's call
    completed: subprocess.CompletedProcess[str]
    trained: dict[tuple[str, int], TrialRecord]
    again: subprocess.CompletedProcess[str]
    trained_again: dict[tuple[str, int], TrialRecord]
    failing: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    data = tiny_root(tmp_path_factory.mktemp("data"), epochs=EPOCHS)
    folders = [data.trial("tiny", model, 0) for model in ("fparec", "sasrec")]
    first = subprocess.Popen([COMMAND, *RUN, "0,1"], env=environment(data), stdout=subprocess.PIPE)
    wait_until(lambda: all((f / ATTEMPT).exists() for f in folders), "two trials have begun")
    wait_until(lambda: len(mlflow_statuses(data)) == 2, "MLflow knows both")
    first.kill()
    first.communicate(timeout=PATIENCE_S)  # the workers write to it as well: until they have ended
    unfinished = [folder for folder in folders if not (folder / RECORD).exists()]
    interrupted = [json.loads((folder / ATTEMPT).read_text())["attempt"] for folder in unfinished]
    going = len(dagster_runs(data, *in_progress()))
    statuses = [mlflow_statuses(data)]
    fparec(data, "run", "--datasets", "tiny", "--models", "fparec", "--seeds", "0")
    statuses.append(mlflow_statuses(data))

    completed = fparec(data, *RUN, "0,1")
    trained = records(data)
    again = fparec(data, *RUN, "0,1")
    trained_again = records(data)
    with lock_trial(data.trial("tiny", "sasrec", 2)):  # as another process that trains it does
        failing = fparec(data, *RUN, "2")
    first_half = (data, interrupted, going, statuses, completed)
    return History(*first_half, trained, again, trained_again, failing)


@pytest.mark.fault("parent")
def test_a_killed_command_takes_its_workers_with_it(history):
    assert history.interrupted
    assert history.going


@pytest.mark.fault("parent")
def test_the_next_run_settles_what_mlflow_showed_as_running(history):
    killed, after = history.statuses
    assert "RUNNING" in killed.values()
    settled = {"RUNNING": "KILLED", "FINISHED": "FINISHED"}
    assert after == {"fparec": "FINISHED", "sasrec": settled[killed["sasrec"]]}


@pytest.mark.fault("parent")
def test_the_next_run_resumes_what_was_killed_and_completes(history):
    assert history.completed.returncode == 0, history.completed.stderr
    trials = {(model, seed) for model in ("fparec", "sasrec") for seed in (0, 1)}
    references = {(name, 0) for name in ("popularity", "last_ten", "transitions")}
    assert set(history.trained) == trials | references
    attempts = {record.attempt for record in history.trained.values()}
    assert set(history.interrupted) <= attempts


@pytest.mark.fault("parent")
def test_the_next_run_settles_what_dagster_showed_as_going_on(history):
    assert dagster_runs(history.data, *in_progress()) == []
    failed = dagster_runs(history.data, dg.DagsterRunStatus.FAILURE)
    assert len(failed) == history.going + 1  # and the trial that failed
    assert not list((history.data.dagster_home / "alive").iterdir())


def test_the_run_ends_with_the_leaderboard_and_how_to_go_on(history):
    output = history.completed.stdout
    for text in ("FPARec", "SASRec", "Transitions", ":3000", ":5000", "beauty,toys"):
        assert text in output


def test_a_second_call_trains_nothing(history):
    assert history.again.returncode == 0, history.again.stderr
    assert "finished already" in history.again.stdout
    assert history.trained_again == history.trained


@pytest.mark.fault("same")
def test_a_failed_trial_is_one_line_and_does_not_stop_the_others(history):
    assert history.failing.returncode == 1
    assert "seed=2 is being trained by another process" in history.failing.stdout
    assert ("fparec", 2) in records(history.data)


def test_a_table_shows_the_median_of_three_or_a_gap(history):
    text = fparec(history.data, "table", "3").stdout
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if "|" in line}
    values = [records(history.data)["fparec", seed].metrics["test/hr_at_10"] for seed in range(3)]
    fparec_line = next(line for name, line in lines.items() if name.startswith("FPARec"))
    assert f"{statistics.median(values):.4f}" in fparec_line
    sasrec_line = next(line for name, line in lines.items() if name.startswith("SASRec"))
    assert "—" in sasrec_line and not re.search(r"\d\.\d", sasrec_line)
    assert text.strip() == (history.data.results / "table_3.md").read_text().strip()


def test_a_figure_is_drawn_from_what_is_trained_and_names_what_is_not(history, monkeypatch, capsys):
    command = ("figure", "3", "--dataset", "tiny")
    code, output, _ = main(history.data, monkeypatch, capsys, *command)
    assert code == 0
    assert "`fparec run --datasets tiny --models parec --seeds 0` trains it" in output
    for path in map(Path, output.splitlines()[-2:]):
        assert path.name in ("figure_3_tiny.png", "figure_3_tiny.svg")
        assert path.stat().st_size > 10_000
    with open_instance(history.data) as on:
        for name in ("figure_1", "figure_3"):
            wanted = dg.AssetRecordsFilter(dg.AssetKey(name), asset_partitions=["tiny"])
            (event,) = on.fetch_materializations(wanted, limit=1).records
            picture = event.asset_materialization.metadata["figure"].value
            assert picture.startswith("![](data:image/png;base64,")


def test_a_figure_without_any_trial_is_one_line_with_the_command(empty, monkeypatch, capsys):
    code, _, error = main(empty, monkeypatch, capsys, "figure", "1", "--dataset", "tiny")
    assert code == 2
    assert "tiny/sasrec/seed=0 is missing: `fparec run --datasets tiny --models sasrec" in error


def test_the_report_is_written_logged_and_links_to_every_trial(history):
    result = fparec(history.data, "report")
    path = Path(result.stdout.strip())
    assert path == history.data.results / "report.html"
    html = path.read_text(encoding="utf-8")
    where = "tags.superseded = 'false' and tags.table = 'report'"
    assert len(mlflow_runs(history.data, "fparec-tables", where)) == 1
    for run in mlflow_runs(history.data, "fparec", "tags.superseded = 'false'"):
        assert f"/runs/{run.info.run_id}" in html
    assert "SASRec: no finished trial of seed 2" in html  # the one that failed


def test_the_leaderboard_as_json_holds_seeds_and_medians(history):
    result = fparec(history.data, "leaderboard", "--dataset", "tiny", "--json")
    rows = {row["model"]: row for row in json.loads(result.stdout)}
    assert set(rows) == {"fparec", "sasrec", "popularity", "last_ten", "transitions"}
    assert rows["sasrec"]["seeds"] == [0, 1]
    assert rows["sasrec"]["provisional"] is True
    assert rows["fparec"]["seeds"] == [0, 1, 2]
    assert rows["fparec"]["provisional"] is False
    assert rows["popularity"]["provisional"] is False
    done = records(history.data)
    for name in ("test/hr_at_10", "test/ndcg_at_10", "test_unseen/hr_at_50", "valid/mrr"):
        values = [done["sasrec", seed].metrics[name] for seed in (0, 1)]
        assert rows["sasrec"][name] == pytest.approx(statistics.mean(values))
        assert rows["sasrec"]["dataset"] == "tiny"


def test_the_leaderboard_is_sorted_by_the_metric_asked_for(history, monkeypatch, capsys):
    for metric in ("test/hr_at_1", "test/mrr"):
        text = main(
            history.data,
            monkeypatch,
            capsys,
            "leaderboard",
            "--dataset",
            "tiny",
            "--metric",
            metric,
            "--json",
        )[1]
        values = [row[metric] for row in json.loads(text)]
        assert values == sorted(values, reverse=True)


def test_status_tells_done_from_unfinished_and_missing(history):
    result = fparec(history.data, "status", "--datasets", "tiny", "--models", "fparec,sasrec,parec")
    lines = {line.split()[3]: line for line in result.stdout.splitlines() if "tiny" in line}
    assert lines["fparec"].count("done") == 3
    assert lines["sasrec"].count("done") == 2
    assert lines["parec"].count("missing") == 3


def test_status_shows_what_was_started_and_no_variant_where_it_does_not_fit(
    tmp_path, monkeypatch, capsys
):
    data = tiny_root(tmp_path)
    study = 'title = "T"\nmodels = ["fparec"]\ndatasets = ["ml-1m"]\nseeds = [0]\n'
    (tmp_path / "studies.toml").write_text(f"[ranks]\n{study}variants.big = {{ k = 60 }}\n")
    for arguments in (["--all"], ["--study", "ranks"]):  # k = 60 is larger than most windows
        code, text, error = main(data, monkeypatch, capsys, "status", *arguments)
        assert (code, error) == (0, "")
        assert "0 of these 0 trials" in text and "missing" not in text


def test_mlflow_holds_what_the_folders_hold(history):
    runs = mlflow_runs(history.data, where="tags.superseded = 'false'")
    current = {(run.data.tags["model"], int(run.data.tags["seed"])): run for run in runs}
    done = records(history.data)
    assert set(current) == set(done)
    assert len(runs) == len(done)
    for identity, record in done.items():
        run = current[identity]
        assert run.info.status == "FINISHED"
        assert run.data.tags["study.table_3"] == "true"
        assert {name: run.data.metrics[name] for name in record.metrics} == record.metrics


def test_mlflow_holds_the_tables(history):
    runs = mlflow_runs(history.data, "fparec-tables", "tags.superseded = 'false'")
    # Table 3 and the benchmark have what was trained; Tables 1 and 2 need no trial.
    tables = {"table_1", "table_2", "table_3", "benchmark"}
    names = {run.data.tags["table"] for run in runs} - {"report"}
    assert names == tables | {"leaderboard_tiny"}


def test_dagster_shows_metrics_curve_and_mlflow_link_of_every_trial(history):
    with open_instance(history.data) as on:
        for (model, seed), record in records(history.data).items():
            if record.trained:
                metadata = materialization(on, model, seed).metadata
                for name in ("test/hr_at_10", "test/ndcg_at_10"):
                    assert metadata[name].value == record.metrics[name]
                assert metadata["best_epoch"].value == record.best_epoch
                assert metadata["learning_curve"].value.startswith("![](data:image/png;base64,")
                assert "#/experiments/" in metadata["mlflow_run"].value


def materialization(on: dg.DagsterInstance, model: str, seed: int) -> dg.AssetMaterialization:
    partition = dg.MultiPartitionKey({"dataset": "tiny", "seed": str(seed)})
    key = dg.AssetKey(["trained", model])
    wanted = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[partition])
    (newest,) = on.fetch_materializations(wanted, limit=1).records
    return newest.asset_materialization


@pytest.fixture(scope="module")
def copied(history, tmp_path_factory) -> DataRoot:
    """Another data root into which finished trials were copied by hand."""
    data = tiny_root(tmp_path_factory.mktemp("copied"), epochs=EPOCHS)
    shutil.copytree(history.data.splits("tiny"), data.splits("tiny"))
    for model, seed in (("fparec", 0), ("sasrec", 1)):
        shutil.copytree(history.data.trial("tiny", model, seed), data.trial("tiny", model, seed))
    return data


def test_run_tells_dagster_of_a_trial_whose_command_was_killed_before_it_could(
    history, tmp_path, monkeypatch, capsys
):
    data = tiny_root(tmp_path, epochs=EPOCHS)
    shutil.copytree(history.data.trial("tiny", "fparec", 0), data.trial("tiny", "fparec", 0))
    run = ("run", "--datasets", "tiny", "--models", "fparec", "--seeds", "0")
    code, output, _ = main(data, monkeypatch, capsys, *run)
    assert code == 0 and "All trials are finished already." in output
    with open_instance(data) as on:
        shown = materialization(on, "fparec", 0).metadata["test/hr_at_10"].value
    assert shown == records(history.data)["fparec", 0].metrics["test/hr_at_10"]


def test_sync_shows_copied_trials_once(copied, monkeypatch, capsys):
    # Each in its arm's own asset; both are arms of the studies of position embeddings and of
    # learning rates, FPARec also Table 6's arm of two blocks and one of the formulation's.
    for missing in ("8 materializations", "0 materializations"):
        code, output, _ = main(copied, monkeypatch, capsys, "sync")
        assert code == 0
        assert missing in output
        runs = [run for run in mlflow_runs(copied) if "attempt" in run.data.tags]  # not medians
        assert sorted(run.data.tags["model"] for run in runs) == ["fparec", "sasrec"]
        with open_instance(copied) as on:
            shown = materialization(on, "sasrec", 1).metadata["test/hr_at_10"].value
        assert shown == records(copied)["sasrec", 1].metrics["test/hr_at_10"]


def test_clean_deletes_what_stands_in_no_table(copied, monkeypatch, capsys):
    stale, interrupted = copied.trial("tiny", "fparec", 0), copied.trial("tiny", "parec", 0)
    rewrite(stale / RECORD, fingerprint="0" * 16)
    rewrite(stale / ATTEMPT, fingerprint="0" * 16)
    interrupted.mkdir(parents=True)
    shutil.copy(stale / ATTEMPT, interrupted)
    (interrupted / CHECKPOINT).write_bytes(b"some bytes")
    code, output, _ = main(copied, monkeypatch, capsys, "clean", "--yes")
    assert code == 0
    assert "stale" in output and "interrupted" in output
    assert not stale.exists() and not interrupted.exists()
    assert set(records(copied)) == {("sasrec", 1)}
    assert "nothing to delete" in main(copied, monkeypatch, capsys, "clean", "--yes")[1]


def rewrite(path: Path, **changes: str) -> None:
    unsealed = json.loads(path.read_text()) | {"checksum": ""}
    path.write_text(json.dumps(unsealed | changes))


def test_splits_that_fail_a_check_stop_every_run(tmp_path, monkeypatch, capsys):
    data = tiny_root(tmp_path, expected_users=61)
    for _ in range(2):  # nor does the second call take the splits that are there for good
        code, _, error = main(data, monkeypatch, capsys, *RUN, "0")
        assert code == 2
        assert error.endswith("Error: check expected_counts of splits failed: 60 users, not 61\n")
        assert trial_folders(data) == []


def main(
    data: DataRoot, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *arguments: str
) -> tuple[int, str, str]:
    """Exit code, output and errors of the command, run in this process to save its start."""
    monkeypatch.setenv("FPAREC_DATA", str(data.root))
    monkeypatch.setattr(sys, "argv", ["fparec", *arguments])
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit:
        cli.main()
    return int(exit.value.code or 0), *capsys.readouterr()


@pytest.fixture(scope="module")
def empty(tmp_path_factory) -> DataRoot:
    return tiny_root(tmp_path_factory.mktemp("empty"))


@pytest.mark.parametrize(
    ("arguments", "answers"),
    [
        (["run", "--datasets", "tyni"], ["dataset 'tyni'", "tiny"]),
        (["run", "--models", "fparc"], ["model 'fparc'", "fparec"]),
        (["run", "--seeds", "7"], ["seed '7'", "0, 1, 2"]),
        (["run", "--seeds", "one"], ["seed 'one'"]),
        (["run", "--study", "tabel_3"], ["study 'tabel_3'", "table_3"]),
        (["run", "--device", "cude"], ["device 'cude'", "cuda"]),
        (["status", "--models", "sasrek"], ["model 'sasrek'", "sasrec"]),
        (["leaderboard", "--dataset", "tinny"], ["dataset 'tinny'", "tiny"]),
        (
            ["leaderboard", "--dataset", "tiny", "--metric", "test/ndgc_at_10"],
            ["metric 'test/ndgc_at_10'", "test/ndcg_at_10"],
        ),
        (["table", "33"], ["table '33'", "3"]),
        (["table", "sequence_lengths"], ["table 'sequence_lengths'", "sequence_length"]),
        (["figure", "2"], ["figure '2'", "1, 3, 4"]),
        (["figure", "1", "--dataset", "tinny"], ["dataset 'tinny'", "tiny"]),
    ],
)
def test_unknown_names_are_answered_with_close_ones(empty, monkeypatch, capsys, arguments, answers):
    code, _, error = main(empty, monkeypatch, capsys, *arguments)
    assert code == 2
    assert all(answer in error for answer in answers), error


def test_a_wrong_configuration_is_one_line_that_names_the_file_and_entry(
    tmp_path, monkeypatch, capsys
):
    data = tiny_root(tmp_path)
    with (tmp_path / "datasets.toml").open("a") as file:
        file.write("\n[other]\nkore = 5\n")
    code, _, error = main(data, monkeypatch, capsys, "status")
    assert code == 2
    assert f"{tmp_path}/datasets.toml" in error
    assert "[other]" in error and "kore" in error and "core" in error


def test_as_a_process_too_an_unknown_name_is_no_traceback(empty):
    result = fparec(empty, "run", "--datasets", "beuty")
    assert result.returncode == 2
    assert "beauty" in result.stderr


def test_help_lists_the_commands_and_explains_each_option(empty):
    overview = fparec(empty, "--help")
    assert overview.returncode == 0
    names = ("run", "status", "leaderboard", "table", "figure", "report", "sync", "clean", "dev")
    for name in names:
        assert re.search(rf"\b{name}\b", overview.stdout)
    options = fparec(empty, "run", "--help").stdout
    for name in ("datasets", "models", "seeds", "study", "jobs", "device", "retrain"):
        assert f"--{name}" in options
    assert "Example" in options


def test_help_needs_no_heavy_library():
    code = (
        "import sys, fparec_pipeline.cli;"
        "print([n for n in ('torch', 'mlflow', 'dagster') if n in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
