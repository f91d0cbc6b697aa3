import math

import polars as pl
import pytest
from trial_folders import make_attempt, write_finished, write_splits

from fparec_pipeline.config import load_config
from fparec_pipeline.defs.checks import (
    better_than_popularity,
    epoch_cap_not_hit,
    loss_is_finite,
    medians_complete,
    not_stale,
)
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.results.medians import available_medians
from fparec_pipeline.results.trials import trials_frame
from fparec_pipeline.training.record import HISTORY

NDCG = "test/ndcg_at_10"


@pytest.fixture
def data(tmp_path):
    root = DataRoot(tmp_path)
    write_splits(root, "beauty")
    return root


def finish(data, arm, seed=0, value=0.5, hit_cap=False, **changes):
    attempt = make_attempt(load_config(data), "beauty", arm, seed, **changes)
    return write_finished(data, attempt, {NDCG: value}, hit_cap=hit_cap)


def frame(data):
    return trials_frame(data, load_config(data))


def test_a_trial_at_its_cap_of_epochs_is_named(data):
    finish(data, "fparec", 1, hit_cap=True)
    finish(data, "sasrec", 0)
    assert epoch_cap_not_hit(frame(data), data) == ["fparec seed 1"]


def test_a_stale_trial_is_named(data):
    finish(data, "fparec", 0, fingerprint="another")
    finish(data, "fparec", 1)
    assert not_stale(frame(data), data) == ["fparec seed 0"]


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_named(data, loss):
    finish(data, "sasrec", 0)
    path = finish(data, "fparec", 0) / HISTORY
    pl.read_parquet(path).with_columns(loss=pl.lit(loss)).write_parquet(path)
    assert loss_is_finite(frame(data), data) == ["fparec seed 0"]


def test_a_median_of_fewer_than_three_seeds_is_named(data):
    for seed in (0, 1, 2):
        finish(data, "sasrec", seed)
    finish(data, "fparec", 0)
    finish(data, "popularity", 0)
    assert medians_complete(available_medians(frame(data)), data) == ["fparec"]


def test_a_model_that_is_no_better_than_popularity_is_named(data):
    finish(data, "fparec", 0, 0.02)
    finish(data, "sasrec", 0, 0.05)
    assert better_than_popularity(available_medians(frame(data)), data) == [
        "popularity itself has not been ranked"
    ]
    finish(data, "popularity", 0, 0.02)
    assert better_than_popularity(available_medians(frame(data)), data) == ["fparec"]
