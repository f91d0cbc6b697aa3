"""`kill -9`: of the process that trains a trial, and of the workers of a long run."""

import random
import time

import pytest
from outcomes import outcome
from processes import python
from tiny import tiny_splits, tiny_trial

from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training.record import (
    CHECKPOINT,
    RECORD,
    is_locked,
    read_attempt,
    view_trial,
)
from fparec_pipeline.training.trial import run_trial

KILLS = 10
STEP = 10  # at most so many epochs between two kills
TRIAL = {"max_epochs": KILLS * STEP * 2, "patience": 1000, "dropout": 0.5, "blocks": 2}

# Tells of each epoch before it is in a checkpoint, of which there is one an epoch.
TRAIN = """
from pathlib import Path
from tiny import tiny_splits, tiny_trial
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training import trial

class Telling(trial.Silent):
    def on_epoch(self, progress):
        print(progress.epoch, flush=True)

trial.checkpoint_interval = lambda seconds: -1.0
changes, root = eval(sys.argv[1]), Path(sys.argv[2])
trial.run_trial(tiny_trial(**changes), tiny_splits(), DataRoot(root), device="cpu",
                observer=Telling())
"""


@pytest.mark.slow_fault
@pytest.mark.fault("killed")
def test_ten_kills_at_random_moments_change_no_bit(tmp_path, harm):
    draw = random.Random(0)
    undisturbed, data = DataRoot(tmp_path / "undisturbed"), DataRoot(tmp_path / "killed")
    folder = data.trial("tiny", "fparec", 0)
    attempts = set()
    for _ in range(KILLS):
        with python(TRAIN, TRIAL, data.root) as process:
            for _ in range(draw.randint(1, STEP)):
                assert process.stdout.readline()
            time.sleep(draw.uniform(0, 0.05))
            assert process.poll() is None
            assert is_locked(folder) and not (folder / RECORD).exists()
            process.kill()
        view = view_trial(folder)  # whatever there is can be read
        assert not view.running and view.record is None
        attempts.add(view.attempt["attempt"])
        harm()
    assert len(attempts) == 1
    assert view.history.height >= KILLS - 1  # they did go on from their checkpoints

    with python(TRAIN, TRIAL, data.root) as process:
        first = int(process.stdout.readline())
        process.communicate()
    assert process.returncode == 0
    assert first == view.history.height + 1
    assert {read_attempt(folder).attempt} == attempts
    run_trial(tiny_trial(**TRIAL), tiny_splits(), undisturbed, device="cpu")
    assert outcome(folder) == outcome(undisturbed.trial("tiny", "fparec", 0))
    assert not (folder / CHECKPOINT).exists()
    assert not list(folder.glob(".*.part"))
