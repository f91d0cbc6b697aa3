"""What a packed model answers, against scores that the test works out one user at a time."""

import numpy as np
import polars as pl
import pytest
import torch
from packed import name_of, packed_model

from fparec_pipeline.serving import model as module
from fparec_pipeline.serving.model import FACTS, ITEMS, WEIGHTS, ModelUnusable, PackedModel

HISTORIES = [[3], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [], [5, 5, 9], [30, 1]]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return packed_model(tmp_path_factory.mktemp("packed"))


def flat(histories):
    values = np.array([item for items in histories for item in items], np.int64)
    return values, np.cumsum([0, *map(len, histories)]).astype(np.int64)


def naive_scores(model, history):
    """Equation 10 for the last n items of one history, without padding: item -> score."""
    inputs = torch.tensor(history[-model.network.n :]).unsqueeze(1)
    with torch.no_grad():
        hidden = model.network(inputs)[-1, 0]
        return dict(enumerate((model.network.item_embedding.weight @ hidden).tolist()))


def naive_top(model, history, k, exclude_seen, allowed):
    scores = naive_scores(model, history)
    left = [i for i in allowed if not (exclude_seen and i in history)]
    return sorted(left, key=lambda item: -scores[item])[:k]


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("k", [1, 10, 40])
def test_every_history_gets_the_items_that_a_sort_of_its_own_scores_gives(
    model, k, exclude_seen, monkeypatch
):
    monkeypatch.setattr(module, "USERS_AT_ONCE", 2)
    found = model.top(*flat(HISTORIES), k, exclude_seen=exclude_seen)
    for row, history in enumerate(HISTORIES):
        if history:
            expected = naive_top(model, history, k, exclude_seen, range(1, 31))
            assert [item for item in found.items[row] if item] == expected
            scores = naive_scores(model, history)
            np.testing.assert_allclose(
                found.scores[row, : len(expected)], [scores[i] for i in expected], rtol=1e-4
            )


def test_an_empty_history_gets_the_most_frequent_items_and_no_score(model):
    found = model.top(*flat(HISTORIES), 5)
    counts = dict(model.items.select("item", "count").iter_rows())
    expected = sorted(counts, key=lambda item: (-counts[item], item))[:5]
    assert found.items[2].tolist() == expected
    assert np.isnan(found.scores[2]).all()
    assert found.by_model.tolist() == [True, True, False, True, True]


def test_only_candidates_are_returned(model):
    allow = [name_of(i) for i in range(1, 13)] + ["no such item"]
    pool = model.candidates(allow, [name_of(2), name_of(4)])
    left = [1, 3, 5, 6, 7, 8, 9, 10, 11, 12]
    assert pool.items.tolist() == left
    found = model.top(*flat(HISTORIES), 10, candidates=pool)
    assert [i for i in found.items[1] if i] == naive_top(model, HISTORIES[1], 10, True, left)
    assert set(found.items[2].tolist()) == set(left)
    nothing = model.top(*flat(HISTORIES), 10, candidates=model.candidates([], None))
    assert not nothing.items.any()


def test_a_user_who_has_seen_everything_gets_nothing(model):
    found = model.top(*flat([list(range(1, 31)), [1]]), 3)
    assert found.items[0].tolist() == [0, 0, 0]
    assert (found.items[1] > 0).all()


@pytest.mark.parametrize("name", [FACTS, ITEMS, WEIGHTS])
def test_a_folder_with_a_file_missing_or_damaged_is_named(name, tmp_path):
    packed_model(tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ModelUnusable, match=str(tmp_path)):
        PackedModel.load(tmp_path)
    path.unlink()
    with pytest.raises(ModelUnusable, match=str(tmp_path)):
        PackedModel.load(tmp_path)


def test_files_of_two_models_do_not_fit(tmp_path):
    packed_model(tmp_path)
    items = pl.read_parquet(tmp_path / ITEMS)
    items.head(20).write_parquet(tmp_path / ITEMS)
    with pytest.raises(ModelUnusable):
        PackedModel.load(tmp_path)
