"""What a machine with a GPU is asked to do runs at all, here on the CPU."""

import importlib.util
import tarfile
from pathlib import Path

import pytest
from data_roots import tiny_root

from fparec_pipeline.config import load_config
from fparec_pipeline.datasets.sources import fetch_raw
from fparec_pipeline.datasets.splits import make_splits
from fparec_pipeline.training.record import ATTEMPT, CHECKPOINT

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def gpu():
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A data root with the splits of `tiny`, which is the default one meanwhile."""
    data = tiny_root(tmp_path / "data", epochs=2)
    monkeypatch.setenv("FPAREC_DATA", str(data.root))
    tiny = load_config(data).datasets["tiny"]
    make_splits("tiny", tiny, fetch_raw("tiny", tiny, data), data)
    return data


def test_a_stack_is_trained_told_of_and_exported(gpu, data, tmp_path, capsys):
    line = gpu.train("tiny", "fparec", (0, 1), "cpu")
    assert line["epochs"] == [2, 2]
    assert "tiny/fparec/seed=0 epoch 1 NDCG@10" in capsys.readouterr().out
    three = load_config(data).trial("tiny", "fparec", 2)
    left = data.trial(*three.id)
    left.mkdir()
    for name in (ATTEMPT, CHECKPOINT):
        (left / name).write_text(name)
    (tmp_path / "out").mkdir()
    gpu.export(tmp_path / "out")
    assert (tmp_path / "out" / "published" / "trials.parquet").exists()
    assert "1 unfinished trials packed\n2 trials exported" in capsys.readouterr().out
    with tarfile.open(tmp_path / "out" / "unfinished-1.tar") as tar:
        assert tar.getnames() == [f"tiny/fparec/seed=2/{name}" for name in (ATTEMPT, CHECKPOINT)]


def test_arms_that_cannot_be_stacked_are_named(gpu, capsys):
    found = [arm for _, arm, _ in gpu.stacks_of(["baseline_losses:beauty"])]
    assert "fparec" in found and "sasrec_bce" not in found
    assert "beauty/sasrec_bce cannot be stacked" in capsys.readouterr().out


def test_single_trials_are_named_and_stacks_taken_apart(gpu):
    stacks = gpu.stacks_of(["table_3:beauty", "ml-1m/parec_long/0"])
    assert ("beauty", "fparec", (0, 1, 2)) in stacks and ("ml-1m", "parec_long", (0,)) in stacks
    assert gpu.alone(stacks)[-2:] == [("beauty", "fparec", (2,)), ("ml-1m", "parec_long", (0,))]


def test_seconds_of_an_epoch_are_of_as_many_seeds_as_asked_for(gpu, data):
    line = gpu.epochs("tiny", "fparec", "cpu", seeds=2)
    assert line["seeds"] == 2 and 0 < line["seconds"]
