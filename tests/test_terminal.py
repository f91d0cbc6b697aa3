"""What the commands that show results print, at 80 columns and in a pipe."""

import csv
import io
import json
import shutil
import sys
from contextlib import ExitStack

import pytest
from rich.console import Console
from trial_folders import make_attempt, write_arms, write_finished, write_unfinished

from fparec_pipeline import cli
from fparec_pipeline.cli import results, show, store
from fparec_pipeline.cli.shared import stop_at
from fparec_pipeline.config import load_config
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.results.trials import disposable
from fparec_pipeline.training import record

NDCG, HR = "test/ndcg_at_10", "test/hr_at_10"
VALUES = {"fparec": 0.05, "sasrec": 0.04, "popularity": 0.01, "transitions": 0.02}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Finished trials of Beauty: two arms with three seeds, and references."""
    root = DataRoot(tmp_path_factory.mktemp("data"))
    metrics = {arm: {NDCG: value, HR: 2 * value} for arm, value in VALUES.items()}
    write_arms(root, load_config(root), "beauty", metrics)
    return root


@pytest.fixture
def run(data, monkeypatch, capsys):
    """The command's output, in a pipe or on a terminal of 80 columns; it has to end well."""

    def call(*arguments, terminal=False):
        monkeypatch.setenv("FPAREC_DATA", str(data.root))
        monkeypatch.setattr(sys, "argv", ["fparec", *arguments])
        screen = io.StringIO()
        console = Console(file=screen, width=80, force_terminal=terminal, color_system=None)
        for module in (results, show, store):
            monkeypatch.setattr(module, "console", console)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        assert not ended.value.code, printed.err
        return screen.getvalue() + printed.out

    return call


def test_the_version(run):
    assert run("--version").startswith("fparec_pipeline ")


def test_the_leaderboard_fits_80_columns_with_interval_and_winner(run):
    text = run("leaderboard", "--dataset", "beauty", terminal=True)
    assert max(map(len, text.splitlines())) <= 80
    line = next(line for line in text.splitlines() if line.startswith("FPARec "))
    assert "0.1000" in line and "0.0500" in line and "–" in line and "0,1,2" in line
    assert "FPARec has the best NDCG@10: 0.0500" in " ".join(text.split())


def test_a_table_is_markdown_in_a_pipe_and_a_table_on_a_terminal(run):
    piped = run("table", "3")
    assert piped.startswith("## Table 3") and "| FPARec | **0.1000**" in piped
    shown = run("table", "3", terminal=True)
    assert "|" not in shown and max(map(len, shown.splitlines())) <= 80
    assert "Amazon Beauty" in shown and "PARec: no finished trial of seed 0, 1, 2" in shown
    assert "fparec run --study table_3 --datasets yelp" in " ".join(shown.split())
    assert run("table", "3", "--format", "md", terminal=True) == piped


def test_a_table_for_machines(run):
    rows = json.loads(run("table", "3", "--format", "json"))
    flat = list(csv.DictReader(io.StringIO(run("table", "3", "--format", "csv"))))
    assert len(rows) == len(flat)
    (row,) = [r for r in flat if (r["model"], r["metric"]) == ("fparec", NDCG)]
    assert (row["ours"], row["mark"]) == ("0.05", "best")


def test_compare_answers_in_a_few_lines(run):
    text = run("compare", "beauty")
    assert "FPARec has the best NDCG@10" in text
    assert "SASRec" in text and "p (Holm)" in text
    advice = text.splitlines()[-1]
    assert advice.startswith("To try next: fparec run --datasets beauty --models")
    assert "parec" in advice
    assert len(text.splitlines()) <= 12


