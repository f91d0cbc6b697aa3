"""Intervals and tests against naive loops, scipy and statsmodels; verdicts by hand."""

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from tiny import PACKAGED

from fparec_pipeline.results.claims import Claim, judge, read_claims
from fparec_pipeline.results.significance import (
    bootstrap_interval,
    compare,
    holm,
    paired_p,
)
from fparec_pipeline.training.metrics import per_target


def hits(seeds, users, share, seed=0):
    return (np.random.default_rng(seed).random((seeds, users)) < share).astype(float)


def test_per_user_metrics_by_hand():
    ranks = np.array([1, 3, 10, 11])
    assert per_target(ranks, "test/hr_at_10").tolist() == [1, 1, 1, 0]
    assert per_target(ranks, "ndcg_at_10").tolist() == [1, 0.5, 1 / math.log2(11), 0]
    assert per_target(ranks, "test/mrr").tolist() == [1, 1 / 3, 1 / 10, 1 / 11]
    with pytest.raises(ValueError, match="auc"):
        per_target(ranks, "test/auc")


@pytest.mark.parametrize("width", [np.uint8, np.uint16, np.uint32, np.int64])
@pytest.mark.parametrize("metric", ["hr_at_10", "ndcg_at_10", "mrr"])
def test_the_width_of_published_ranks_changes_no_bit(width, metric):
    ranks = np.arange(1, 101)
    values = per_target(ranks.astype(width), metric)
    assert values.dtype == np.float64
    assert (values == per_target(ranks, metric)).all()


def test_a_p_far_below_single_precision_is_no_zero():
    """Narrow ranks, as published, had single precision, in which such a p is nothing."""
    ranks = np.random.default_rng(0).integers(1, 40, 5_000)
    values = {
        "good": per_target(ranks.astype(np.uint16), "ndcg_at_10")[None],
        "bad": per_target((ranks + 5).astype(np.uint16), "ndcg_at_10")[None],
    }
    gains = [[1 / math.log2(1 + rank) * (rank <= 10) for rank in r] for r in (ranks, ranks + 5)]
    expected = stats.ttest_rel(*gains).pvalue
    assert 0 < expected < 1e-200
    assert compare(values, [("good", "bad")])["good", "bad"].p == pytest.approx(expected, abs=0)


@pytest.mark.parametrize("metric", ["hr_at_10", "ndcg_at_10", "mrr"])
def test_the_interval_is_that_of_a_naive_bootstrap(metric):
    ranks = np.random.default_rng(1).integers(1, 40, (3, 150))
    values = per_target(ranks, metric)
    draw = np.random.default_rng(2)
    medians = []
    for _ in range(4000):
        users = draw.integers(0, 150, 150)
        medians.append(np.median([values[seed][users].mean() for seed in range(3)]))
    expected = np.quantile(medians, [0.025, 0.975])
    width = expected[1] - expected[0]
    found = bootstrap_interval(values, resamples=4000)
    assert np.abs(np.array(found) - expected).max() < 0.06 * width


def test_one_seed_has_scipys_interval():
    values = hits(1, 400, 0.2)
    expected = stats.bootstrap(
        (values[0],), np.mean, method="percentile", n_resamples=4000, rng=3
    ).confidence_interval
    assert bootstrap_interval(values) == pytest.approx(tuple(expected), abs=0.005)


def test_equal_seeds_give_equal_intervals():
    values = hits(3, 300, 0.1)
    assert bootstrap_interval(values) == bootstrap_interval(values)


def test_batches_change_nothing(monkeypatch):
    values = hits(3, 100, 0.3)
    whole = bootstrap_interval(values)
    monkeypatch.setattr("fparec_pipeline.results.significance._BATCH_NUMBERS", 50)
    assert bootstrap_interval(values) == pytest.approx(whole)


def test_an_interval_needs_users():
    with pytest.raises(ValueError, match="users"):
        bootstrap_interval(np.empty((3, 0)))


def test_holm_is_statsmodels_holm():
    p = [0.01, 0.04, 0.03, 0.005, 0.9, 0.03]
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    assert holm([]) == []


def test_the_paired_test_agrees_with_a_permutation_test():
    first, second = hits(1, 300, 0.3)[0], hits(1, 300, 0.38, seed=5)[0]
    draw = np.random.default_rng(0)
    differences = first - second
    signs = draw.choice([-1, 1], (20_000, 300))
    permuted = np.abs((signs * differences).mean(axis=1)) >= abs(differences.mean()) - 1e-12
    assert paired_p(first, second) == pytest.approx(permuted.mean(), abs=0.02)


def test_arms_that_never_differ_are_not_significant():
    values = hits(3, 50, 0.5)
    (found,) = compare({"a": values, "b": values}, [("a", "b")]).values()
    assert (found.difference, found.p, found.significant) == (0, 1, False)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([], []),
        ([1.0], [0.0]),
        ([1.0, 0.5, 0.25], [0.75, 0.25, 0.0]),
        ([0.1 + 0.2, 0.6], [0.1, 0.4]),
    ],
)
def test_differences_without_variance_decide_nothing(first, second):
    assert paired_p(np.array(first), np.array(second)) == 1.0


# Claims


CLAIM = Claim(text="a", study="s", metric="m", datasets=("x", "y"), order=(("a",), ("b", "c")))
GOOD, BAD = hits(3, 2000, 0.5), hits(3, 2000, 0.1, seed=9)


@pytest.mark.parametrize(
    ("x", "verdict", "missing"),
    [
        ({"a": GOOD, "b": BAD, "c": BAD}, "held", 0),
        ({"a": GOOD, "b": BAD, "c": GOOD}, "undecided", 0),
        ({"a": GOOD, "b": BAD}, "undecided", 1),
        ({"a": BAD, "b": GOOD}, "mixed", 1),
        ({}, "undecided", 2),
    ],
)
def test_verdicts(x, verdict, missing):
    y = {"a": GOOD, "b": BAD, "c": BAD}
    (judged,) = judge([CLAIM], lambda study, dataset, metric: {"x": x, "y": y}[dataset])
    assert (judged.verdict, judged.missing) == (verdict, missing)


def test_a_claim_is_reversed_only_where_nothing_is_as_claimed():
    other = {"a": BAD, "b": GOOD, "c": BAD}  # a against c: neither
    (judged,) = judge([CLAIM], lambda study, dataset, metric: other)
    assert (judged.verdict, judged.count("held")) == ("reversed", 0)


def test_the_papers_claims_are_true_of_what_it_printed():
    for claim in read_claims():
        study = PACKAGED.studies[claim.study]
        name = claim.metric.removeprefix("test/")
        for dataset in claim.datasets:
            assert dataset in study.datasets
            printed = PACKAGED.paper[claim.study][dataset]
            for better, worse in claim.pairs:
                assert better in study.arms and worse in study.arms
                assert printed[better][name] >= printed[worse][name], (claim.text, dataset)
