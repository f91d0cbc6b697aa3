"""Metrics beyond accuracy: against RecTools' values, against naive loops, and by hand."""

import itertools
import math
import statistics

import numpy as np
import polars as pl
import pytest
import rectools_values as oracle
import torch
from rectools_values import N_ITEMS, K
from tiny import splits_of, tiny_splits, tiny_trial

from fparec_pipeline.datasets import splits as splits_module
from fparec_pipeline.datasets.splits import Splits
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training import beyond
from fparec_pipeline.training.beyond import beyond_accuracy, lists_table, per_user
from fparec_pipeline.training.evaluation import EvaluationSet, top_lists
from fparec_pipeline.training.record import LISTS, RANKS
from fparec_pipeline.training.trial import run_reference, run_trial

SPLITS = splits_of(oracle.interactions(), N_ITEMS)


@pytest.fixture(autouse=True, scope="module")
def several_blocks():
    """What is made in blocks of many users is made in several blocks of seven here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits_module, "CASES_AT_ONCE", 7)
        patch.setattr(beyond, "USERS_AT_ONCE", 7)
        yield


def padded(lists):
    return np.array([[*items, *[0] * (K - len(items))] for items in lists])


@pytest.fixture(scope="module")
def tables():
    """The lists' table (the same lists for both rankings) and the ranks'."""
    lists = padded(oracle.lists())
    ranks = pl.DataFrame({"user": range(1, 41), "test": oracle.ranks()}).with_columns(
        test_unseen=pl.col("test")
    )
    return lists_table(lists, lists, SPLITS), ranks


def test_values_are_those_of_rectools(tables):
    found = beyond_accuracy(*tables, N_ITEMS)
    assert found["test/coverage_at_10"] == oracle.RECTOOLS["coverage"]
    assert found["test/user_coverage"] == oracle.RECTOOLS["user_coverage"]
    assert found["test/novelty_at_10"] == pytest.approx(oracle.RECTOOLS["novelty"], rel=1e-12)


def test_the_gini_coefficient_is_half_the_relative_mean_difference(tables):
    """Σᵢ Σⱼ |wᵢ − wⱼ| / (2 |V| Σ w), every item of the catalogue counted."""
    recommended = [item for items in oracle.lists() for item in items]
    weights = [recommended.count(item) for item in range(1, N_ITEMS + 1)]
    expected = sum(abs(a - b) for a, b in itertools.product(weights, weights))
    expected /= 2 * N_ITEMS * sum(weights)
    assert beyond_accuracy(*tables, N_ITEMS)["test/gini_at_10"] == pytest.approx(expected)
    assert beyond.gini(np.full(7, 0.3)) == pytest.approx(0)
    assert beyond.gini(np.eye(7)[2]) == pytest.approx(6 / 7)


def test_the_share_of_the_popular_tenth(tables):
    training = [item for own in oracle.interactions() for item in own[:-2]]
    by_count = sorted(range(1, N_ITEMS + 1), key=lambda item: (-training.count(item), item))
    tenth = set(by_count[: math.ceil(N_ITEMS / 10)])
    shares = [
        sum(item in tenth for item in items) / len(items) for items in oracle.lists() if items
    ]
    found = per_user("popular_share_at_10", "test", tables[0], np.array(oracle.ranks()))
    assert found.tolist() == pytest.approx(shares)


@pytest.mark.parametrize("metric", ["hr", "ndcg"])
@pytest.mark.parametrize("segment", [None, *beyond.SEGMENTS])
def test_accuracy_of_a_segment_is_that_of_its_targets(metric, segment, tables):
    training = [item for own in oracle.interactions() for item in own[:-2]]
    lengths = [len(own) - 1 for own in oracle.interactions()]
    by_count = sorted(range(1, N_ITEMS + 1), key=lambda item: (-training.count(item), item))
    values = []
    for own, length, rank in zip(oracle.interactions(), lengths, oracle.ranks(), strict=True):
        belongs = {
            None: True,
            "answerable": True,
            "new": own[-1] not in own[:-1],
            "repeated": own[-1] in own[:-1],
            "short_history": length <= statistics.median(lengths),
            "long_history": length > statistics.median(lengths),
            "popular": own[-1] in by_count[: math.ceil(N_ITEMS / 10)],
            "unpopular": own[-1] not in by_count[: math.ceil(N_ITEMS / 10)],
        }
        gain = 1.0 if metric == "hr" else 1 / math.log2(1 + rank)
        if belongs[segment]:
            values.append(gain if rank <= 10 else 0.0)
    if segment is None:  # of all, another library agrees with this test's reading
        assert statistics.fmean(values) == pytest.approx(oracle.RECTOOLS[metric])
    else:
        found = per_user(f"{metric}_at_10_{segment}", "test", tables[0], np.array(oracle.ranks()))
        assert found.tolist() == pytest.approx(values)
        assert 0 < len(values)


def test_users_weigh_alike_however_many_lists_they_have():
    table = pl.DataFrame(
        {
            "user": [1, 1, 2],
            "test": [[1, 2], [1, 3], [3, 0]],
            "test/novelty_at_10": [1.0, 3.0, 5.0],
            "repeated": [True, False, True],
        },
        schema_overrides={"test": pl.Array(pl.UInt8, 2)},
    )
    assert per_user("novelty_at_10", "test", table, np.array([1, 1, 1])).tolist() == [2, 5]
    ranks = np.array([1, 1, 11])
    assert per_user("hr_at_10_repeated", "test", table, ranks).tolist() == [1, 0]
    assert per_user("hr_at_10_new", "test", table, ranks).tolist() == [1]
    assert beyond.recommended(table, "test", 4).tolist() == [1, 0.5, 1.5, 0]


# From scores to lists


@pytest.mark.parametrize("part", ["valid", "test"])
def test_lists_are_the_best_items_with_and_without_the_history(part):
    splits = tiny_splits(n_users=30, n_items=12, longest=12)
    scores = torch.from_numpy(
        np.random.default_rng(0).permuted(np.tile(np.arange(12.0), (30, 1)), axis=1)
    )

    def score(items):
        """Whose input it is cannot be seen: scores come in the order of the set."""
        yield scores[users.order].float()

    users = EvaluationSet(splits, part, 5)
    kept, unseen = top_lists(score, users)
    cases = splits.cases(part)
    for case in range(30):
        past = set(cases.items[cases.starts[case] : cases.ends[case]].tolist())
        best = sorted(range(1, 13), key=lambda item: -scores[case, item - 1])
        assert kept[case].tolist() == best[:10]
        others = [item for item in best if item not in past][:10]
        assert unseen[case].tolist() == others + [0] * (10 - len(others))
    assert (unseen == 0).any()


# In a trial's folder


@pytest.fixture(scope="module")
def trial_folder(tmp_path_factory):
    data = DataRoot(tmp_path_factory.mktemp("trial"))
    splits, trial = tiny_splits(n_items=25), tiny_trial()
    record = run_trial(trial, splits, data, device="cpu")
    return data.trial(*trial.id), record, splits


def test_a_trial_keeps_its_lists_in_small_integers(trial_folder):
    folder, record, splits = trial_folder
    table = pl.read_parquet(folder / LISTS)
    assert table["test"].dtype == pl.Array(pl.UInt8, K)
    assert table["user"].to_list() == list(range(1, splits.n_users + 1))
    assert LISTS in record.files
    hits = [target in items for target, items in zip(splits.test, table["test"], strict=True)]
    assert statistics.fmean(hits) == pytest.approx(record.metrics["test/hr_at_10"])


def test_the_record_has_what_the_files_say(trial_folder):
    folder, record, splits = trial_folder
    found = beyond_accuracy(
        pl.read_parquet(folder / LISTS), pl.read_parquet(folder / RANKS), splits.n_items
    )
    assert found == {name: record.metrics[name] for name in found}
    assert {name.partition("/")[2] for name in found} == set(beyond.METRICS)


def test_a_kind_of_target_that_is_not_there_has_no_value(tmp_path):
    """No user repeats an item, so that there are no repeated targets."""
    splits: Splits = splits_of([[1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 1]])
    record = run_reference("tiny", "popularity", splits, DataRoot(tmp_path))
    assert "test/hr_at_10_repeated" not in record.metrics
    assert record.metrics["test/hr_at_10_new"] == record.metrics["test/hr_at_10"]