def test_compare_sets_seconds_of_one_machine_beside_each_other_and_shows_titles_as_they_are(
    tmp_path, monkeypatch, run
):
    root = DataRoot(tmp_path)
    mine = '[mine]\nmixer = "factorized_positional"\nk = 7\ntitle = "Mine [red]"\n'
    (tmp_path / "models.toml").write_text(mine)
    config = load_config(root)
    metrics = {arm: {NDCG: value} for arm, value in (("fparec", 0.05), ("mine", 0.04))}
    write_arms(root, config, "beauty", metrics)
    for seed in (0, 1, 2):
        elsewhere = make_attempt(config, "beauty", "sasrec", seed, device="cuda", hardware="a GPU")
        write_finished(root, elsewhere, {NDCG: 0.03})
    monkeypatch.setattr(results.DataRoot, "default", lambda: root)
    lines = run("compare", "beauty").splitlines()
    ends = {line.split("  ")[0].strip(): line.split()[-1] for line in lines}
    assert (ends["Mine [red]"], ends["SASRec"]) == ("300", "—")
    assert "— seconds: trained on other hardware or another device than the winner." in lines


def test_compare_of_a_dataset_without_trials_says_how_to_train(run):
    assert "`fparec run --datasets toys`" in run("compare", "toys")


def test_clean_keeps_what_was_resumed_or_finished_while_it_asked(tmp_path, monkeypatch, run):
    root = DataRoot(tmp_path)
    config = load_config(root)
    attempts = [make_attempt(config, "beauty", arm, 0) for arm in ("fparec", "parec", "sasrec")]
    finished, resumed, dead = (write_unfinished(root, attempt) for attempt in attempts)
    again = dead.with_name("seed=0.next")
    shutil.copytree(dead, again)
    monkeypatch.setattr(results.DataRoot, "default", lambda: root)
    monkeypatch.setattr(record, "_PATIENCE", 0.01)
    with ExitStack() as locks:

        def meanwhile(question):
            assert question == "Delete these 4 folders?"
            write_finished(root, attempts[0])
            locks.enter_context(record.lock_trial(resumed))
            return True

        monkeypatch.setattr(store.typer, "confirm", meanwhile)
        text = run("clean")
    assert finished.exists() and resumed.exists() and not dead.exists() and not again.exists()
    kept = [line for line in text.splitlines() if line.startswith("Kept: ")]
    assert [line.split("/")[2] for line in kept] == ["fparec", "parec"]


def test_clean_leaves_a_new_attempt_that_is_locked_or_finished(tmp_path):
    root = DataRoot(tmp_path)
    config = load_config(root)
    folder = write_finished(root, make_attempt(config, "beauty", "fparec", 0))
    again = folder.with_name("seed=0.next")
    shutil.copytree(folder, again)
    assert disposable(root, config) == []
    (again / record.RECORD).unlink()
    assert disposable(root, config) == [(again, "interrupted")]
    with record.lock_trial(again):
        assert disposable(root, config) == []


def test_status_of_every_study(run):
    asked = ("--datasets", "ml-latest-small")
    few, all_ = run("status", *asked), run("status", *asked, "--all")
    count = [int(text.split(" of these ")[1].split()[0]) for text in (few, all_)]
    assert count[1] > count[0]


def test_the_marks_are_explained_where_they_are_there(run, tmp_path, monkeypatch):
    assert "†" not in run("leaderboard", "--dataset", "beauty")
    capped = DataRoot(tmp_path)
    write_arms(capped, load_config(capped), "beauty", {"fparec": {NDCG: 0.05}}, hit_cap=True)
    monkeypatch.setattr(DataRoot, "default", classmethod(lambda cls: capped))
    for command in (["leaderboard", "--dataset", "beauty"], ["table", "3"]):
        shown = run(*command, terminal=True)
        assert "FPARec †" in shown
        assert "† stopped at max_epochs" in shown


def test_ctrl_c_in_a_step_of_dagsters_ends_the_command():
    stop_at(None)
    with pytest.raises(KeyboardInterrupt):
        stop_at("dagster._core.errors.DagsterExecutionInterruptedError")
