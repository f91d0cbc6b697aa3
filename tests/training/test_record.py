import hashlib
import subprocess
import sys

import polars as pl
import pytest
from trial_folders import make_attempt, make_history, write_finished, write_unfinished

from fparec_pipeline.config import load_config
from fparec_pipeline.datasets.files import write_atomically
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training.record import (
    ATTEMPT,
    CHECKPOINT,
    RANKS,
    RECORD,
    TrialCorrupt,
    TrialLocked,
    checkpoint_history,
    commit,
    is_locked,
    lock_trial,
    read_record,
    sha256,
    trial_folders,
    versions,
    view_trial,
    write_json,
)


@pytest.fixture
def data(tmp_path):
    return DataRoot(tmp_path)


@pytest.fixture
def attempt(data):
    return make_attempt(load_config(data), "beauty", "fparec", 1)


def test_a_written_file_is_whole_and_leaves_nothing_beside_it(tmp_path):
    with write_atomically(tmp_path / "deep" / "file") as part:
        part.write_text("content")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file"]
    assert (tmp_path / "deep" / "file").read_text() == "content"


def test_a_write_that_fails_leaves_the_old_content(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), write_atomically(path) as part:
        part.write_text("half of the n")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_refuses_what_is_not_finite(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "file.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_sha256_is_hashlibs(tmp_path):
    (tmp_path / "file").write_bytes(b"abc" * 100_000)
    assert sha256(tmp_path / "file") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_nothing_started_is_no_trial(data):
    folder = data.trial("beauty", "fparec", 0)
    assert read_record(folder) is None
    assert view_trial(folder) is None
    assert trial_folders(data) == []


def test_a_finished_trial_is_read_back(data, attempt):
    folder = write_finished(data, attempt, {"test/ndcg_at_10": 0.0417}, epochs=5, hit_cap=True)
    record = read_record(folder)
    assert record.metrics["test/ndcg_at_10"] == 0.0417
    assert (record.epochs, record.best_epoch, record.hit_cap) == (5, 5, True)
    view = view_trial(folder)
    assert view.record == record
    assert view.attempt == attempt.model_dump()
    assert view.history.to_dicts() == make_history(5)
    assert not view.running


def test_an_unfinished_trial_shows_its_checkpoints_history(data, attempt):
    view = view_trial(write_unfinished(data, attempt, epochs=4))
    assert view.record is None
    assert view.attempt["seed"] == 1
    assert view.history.to_dicts() == make_history(4)


def test_a_trial_without_a_checkpoint_has_an_empty_history(data, attempt):
    view = view_trial(write_unfinished(data, attempt, epochs=0))
    assert view.history.is_empty()
    assert "valid_ndcg_at_10" in view.history.columns


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.unlink(),
        lambda path: pl.DataFrame({"user": [1]}).write_parquet(path),
    ],
    ids=["cut short", "missing", "replaced"],
)
def test_a_damaged_file_is_named_with_what_to_do(data, attempt, damage):
    folder = write_finished(data, attempt)
    damage(folder / RANKS)
    command = "fparec run --datasets beauty --models fparec --seeds 1"
    with pytest.raises(TrialCorrupt, match=RANKS) as caught:
        read_record(folder)
    assert command in str(caught.value)
    assert str(folder / RANKS) in str(caught.value)
    assert read_record(folder, verify=False)  # trial.json itself is well


@pytest.mark.parametrize("name", [RECORD, ATTEMPT, CHECKPOINT])
def test_a_file_that_is_no_record_is_named(data, attempt, name):
    folder = (write_finished if name == RECORD else write_unfinished)(data, attempt)
    (folder / name).write_text('{"seed": ')
    with pytest.raises(TrialCorrupt, match=name):
        view_trial(folder)


def test_trial_folders_lists_trials_and_nothing_else(data):
    config = load_config(data)
    second = write_finished(data, make_attempt(config, "beauty", "fparec", 10))
    first = write_unfinished(data, make_attempt(config, "beauty", "fparec", 0))
    for name in ("seed=0.next", "notes"):
        (first.with_name(name)).mkdir()
        (first.with_name(name) / ATTEMPT).write_text("{}")
    assert trial_folders(data) == [first, second]


def test_the_lock_is_seen_and_refused_while_held(tmp_path, monkeypatch):
    monkeypatch.setattr("fparec_pipeline.training.record._PATIENCE", 0.0)
    assert not is_locked(tmp_path)
    with lock_trial(tmp_path):
        assert is_locked(tmp_path)
        with pytest.raises(TrialLocked, match=str(tmp_path)), lock_trial(tmp_path):
            pass
    assert not is_locked(tmp_path)


def test_a_look_at_the_lock_does_not_make_one(tmp_path):
    is_locked(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_frees_its_lock_and_its_rest_is_swept(data, attempt):
    folder = write_unfinished(data, attempt)
    script = (
        "import sys, time; from pathlib import Path;"
        "from fparec_pipeline.datasets.files import write_atomically\n"
        "from fparec_pipeline.training.record import lock_trial\n"
        "folder = Path(sys.argv[1])\n"
        "with lock_trial(folder), write_atomically(folder / 'trial.json') as part:\n"
        "    part.write_text('half'); print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        assert view_trial(folder).running
        process.kill()
    view = view_trial(folder)
    assert not view.running
    assert view.record is None
    assert len(list(folder.glob(".*.part"))) == 1
    with lock_trial(folder):
        assert list(folder.glob(".*.part")) == []


def test_provenance_names_commit_and_versions():
    answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    if answer.returncode == 0:
        assert commit().removesuffix("-dirty") == answer.stdout.strip()
    assert versions()["polars"] == pl.__version__
    assert versions()["python"] == ".".join(str(part) for part in sys.version_info[:3])


@pytest.mark.parametrize(
    ("name", "again"),
    [
        ("seed=3", "fparec run --datasets beauty --models fparec --seeds 3"),
        ("3f", "the same command"),
    ],
)
def test_what_makes_a_damaged_checkpoint_anew_is_named(tmp_path, name, again):
    folder = tmp_path / "beauty" / "fparec" / name  # of a champion it is a hash
    folder.mkdir(parents=True)
    (folder / CHECKPOINT).write_bytes(b"damaged")
    with pytest.raises(TrialCorrupt, match=rf"{CHECKPOINT} is no checkpoint.*{again}"):
        checkpoint_history(folder)
