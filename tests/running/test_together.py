"""Which trials `fparec run` gives to one worker, and what that worker makes of them."""

import pytest
import torch
from tiny import tiny_splits, tiny_trial

from fparec_pipeline.running import pool
from fparec_pipeline.running.pool import Options, together

TRIALS = [tiny_trial(model, seed) for seed in (0, 1) for model in ("parec", "fparec")]


def names(groups):
    return [[(trial.arm, trial.seed) for trial in group] for group in groups]


@pytest.mark.parametrize("device", ["cpu", "auto", "mps"])
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


@pytest.fixture
def materialized(monkeypatch):
    """The calls to `_train_one`, which is not made to run."""
    calls = []
    monkeypatch.setattr(pool, "_train_one", lambda *call: calls.append(call))
    return calls


def test_a_stack_is_trained_before_its_assets_report_it(materialized, monkeypatch, tmp_path):
    news = []
    monkeypatch.setattr(pool, "_news", type("Queue", (), {"put": news.append}))
    monkeypatch.setattr("fparec_pipeline.datasets.splits.read_splits", lambda path: tiny_splits())
    options = Options(str(tmp_path), "cpu", True)
    seeds = [tiny_trial("fparec", seed) for seed in (0, 1)]
    assert pool._train_group(seeds, options) == [None, None]
    assert [(p.trial.seed, p.epoch) for p in news] == [(0, 1), (1, 1), (0, 2), (1, 2)]
    assert materialized == [(trial, Options(str(tmp_path), "cpu", False)) for trial in seeds]


def test_a_stack_that_fails_is_trained_seed_by_seed(materialized, monkeypatch, tmp_path, caplog):
    def fail(*arguments):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(pool, "_train_stack", fail)
    options = Options(str(tmp_path), "cuda", True)
    assert pool._train_group(TRIALS, options) == [None] * 4
    assert materialized == [(trial, options) for trial in TRIALS]
    assert "out of memory" in caplog.text
