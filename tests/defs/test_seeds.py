"""Which trials of a run are trained as one, and what becomes of the others when one fails."""

import logging

import dagster as dg
import pytest
import torch
from tiny import PACKAGED, tiny_splits, tiny_trial

from fparec_pipeline.defs import seeds
from fparec_pipeline.defs.seeds import Manner, raise_failures, together, train_trials
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training.record import lock_trial

SETTINGS = PACKAGED.model_copy(update={"datasets": {"tiny": PACKAGED.datasets["beauty"]}})
TRIALS = [tiny_trial(model, seed) for seed in (0, 1) for model in ("parec", "fparec")]


def names(groups):
    return [[(trial.arm, trial.seed) for trial in group] for group in groups]


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_without_cuda_each_trial_is_alone(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert names(together(TRIALS, device)) == [[(t.arm, t.seed)] for t in TRIALS]


@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_on_cuda_the_seeds_of_an_arm_are_together(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    expected = [[("parec", 0), ("parec", 1)], [("fparec", 0), ("fparec", 1)]]
    assert names(together(TRIALS, device)) == expected
    sampled = [tiny_trial("fparec", seed, loss="sampled_softmax") for seed in (0, 1)]
    assert names(together(sampled, device)) == [[("fparec", 0)], [("fparec", 1)]]


class Told:
    """The reporter of a run, as far as training knows it."""

    log = logging.getLogger("run")

    def __init__(self):
        self.epochs = []

    def on_epoch(self, progress):
        self.epochs.append((progress.trial.seed, progress.epoch))

    def on_checkpoint(self, folder):
        pass


@pytest.fixture
def splits(monkeypatch):
    monkeypatch.setattr(seeds, "current_splits", lambda *dataset: tiny_splits())


def stacked_on_cpu(monkeypatch):
    monkeypatch.setattr(seeds, "together", lambda trials, device: [list(trials)])


def test_a_stack_is_trained_once_and_gives_each_seed_its_record(splits, monkeypatch, tmp_path):
    stacked_on_cpu(monkeypatch)
    trials, told = [tiny_trial("fparec", seed) for seed in (0, 1)], Told()
    results = train_trials(trials, SETTINGS, Manner(DataRoot(tmp_path), "cpu", True, told))
    assert told.epochs == [(0, 1), (1, 1), (0, 2), (1, 2)]
    assert [results[trial].stacked for trial in trials] == [2, 2]


def test_a_stack_that_fails_is_trained_seed_by_seed(splits, monkeypatch, tmp_path, caplog):
    def fail(*arguments, **options):
        raise RuntimeError("out of memory")

    stacked_on_cpu(monkeypatch)
    monkeypatch.setattr("fparec_pipeline.training.stacked.run_stacked", fail)
    trials, told = [tiny_trial("fparec", seed) for seed in (0, 1)], Told()
    results = train_trials(trials, SETTINGS, Manner(DataRoot(tmp_path), "cpu", False, told))
    assert told.epochs == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert [results[trial].stacked for trial in trials] == [1, 1]
    assert "out of memory" in caplog.text


def test_a_trial_that_fails_does_not_stop_the_others_and_fails_the_run(splits, tmp_path):
    data, trials = DataRoot(tmp_path), [tiny_trial("fparec", seed) for seed in (0, 1, 2)]
    with lock_trial(data.trial("tiny", "fparec", 1)):  # as another process that trains it does
        results = train_trials(trials, SETTINGS, Manner(data, "cpu", False, Told()))
    assert [isinstance(results[trial], Exception) for trial in trials] == [False, True, False]
    with pytest.raises(dg.Failure) as failure:
        raise_failures(results)
    assert list(failure.value.metadata) == ["tiny/fparec/seed=1"]
    assert "seed=1 is being trained by another process" in failure.value.description
