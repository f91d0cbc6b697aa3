"""MLflow's registry, read with MLflow's own client from a temporary SQLite store."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fparec_pipeline.cli.store import bring_up_to_date
from fparec_pipeline.datasets.splits import read_splits
from fparec_pipeline.results.trials import trials_frame
from fparec_pipeline.serving.answers import answer
from fparec_pipeline.serving.champion import (
    champion_folder,
    load_champion,
    promote,
    roll_back,
)
from fparec_pipeline.serving.choice import NoChampion, choose
from fparec_pipeline.serving.model import FACTS
from fparec_pipeline.tracking import Tracker, default_uri
from fparec_pipeline.tracking.registry import CHAMPIONS, Registry
from fparec_pipeline.training.record import read_record, trial_folders, write_sealed

NAME = "fparec-tiny"


@pytest.fixture
def registry(data):
    return Registry(Tracker(None, data))


@pytest.fixture
def client(data):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=default_uri(data), registry_uri=default_uri(data))


def promoted(data, config, arm="fparec", **options):
    choice = choose(trials_frame(data, config), "tiny", config, data, arm)
    return promote(choice, read_splits(data.splits("tiny")), config, data, **options)


def everything(client, experiment):
    """All that MLflow knows of an experiment's runs."""
    identity = client.get_experiment_by_name(experiment).experiment_id
    return {run.info.run_id: run.to_dictionary() for run in client.search_runs([identity])}


def fingerprint_at(client, alias):
    return client.get_model_version_by_alias(NAME, alias).tags["fingerprint"]


def test_champions_are_versions_with_aliases_and_nothing_else_changes(
    data, config, registry, client
):
    with pytest.raises(NoChampion):
        registry.sync("tiny")
    registry.tracker.sync_all(trial_folders(data))
    before = everything(client, "fparec")
    first = promoted(data, config)
    version = registry.sync("tiny")
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert everything(client, "fparec") == before
    assert fingerprint_at(client, "champion") == first.fingerprint

    found = client.get_model_version(NAME, version)
    trial = read_record(data.trial("tiny", "fparec", first.seed))
    assert found.description == first.note
    assert found.tags["trial_attempt"] == trial.attempt
    run = client.get_run(found.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == pytest.approx(trial.metrics)
    model = client.get_logged_model(found.source.rpartition("/")[2])
    assert {m.key: m.value for m in model.metrics} == pytest.approx(trial.metrics)

    runs = everything(client, CHAMPIONS)
    assert registry.sync("tiny") == version
    assert everything(client, CHAMPIONS) == runs
    second = promoted(data, config, "average", with_refit=False)
    registry.sync("tiny")
    assert fingerprint_at(client, "champion") == second.fingerprint
    assert fingerprint_at(client, "previous") == first.fingerprint
    roll_back("tiny", data)
    assert registry.sync("tiny") == version
    assert fingerprint_at(client, "champion") == first.fingerprint
    assert fingerprint_at(client, "previous") == second.fingerprint
    assert len(client.search_model_versions(f"name = '{NAME}'")) == 2


# Run where this project is not installed and nothing may be unpickled.
ELSEWHERE = """
import importlib.util, json, pickle, sys
sys.path = [p for p in sys.path if p != sys.argv[1]]
sys.meta_path = [f for f in sys.meta_path if "editable" not in getattr(f, "__module__", repr(f))]
assert importlib.util.find_spec("fparec_pipeline") is None
import mlflow, mlflow.pyfunc, pandas as pd, torch
def forbidden(*args, **kwargs):
    raise AssertionError("something was unpickled")
pickle.load = pickle.loads = pickle.Unpickler = pickle._Unpickler = torch.load = forbidden
mlflow.set_tracking_uri(sys.argv[2])
model = mlflow.pyfunc.load_model("models:/fparec-tiny@champion")
import fparec_pipeline
assert fparec_pipeline.__file__.startswith(sys.argv[4]), fparec_pipeline.__file__
histories = json.loads(sys.argv[3])
print(json.dumps(model.predict(pd.DataFrame({"history": histories}), params={"k": 4})))
"""


def test_a_registered_model_loads_without_this_project_and_without_pickle(
    data, config, registry, tmp_path
):
    promoted(data, config)
    registry.sync("tiny")
    histories = [["item 3", "item 4", "nope"], []]
    project = str(Path(__file__).parents[2])
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    arguments = [project, default_uri(data), json.dumps(histories), str(data.root)]
    result = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert result.returncode == 0, result.stderr
    said = json.loads(result.stdout.splitlines()[-1])
    expected = answer(load_champion("tiny", data), histories, 4)
    for found, wanted in zip(said, expected, strict=True):
        if wanted["scores"]:
            assert found.pop("scores") == pytest.approx(wanted.pop("scores"))
        assert found == wanted


def test_sync_registers_every_champion_and_passes_over_a_damaged_one(
    data, config, registry, client, capsys, caplog
):
    assert registry.sync_all() == 0
    champion = promoted(data, config)
    assert bring_up_to_date(data, config)
    assert "MLflow's registry: 1 datasets' champions are up to date." in capsys.readouterr().out
    assert fingerprint_at(client, "champion") == champion.fingerprint
    assert Registry(Tracker("http://127.0.0.1:9", data)).sync_all() is None
    (champion_folder("tiny", data) / FACTS).write_text("{")
    assert registry.sync_all() == 0
    assert "champion.json is damaged" in caplog.text


def test_without_mlflow_a_champion_is_made_and_registered_later(data, config, caplog):
    promoted(data, config)
    away = Registry(Tracker("http://127.0.0.1:9", data))
    assert away.sync("tiny") is None
    assert Registry(Tracker(None, data)).sync("tiny") == "1"


def test_a_previous_champion_that_is_damaged_does_not_stop_the_new_one(
    data, config, registry, client, caplog
):
    first = promoted(data, config)
    second = promoted(data, config, "average", with_refit=False)
    registry.sync("tiny")
    assert fingerprint_at(client, "previous") == first.fingerprint
    shutil.rmtree(data.champions("tiny") / first.fingerprint)
    assert registry.sync("tiny") == "2"
    assert fingerprint_at(client, "champion") == second.fingerprint
    assert "previous" not in client.get_registered_model(NAME).aliases
    assert "previous champion is passed over" in caplog.text


def test_a_champion_that_is_chosen_again_by_another_median_says_so(data, config, registry, client):
    champion = promoted(data, config)
    version = registry.sync("tiny")
    path = champion_folder("tiny", data) / FACTS
    choice = champion.choice.model_copy(update={"median": 0.5})
    write_sealed(path, champion.model_copy(update={"choice": choice}))
    assert registry.sync("tiny") == version
    found = client.get_model_version(NAME, version)
    assert found.tags["chosen_median"] == "0.500000"
    assert client.get_run(found.run_id).data.tags["chosen_median"] == "0.500000"
