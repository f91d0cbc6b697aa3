"""A disk that is full while splits, a checkpoint or MLflow's store is written."""

import pytest
from data_roots import tiny_root
from outcomes import outcome
from processes import with_small_disk
from tiny import tiny_splits, tiny_trial

from fparec_pipeline.config import load_config
from fparec_pipeline.datasets.sources import fetch_raw
from fparec_pipeline.datasets.splits import make_splits, read_splits
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.tracking import Tracker, default_uri
from fparec_pipeline.training.record import CHECKPOINT, read_attempt, read_record
from fparec_pipeline.training.trial import run_trial

SPLITS = """
from pathlib import Path
from fparec_pipeline.config import load_config
from fparec_pipeline.datasets.sources import fetch_raw
from fparec_pipeline.datasets.splits import make_splits
from fparec_pipeline.paths import DataRoot
data = DataRoot(Path(sys.argv[1]))
dataset = load_config(data).datasets["tiny"]
make_splits("tiny", dataset, fetch_raw("tiny", dataset, data), data)
"""


@pytest.mark.fault("disk")
def test_splits_on_a_full_disk_are_named_and_the_old_ones_stay(tmp_path):
    data = tiny_root(tmp_path)
    dataset = load_config(data).datasets["tiny"]
    raw = fetch_raw("tiny", dataset, data)
    made = make_splits("tiny", dataset, raw, data)
    said = with_small_disk(SPLITS, 1000, data.root)
    assert said.startswith(f"CannotWrite {data.splits('tiny')} cannot be written: "), said
    assert "Free some space" in said
    assert read_splits(data.splits("tiny")).stats == made.stats
    assert make_splits("tiny", dataset, raw, data).stats == made.stats


# A checkpoint grows with each epoch; on this disk there is room for the first ones.
TRAIN = """
from pathlib import Path
from tiny import tiny_splits, tiny_trial
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training import trial
trial.checkpoint_interval = lambda seconds: -1.0
trial.run_trial(tiny_trial(**eval(sys.argv[2])), tiny_splits(), DataRoot(Path(sys.argv[1])),
                device="cpu", retrain=True)
"""
TRIAL = {"max_epochs": 40, "dropout": 0.5}


@pytest.mark.fault("disk")
def test_a_checkpoint_on_a_full_disk_is_named_and_nothing_is_lost(tmp_path):
    data, undisturbed = DataRoot(tmp_path / "data"), DataRoot(tmp_path / "undisturbed")
    trial, splits = tiny_trial(**TRIAL), tiny_splits()
    folder = data.trial("tiny", "fparec", 0)
    old = run_trial(trial, splits, data, device="cpu")
    work = folder.with_name("seed=0.next")

    said = with_small_disk(TRAIN, 16_000, data.root, TRIAL)
    assert said.startswith(f"CannotWrite {work / CHECKPOINT} cannot be written: "), said
    assert "Free some space" in said
    assert read_record(folder) == old
    assert not list(work.glob(".*.part"))
    begun = read_attempt(work).attempt

    new = run_trial(trial, splits, data, device="cpu", retrain=True)
    assert new.attempt == begun
    run_trial(trial, splits, undisturbed, device="cpu")
    assert outcome(folder) == outcome(undisturbed.trial("tiny", "fparec", 0))


TRACK = """
import logging
from pathlib import Path
from tiny import tiny_splits, tiny_trial
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.tracking import Tracker
from fparec_pipeline.training import trial
logging.basicConfig(stream=sys.stdout, format="%(message)s")
data = DataRoot(Path(sys.argv[1]))
tracker = Tracker(None, data)

class Tracking(trial.Silent):
    def on_checkpoint(self, folder):
        tracker.sync_trial(folder)

trial.run_trial(tiny_trial(max_epochs=30), tiny_splits(), data, device="cpu", observer=Tracking())
"""


@pytest.mark.fault("disk")
def test_mlflow_on_a_full_disk_stops_no_training_and_is_completed_later(tmp_path):
    from mlflow import MlflowClient

    data = DataRoot(tmp_path)
    tracker = Tracker(None, data)
    assert tracker.initialise()
    full = (data.mlflow / "mlflow.db").stat().st_size
    said = with_small_disk(TRACK, full, data.root)
    assert f"MLflow at {default_uri(data)} cannot be used just now" in said, said
    assert "fparec sync" in said
    folder = data.trial("tiny", "fparec", 0)
    assert read_record(folder).epochs == 30

    assert tracker.sync_all([folder]) == 1
    client = MlflowClient(tracking_uri=default_uri(data))
    (run,) = client.search_runs([client.get_experiment_by_name("fparec").experiment_id])
    assert run.info.status == "FINISHED"
    assert len(client.get_metric_history(run.info.run_id, "epoch/loss")) == 30
