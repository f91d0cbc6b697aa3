"""Ranks and metrics by hand, against naive loops and against ranx."""

import importlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fparec_pipeline.datasets import splits as splits_module
from fparec_pipeline.datasets.splits import Splits
from fparec_pipeline.training.evaluation import (
    EvaluationSet,
    NonFiniteScores,
    count_ranks,
    rank_targets,
)
from fparec_pipeline.training.metrics import metrics_from_ranks

CUTOFFS = (1, 5, 10, 20, 50)


@pytest.fixture(autouse=True, scope="module")
def several_blocks():
    """What is made in blocks of many users is made in several blocks of seven here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits_module, "CASES_AT_ONCE", 7)
        yield


def ranks_of(scores, targets, histories):
    """(kept, removed) as lists, from plain lists; `histories` are distinct items of each user."""
    pairs = [(row, item) for row, history in enumerate(histories) for item in history]
    rows, items = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(1)
    kept, removed = count_ranks(
        torch.tensor(scores, dtype=torch.float32),
        torch.tensor(targets),
        rows,
        items,
    )
    return kept.tolist(), removed.tolist()


def naive_ranks(scores, target, history):
    """The definition, one user: scores[i − 1] is item i's."""
    wanted = scores[target - 1]
    ahead = {i for i, s in enumerate(scores, start=1) if i != target and not s < wanted}
    return 1 + len(ahead), 1 + len(ahead - set(history))


# Ranks


def test_ranks_by_hand():
    scores = [[0.9, 0.1, 0.5, 0.7], [0.9, 0.1, 0.5, 0.7]]
    assert ranks_of(scores, [3, 1], [[1], [2]]) == ([3, 1], [2, 1])


def test_ties_count_against_the_model():
    assert ranks_of([[0.0] * 6], [4], [[]]) == ([6], [6])
    assert ranks_of([[1.0, 2.0, 1.0, 0.5]], [1], [[]]) == ([3], [3])


def test_a_removed_item_that_ties_is_no_candidate():
    assert ranks_of([[1.0, 2.0, 1.0, 0.5]], [1], [[3, 4]]) == ([3], [2])


def test_a_target_of_the_history_stays_a_candidate():
    scores = [[0.2, 0.8, 0.6, 0.4]]
    assert ranks_of(scores, [1], [[1, 2]]) == ([4], [3])
    assert ranks_of(scores, [3], [[3]]) == ([2], [2])


def test_with_everything_in_the_history_the_target_is_first():
    assert ranks_of([[0.1, 0.8, 0.6]], [1], [[1, 2, 3]]) == ([3], [1])


def test_users_without_history_stand_between_users_with_one():
    scores = [[3.0, 2.0, 1.0]] * 4
    assert ranks_of(scores, [3] * 4, [[], [1], [], [1, 2]]) == ([3] * 4, [3, 2, 3, 1])


def test_first_and_last_item_are_candidates():
    assert ranks_of([[5.0, 1.0, 6.0]], [2], [[]]) == ([3], [3])
    assert ranks_of([[5.0, 1.0, 6.0]], [3], [[]]) == ([1], [1])
    assert ranks_of([[5.0, 1.0, 6.0]], [1], [[]]) == ([2], [2])


@st.composite
def scored_users(draw):
    n_items = draw(st.integers(1, 8))
    item = st.integers(1, n_items)
    score = st.integers(-2, 2) | st.sampled_from([-0.0, 1e30, -1e30, 1e-30, 0.1])
    user = st.tuples(
        st.lists(score, min_size=n_items, max_size=n_items),
        item,
        st.lists(item, unique=True),
    )
    return draw(st.lists(user, min_size=1, max_size=5))


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(scored_users())
def test_ranks_equal_the_naive_loop(users):
    scores, targets, histories = (list(column) for column in zip(*users, strict=True))
    # float32 decides which scores tie, as it does in the network
    exact = [[float(np.float32(s)) for s in row] for row in scores]
    pairs = [naive_ranks(*user) for user in zip(exact, targets, histories, strict=True)]
    kept, removed = (list(column) for column in zip(*pairs, strict=True))
    assert ranks_of(exact, targets, histories) == (kept, removed)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 3, 5])
