"""Every example in `examples/` runs."""

import json
import runpy
import shutil
import sys

import pytest
from tiny import SMALL, tiny_splits
from trial_folders import write_arms

from fparec_pipeline.config import Hyperparameters, load_config
from fparec_pipeline.datasets.sources import fetch_raw
from fparec_pipeline.datasets.splits import make_splits
from fparec_pipeline.paths import CHECKOUT, DataRoot
from fparec_pipeline.training.trial import run_trial

EXAMPLES = CHECKOUT / "examples"


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("FPAREC_DATA", str(tmp_path))
    return DataRoot(tmp_path)


def small(trial):
    h = Hyperparameters(**trial.hyperparameters.model_dump() | SMALL)
    return trial.model_copy(update={"hyperparameters": h})


def test_the_models_mixer_keeps_the_contract_and_trains(data, monkeypatch, capsys):
    shutil.copy(EXAMPLES / "own_model" / "models.toml", data.root)
    monkeypatch.syspath_prepend(EXAMPLES / "own_model")
    runpy.run_path(str(EXAMPLES / "own_model" / "check.py"))
    assert "keeps to the interface" in capsys.readouterr().out
    trial = load_config(data).trial("ml-latest-small", "decay", 0)
    trial = small(trial).model_copy(update={"dataset": "tiny"})
    record = run_trial(trial, tiny_splits(), data, device="cpu")
    assert record.hyperparameters["mixer"] == "decay:Decay"
    assert 0 < record.metrics["test/ndcg_at_10"] <= 1
    sys.modules.pop("decay", None)


def test_the_dataset_is_read_split_and_trained_on(data):
    made = runpy.run_path(str(EXAMPLES / "own_dataset" / "make_orders.py"))
    made["make_orders"](data.root)
    shutil.copy(EXAMPLES / "own_dataset" / "datasets.toml", data.root)
    config = load_config(data)
    dataset = config.datasets["orders"]
    splits = make_splits("orders", dataset, fetch_raw("orders", dataset, data), data)
    assert 250 < splits.n_users <= made["CUSTOMERS"]
    assert 100 < splits.n_items <= made["ARTICLES"]
    record = run_trial(small(config.trial("orders", "fparec", 0)), splits, data, device="cpu")
    assert record.epochs == SMALL["max_epochs"]


def test_the_notebook_reads_results(data):
    config = load_config(data)
    metrics = {"fparec": {"test/ndcg_at_10": 0.06}, "sasrec": {"test/ndcg_at_10": 0.05}}
    write_arms(data, config, "beauty", metrics)
    notebook = json.loads((EXAMPLES / "read_results.ipynb").read_text(encoding="utf-8"))
    names: dict = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)  # noqa: S102
    assert names["trials"].height == 6
    assert names["board"]["model"].to_list() == ["fparec", "sasrec"]
    assert names["curve"].height == 3
    assert set(names["values"]) == {"fparec", "sasrec"}


def test_the_notebook_is_committed_without_outputs():
    for path in EXAMPLES.rglob("*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            assert not cell.get("outputs"), path
