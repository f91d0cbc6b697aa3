"""The untrained reference rows against naive loops over one user at a time."""

from collections import Counter
from itertools import pairwise

import polars as pl
import pytest
from tiny import splits_of, tiny_sequences

from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training.record import RANKS
from fparec_pipeline.training.trial import run_reference

N_ITEMS = 25  # two more than anyone chose


def popularity_score(train, history):
    counts = Counter(item for items in train for item in items)
    return lambda item: counts[item]


def last_ten_score(train, history):
    latest = list(dict.fromkeys(reversed(history)))[:10]
    return lambda item: 10 - latest.index(item) if item in latest else 0


def transitions_score(train, history):
    popular = popularity_score(train, history)
    follows = Counter(pair for items in train for pair in pairwise(items))
    return lambda item: (follows[history[-1], item], popular(item))


NAIVE = {
    "popularity": popularity_score,
    "last_ten": last_ten_score,
    "transitions": transitions_score,
}


def naive_rank(score, target, candidates):
    return 1 + sum(score(item) >= score(target) for item in candidates if item != target)


def naive_ranks(sequences, make_score):
    train = [sequence[:-2] for sequence in sequences]
    rows = []
    for user, sequence in enumerate(sequences, start=1):
        row = {"user": user}
        for part, place in (("valid", -2), ("test", -1)):
            history, target = sequence[:place], sequence[place]
            score = make_score(train, history)
            everything = range(1, N_ITEMS + 1)
            row[part] = naive_rank(score, target, everything)
            unseen = [item for item in everything if item not in history]
            row[f"{part}_unseen"] = naive_rank(score, target, unseen)
        rows.append(row)
    return rows


@pytest.fixture(scope="module")
def sequences():
    """Histories with repeats, from three items to far more than ten distinct ones."""
    found = tiny_sequences(n_users=60, n_items=23, shortest=3, longest=40)
    assert any(len(set(sequence[:-1])) < 10 for sequence in found)
    assert any(len(set(sequence[:-1])) > 12 for sequence in found)
    return [*found, [5, 9, 7], [7, 8, 9]]


@pytest.mark.parametrize("reference", NAIVE)
def test_ranks_are_those_of_a_naive_loop(reference, sequences, tmp_path):
    data = DataRoot(tmp_path)
    run_reference("tiny", reference, splits_of(sequences, N_ITEMS), data)
    ranks = pl.read_parquet(data.trial("tiny", reference, 0) / RANKS)
    assert ranks.to_dicts() == naive_ranks(sequences, NAIVE[reference])


def test_an_item_outside_of_the_last_ten_is_ranked_last(tmp_path):
    history = list(range(1, 12))  # its first item is the eleventh last
    splits = splits_of([[*history, 1, 2], [1, 2, 3]], N_ITEMS)
    data = DataRoot(tmp_path)
    run_reference("tiny", "last_ten", splits, data)
    ranks = pl.read_parquet(data.trial("tiny", "last_ten", 0) / RANKS)
    assert ranks["valid"][0] == N_ITEMS
    # With 1 seen again, 2 is the eleventh last distinct item; without the history it is the only
    # candidate beside those never seen, all of which score 0 as it does.
    assert ranks["test"][0] == N_ITEMS
    assert ranks["test_unseen"][0] == N_ITEMS - len(history) + 1
