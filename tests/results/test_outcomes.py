"""One value a user from ranks and lists, for accuracy and beyond."""

import numpy as np
import polars as pl
import pytest
from tiny import splits_of, tiny_splits, tiny_trial

from fparec_pipeline.results.significance import Outcomes, bootstrap_interval, read_tested
from fparec_pipeline.training import beyond
from fparec_pipeline.training.trial import run_trial

USERS = np.array([1, 1, 3])


def test_a_users_targets_are_averaged_for_every_seed():
    tested = Outcomes({"test": np.array([[1, 11, 2], [1, 1, 99]])}, USERS, [])
    assert tested.values("test/hr_at_10").tolist() == [[0.5, 1], [1, 0]]
    assert tested.values("hr_at_1").tolist() == [[0.5, 0], [1, 0]]


def test_lists_give_values_of_users_and_what_has_none_is_empty():
    lists = beyond.lists_table(
        np.array([[1, 2, *[0] * 8], [3, *[0] * 9]]),
        np.array([[2, *[0] * 9], [1, *[0] * 9]]),
        splits_of([[1, 1, 2, 3], [1, 2, 1, 2]]),
    )
    ranks = np.array([[1, 11], [2, 2]])
    tested = Outcomes({"test": ranks, "test_unseen": ranks}, np.array([1, 2]), [lists, lists])
    # Two training users: both have item 1, one has item 2, nobody has item 3.
    assert tested.values("test/novelty_at_10").tolist() == [[0.5, 1], [0.5, 1]]
    assert tested.values("test_unseen/novelty_at_10").tolist() == [[1, 0], [1, 0]]
    assert tested.values("test/hr_at_10_new").tolist() == [[1], [1]]
    assert tested.values("test/hr_at_10_repeated").tolist() == [[0], [1]]
    without = Outcomes({"test": ranks}, np.array([1, 2]), [])
    assert without.values("test/novelty_at_10").shape == (2, 0)
    with pytest.raises(ValueError, match="coverage_at_10"):
        tested.values("test/coverage_at_10")


def test_values_of_a_trial_have_the_means_of_its_record(data):
    splits = tiny_splits(name="beauty")
    trial = tiny_trial(dataset="beauty")
    record = run_trial(trial, splits, data, device="cpu")
    tested = read_tested("beauty", "fparec", (0,), data)
    assert [type(table) for table in tested.lists] == [pl.DataFrame]
    names = [name for name in record.metrics if name.startswith("test")]
    for name in names:
        if name.partition("/")[2] not in beyond.OF_ALL_LISTS:
            values = tested.values(name)
            assert values.mean() == pytest.approx(record.metrics[name])
            low, high = bootstrap_interval(values, resamples=50)
            assert low <= high
