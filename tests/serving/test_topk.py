"""The exact top k against a naive sort, over sizes on both sides of a block and of a chunk."""

import numpy as np
import pytest
import torch

from fparec_pipeline.serving import topk
from fparec_pipeline.serving.topk import CHUNK, largest, top_k


def drawn(users, items, d=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(users, d, generator=generator),
        torch.randn(items, d, generator=generator),
    )


def naive(hidden, weight, k, excluded=()):
    """Each user's items sorted by score, those excluded left out."""
    scores = hidden.double().numpy() @ weight.double().numpy().T
    for row, column in excluded:
        scores[row, column] = -np.inf
    return [[int(i) for i in np.argsort(-row)[:k] if np.isfinite(row[i])] for row in scores]


@pytest.mark.parametrize("items", [1, 9, CHUNK, 11 * CHUNK - 1, 11 * CHUNK + 7, 30 * CHUNK])
@pytest.mark.parametrize("k", [1, 10])
def test_the_top_k_is_that_of_a_sort(items, k, monkeypatch):
    monkeypatch.setattr(topk, "BLOCK_BYTES", 0)  # the smallest block: several of them
    hidden, weight = drawn(5, items)
    scores, columns = top_k(hidden, weight, k)
    assert columns.tolist() == naive(hidden, weight, k)
    exact = (hidden.double() @ weight.double().T).gather(1, columns)
    torch.testing.assert_close(scores.double(), exact, rtol=1e-5, atol=1e-5)


def test_what_is_excluded_is_never_returned(monkeypatch):
    monkeypatch.setattr(topk, "BLOCK_BYTES", 0)
    items = 20 * CHUNK + 3
    hidden, weight = drawn(4, items)
    best = naive(hidden, weight, 15)
    excluded = [(row, column) for row in range(4) for column in best[row][: 3 * row]]
    rows, columns = (torch.tensor(pairs) for pairs in zip(*excluded, strict=True))
    _, found = top_k(hidden, weight, 10, (rows, columns))
    assert found.tolist() == naive(hidden, weight, 10, excluded)


def test_where_too_few_are_left_the_rest_scores_minus_infinity():
    hidden, weight = drawn(2, 4)
    rows, columns = torch.tensor([1, 1, 1]), torch.tensor([0, 1, 2])
    scores, found = top_k(hidden, weight, 10, (rows, columns))
    assert scores.shape == (2, 4)
    assert torch.isfinite(scores[0]).all()
    assert scores[1].isfinite().tolist() == [True, False, False, False]
    assert found[1, 0] == 3


def test_equal_scores_are_all_there_is_to_choose_from():
    scores = torch.zeros(1, 40 * CHUNK)
    scores[0, [3, 5 * CHUNK, 39 * CHUNK + 1]] = 1.0
    best, columns = largest(scores, 3)
    assert best.tolist() == [[1.0, 1.0, 1.0]]
    assert sorted(columns[0].tolist()) == [3, 5 * CHUNK, 39 * CHUNK + 1]
    _, columns = largest(torch.zeros(1, 40 * CHUNK), 12)
    assert len(set(columns[0].tolist())) == 12