def test_a_score_that_is_not_finite_raises(bad, place):
    scores = [[0.1, 0.2, 0.3], [0.1, 0.2, 0.3]]
    scores[place // 3][place % 3] = bad
    with pytest.raises(NonFiniteScores):
        ranks_of(scores, [1, 1], [[2], []])


def test_infinities_of_both_signs_raise():
    with pytest.raises(NonFiniteScores):
        ranks_of([[math.inf, -math.inf, 0.0]], [3], [[]])


# From splits to ranks

N_ITEMS = 9


def make_splits(histories, valid, test):
    return Splits(
        name="tiny",
        n_users=len(histories),
        n_items=N_ITEMS,
        train_items=np.array([i for h in histories for i in h], np.int32),
        train_offsets=np.cumsum([0, *map(len, histories)]).astype(np.int64),
        valid=np.array(valid, np.int32),
        test=np.array(test, np.int32),
        stats={},
    )


def score_table():
    """Small integers, so that ties are many; row = item at a place, column = item scored."""
    return np.random.default_rng(0).integers(0, 4, (N_ITEMS + 1, N_ITEMS)).astype(np.float32)


def table_scorer(items):
    """Σ over the input of (places from its end) × the table's row, for each user."""
    table = torch.from_numpy(score_table())
    table[0] = 0
    places = torch.arange(items.shape[0], 0, -1).float()
    yield torch.einsum("l,luv->uv", places, table[items])


@pytest.mark.parametrize("part", ["valid", "test"])
@pytest.mark.parametrize("n", [2, 4, 50])
def test_every_user_is_ranked_by_its_own_last_n_items(part, n):
    generator = np.random.default_rng(1)
    lengths = generator.integers(1, 8, 40)
    histories = [generator.integers(1, N_ITEMS + 1, length).tolist() for length in lengths]
    valid, test = generator.integers(1, N_ITEMS + 1, (2, 40))
    ranks = rank_targets(table_scorer, EvaluationSet(make_splits(histories, valid, test), part, n))

    table = score_table()
    for user, history in enumerate(histories):
        seen = history if part == "valid" else [*history, int(valid[user])]
        scores = sum(place * table[item] for place, item in enumerate(reversed(seen[-n:]), start=1))
        target = int((valid if part == "valid" else test)[user])
        expected = naive_ranks(scores.tolist(), target, seen)  # the whole history is removed
        assert (ranks.kept[user], ranks.unseen[user]) == expected


def test_an_item_that_stands_twice_in_a_history_is_removed_once():
    splits = make_splits([[4, 4, 4, 2]], [1], [4])

    def constant(items):
        yield torch.zeros(items.shape[1], N_ITEMS)

    ranks = rank_targets(constant, EvaluationSet(splits, "valid", 3))
    assert (ranks.kept.tolist(), ranks.unseen.tolist()) == ([N_ITEMS], [N_ITEMS - 2])
    # The test target is in the history and stays; 2 and the validation item 1 go.
    ranks = rank_targets(constant, EvaluationSet(splits, "test", 3))
    assert (ranks.kept.tolist(), ranks.unseen.tolist()) == ([N_ITEMS], [N_ITEMS - 2])


# Metrics


def test_metrics_by_hand():
    metrics = metrics_from_ranks(np.array([1, 3, 10, 11, 100]))
    assert set(metrics) >= {f"{m}_at_{k}" for m in ("hr", "ndcg") for k in CUTOFFS} | {"mrr"}
    assert metrics["hr_at_1"] == pytest.approx(1 / 5)
    assert metrics["hr_at_5"] == pytest.approx(2 / 5)
    assert metrics["hr_at_10"] == pytest.approx(3 / 5)
    assert metrics["hr_at_20"] == metrics["hr_at_50"] == pytest.approx(4 / 5)
    assert metrics["ndcg_at_1"] == pytest.approx(1 / 5)
    assert metrics["ndcg_at_5"] == pytest.approx((1 + 1 / 2) / 5)
    assert metrics["ndcg_at_10"] == pytest.approx((1 + 1 / 2 + 1 / math.log2(11)) / 5)
    assert metrics["mrr"] == pytest.approx((1 + 1 / 3 + 1 / 10 + 1 / 11 + 1 / 100) / 5)


@pytest.mark.parametrize("k", CUTOFFS)
def test_a_rank_of_k_is_a_hit_and_the_next_is_none(k):
    at, after = metrics_from_ranks(np.array([k])), metrics_from_ranks(np.array([k + 1]))
    assert (at[f"hr_at_{k}"], after[f"hr_at_{k}"]) == (1, 0)
    assert at[f"ndcg_at_{k}"] == pytest.approx(1 / math.log2(1 + k))
    assert after[f"ndcg_at_{k}"] == 0


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int64])
def test_the_type_of_the_ranks_on_disk_does_not_matter(dtype):
    ranks = np.array([1, 2, 9, 60_000, 65_535])
    expected = sum(1 / r for r in ranks.tolist()) / 5
    metrics = metrics_from_ranks(ranks.astype(dtype))
    assert metrics["mrr"] == pytest.approx(expected, rel=1e-12)
    assert metrics["ndcg_at_50"] == pytest.approx(
        (1 + 1 / math.log2(3) + 1 / math.log2(10)) / 5, rel=1e-12
    )


@pytest.fixture(scope="module")
def ranx():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NUMBA_DISABLE_JIT", "1")  # compiling takes longer than all of these tests
        yield importlib.import_module("ranx")


@pytest.mark.filterwarnings("ignore")
def test_metrics_equal_those_of_ranx(ranx):
    ranks = np.random.default_rng(2).integers(1, 71, 60)
    qrels = ranx.Qrels({f"user{u}": {"target": 1} for u in range(len(ranks))})
    run = ranx.Run(
        {
            f"user{u}": {
                "target" if place == rank else f"item{place}": 100.0 - place
                for place in range(1, 71)
            }
            for u, rank in enumerate(ranks)
        }
    )
    names = {f"hr_at_{k}": f"hit_rate@{k}" for k in CUTOFFS}
    names |= {f"ndcg_at_{k}": f"ndcg@{k}" for k in CUTOFFS} | {"mrr": "mrr"}
    theirs = ranx.evaluate(qrels, run, list(names.values()))
    ours = metrics_from_ranks(ranks)
    for name, theirs_name in names.items():
        assert ours[name] == pytest.approx(theirs[theirs_name], rel=1e-12), name
