"""Odd folders, terminals and machines: the command works there, or says why not in one line."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from data_roots import tiny_root

from fparec_pipeline.config import load_config
from fparec_pipeline.paths import DataRoot, UnusableFolder, dagster_home
from fparec_pipeline.tracking import Tracker
from fparec_pipeline.training.record import LOCK, is_locked

FPAREC = [sys.executable, "-c", "from fparec_pipeline.cli import main; main()"]


def fparec(*arguments, **environment):
    return subprocess.run(
        [*FPAREC, *arguments], capture_output=True, text=True, env=os.environ | environment
    )


@pytest.mark.parametrize("name", ["[old]", "a*b", "a%20b", "what?x"])
def test_a_data_root_that_cannot_be_used_is_refused_at_the_start(name, tmp_path, monkeypatch):
    root = tmp_path / name
    answer = fparec("status", FPAREC_DATA=str(root))
    assert answer.returncode == 2
    assert answer.stdout == ""
    [line] = answer.stderr.splitlines()
    assert str(root) in line
    assert "FPAREC_DATA" in line
    assert not root.exists()


@pytest.mark.parametrize("name", ["with space", "ü", "a#b", "a&b;c"])
def test_other_odd_names_are_fine(name, tmp_path, monkeypatch):
    monkeypatch.setenv("FPAREC_DATA", str(tmp_path / name))
    data = DataRoot.default().writable()
    tiny_root(data.root)
    assert "tiny" in load_config(data).datasets
    assert Tracker(None, data).initialise()


@pytest.mark.parametrize("words", [["sync"], ["recommend", "beauty"], ["serve", "beauty"]])
def test_a_root_that_cannot_be_written_is_named_in_one_line(words, tmp_path):
    (tmp_path / "file").touch()
    answer = fparec(*words, FPAREC_DATA=str(tmp_path / "file" / "data"))
    assert answer.returncode == 2
    [line] = answer.stderr.splitlines()
    assert "cannot be written" in line


def test_dev_names_what_is_wrong_before_it_starts_a_server(tmp_path):
    wide = {"FPAREC_DATA": str(tmp_path), "COLUMNS": "200"}
    answer = fparec("dev", "--dagster-port", "70000", **wide)
    assert answer.returncode == 2
    assert "Invalid value for '--dagster-port'" in answer.stderr
    (tmp_path / "models.toml").write_text("[broken\n")
    answer = fparec("dev", **wide)
    assert answer.returncode == 2
    [line] = answer.stderr.splitlines()
    assert "models.toml" in line


def test_dagster_home_is_made_absolute_or_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    for given in ("home", "~/home", str(tmp_path / "home")):
        monkeypatch.setenv("DAGSTER_HOME", given)
        assert dagster_home() == tmp_path / "home"
        assert os.environ["DAGSTER_HOME"] == str(tmp_path / "home")
    for missing in ("away", "~nobody-of-that-name/x"):
        monkeypatch.setenv("DAGSTER_HOME", missing)
        with pytest.raises(UnusableFolder, match=r"^DAGSTER_HOME"):
            dagster_home()
    monkeypatch.delenv("DAGSTER_HOME")
    assert dagster_home() is None


def test_an_ascii_terminal_shows_what_it_can(tmp_path):
    tiny_root(tmp_path)
    with (tmp_path / "datasets.toml").open("a", encoding="utf-8") as file:
        file.write('[tiny-2]\ntitle = "Café †"\n[tiny-2.sources.own]\nreader = "pairs"\n'
                   'address = "x"\n')  # fmt: skip
    answer = fparec(
        "leaderboard", "--dataset", "tiny-2", FPAREC_DATA=str(tmp_path), PYTHONIOENCODING="ascii"
    )
    assert "Traceback" not in answer.stderr
    assert "Caf?" in answer.stdout
    assert answer.returncode == 0


def test_a_configuration_with_a_byte_order_mark_is_read(tmp_path):
    tiny_root(tmp_path)
    path = tmp_path / "datasets.toml"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert "tiny" in load_config(DataRoot(tmp_path)).datasets


def test_a_lock_can_be_looked_at_without_the_right_to_write(tmp_path):
    assert not is_locked(tmp_path)
    lock = tmp_path / LOCK
    lock.touch()
    lock.chmod(0o400)
    before = lock.stat().st_mtime_ns
    assert not is_locked(tmp_path)
    assert lock.stat().st_mtime_ns == before


def test_a_deleted_experiment_is_restored(tmp_path):
    data = DataRoot(tmp_path)
    first = Tracker(None, data)
    assert first.initialise()
    client = first._client
    client.delete_experiment(client.get_experiment_by_name("fparec").experiment_id)
    assert Tracker(None, data).initialise()
    assert client.get_experiment_by_name("fparec").lifecycle_stage == "active"


def test_a_data_root_can_be_moved_and_copied(tmp_path):
    old, new = DataRoot(tmp_path / "old"), DataRoot(tmp_path / "new")
    tracker = Tracker(None, old)
    assert tracker.log_table("table_3", "| before |", [])
    shutil.copytree(old.root, tmp_path / "copy")
    old.root.rename(new.root)
    run = Tracker(None, new).log_table("table_3", "| after |", [])
    assert run
    assert not old.root.exists()
    artifacts = new.mlflow / "artifacts" / "fparec-tables"
    texts = {path.read_text() for path in artifacts.rglob("table_3.md")}
    assert texts == {"| before |", "| after |"}
    assert Tracker(None, DataRoot(tmp_path / "copy")).log_table("table_3", "| copied |", [])
    assert len(list(artifacts.rglob("table_3.md"))) == 2


def test_a_port_that_is_taken_is_named_before_anything_starts(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        answer = fparec("dev", "--dagster-port", port, FPAREC_DATA=str(tmp_path / "data"))
    assert answer.returncode == 2
    [line] = answer.stderr.splitlines()
    assert f"Port {port}" in line
    assert "--dagster-port" in line
    assert not Path(tmp_path / "data" / "mlflow").exists()
