"""A long run of tiny trials whose workers are killed, again and again."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import dagster as dg
import pytest
from data_roots import tiny_root
from outcomes import outcome
from processes import wait_until
from servers import MAIN

from fparec_pipeline.config import load_config
from fparec_pipeline.datasets.locks import is_held
from fparec_pipeline.datasets.splits import read_splits
from fparec_pipeline.defs.automation import in_progress
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.running.context import open_instance
from fparec_pipeline.tracking import default_uri
from fparec_pipeline.training.record import RECORD, is_locked, trial_folders
from fparec_pipeline.training.trial import run_trial

STUDY = """
[soak]
title = "Soak"
datasets = ["tiny"]
models = ["fparec", "sasrec"]
seeds = {seeds}
"""
SEEDS = list(range(100))
KILLS = 6
STEP = 30  # at most so many results between two kills


def fparec(data: DataRoot, *arguments: str) -> subprocess.Popen:
    environment = os.environ | {"FPAREC_DATA": str(data.root)}
    with (data.root / "output").open("a") as output:
        return subprocess.Popen(
            [sys.executable, "-c", MAIN, *arguments], env=environment, stdout=output, stderr=output
        )


def workers(data: DataRoot) -> list[int]:
    """The processes of runs that go on."""
    locks = [path for path in (data.dagster_home / "alive").glob("*.lock") if is_held(path)]
    return [int(text) for path in locks if (text := path.read_text()).isdigit()]


def finished(data: DataRoot) -> int:
    return len(list(data.trials.glob(f"tiny/*/*/{RECORD}")))


def unfinished(data: DataRoot) -> list[Path]:
    """Trials that some process is at."""
    return [f for f in trial_folders(data) if not (f / RECORD).exists() and is_locked(f)]


def told_by_mlflow(data: DataRoot) -> Counter:
    """Model, seed and status of each run of a training."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=default_uri(data))
    experiment = client.get_experiment_by_name("fparec").experiment_id
    found = client.search_runs([experiment], "tags.trained = 'true'")
    runs = [run for run in found if "seed" in run.data.tags]  # not the medians
    return Counter((r.data.tags["model"], r.data.tags["seed"], r.info.status) for r in runs)


@pytest.mark.slow_fault
@pytest.mark.timeout(1800)
@pytest.mark.fault("soak")
def test_200_trials_under_random_kills_are_200_results(tmp_path, harm):
    draw = random.Random(0)
    data = tiny_root(tmp_path / "data", epochs=6)
    with (data.root / "studies.toml").open("a") as file:
        file.write(STUDY.format(seeds=SEEDS))
    run = ("run", "--study", "soak", "--jobs", "2")

    kills = calls = 0
    status = 1
    while status:
        command, calls = fparec(data, *run), calls + 1
        while kills < KILLS and command.poll() is None:
            enough = finished(data) + draw.randint(1, STEP)
            while command.poll() is None and finished(data) < enough:
                time.sleep(0.05)
            wait_until(lambda c=command: c.poll() is not None or unfinished(data), "a trial")
            if found := workers(data):
                os.kill(draw.choice(found), signal.SIGKILL)
                kills += 1
                harm()
        status = command.wait()
        assert "Traceback" not in (data.root / "output").read_text()
        assert status == 0 or calls <= KILLS
    assert kills == KILLS
    assert fparec(data, "sync").wait() == 0  # what a kill left untold, after its trial's end

    splits, alone = read_splits(data.splits("tiny")), DataRoot(tmp_path / "alone")
    trials = load_config(data).trials(["tiny"], ["fparec", "sasrec"], SEEDS)
    for trial in trials:
        run_trial(trial, splits, alone, device="cpu")
        names = trial.id
        assert outcome(data.trial(*names)) == outcome(alone.trial(*names))
    assert told_by_mlflow(data) == Counter((t.arm, str(t.seed), "FINISHED") for t in trials)
    with open_instance(data) as on:
        assert on.get_runs(dg.RunsFilter(statuses=in_progress())) == []
        for model in ("fparec", "sasrec"):
            shown = on.get_materialized_partitions(dg.AssetKey(["trained", model]))
            assert shown == {f"tiny|{seed}" for seed in SEEDS}
