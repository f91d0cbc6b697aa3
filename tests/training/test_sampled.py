"""Sampled softmax against a loop over its definition, and against the exact cross-entropy."""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_splits, tiny_trial

from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training.losses.sampled_softmax import draw_items, loss_with, sampled_softmax
from fparec_pipeline.training.record import HISTORY_SCHEMA, view_trial
from fparec_pipeline.training.trial import run_trial


def inputs(T=7, d=5, n_items=11, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(T, d, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(n_items, d, generator=generator, dtype=torch.float64, requires_grad=True)
    return hidden, weight, torch.randint(n_items, (T,), generator=generator)


def naive(drawn, hidden, weight, targets):
    """Target by target: exp(s) of the target, plus |V|/m times that of every other drawn item."""
    total = 0.0
    for row, target in zip(hidden, targets.tolist(), strict=True):
        scores = [float(row @ item) for item in weight]
        others = [math.exp(scores[v]) for v in drawn.tolist() if v != target]
        denominator = math.exp(scores[target]) + len(weight) / len(drawn) * sum(others)
        total += math.log(denominator) - scores[target]
    return total


def test_the_loss_equals_the_naive_one_with_accidental_hits():
    hidden, weight, targets = (tensor.detach() for tensor in inputs())
    drawn = torch.tensor([int(targets[0]), *(v for v in range(4) if v != int(targets[0]))])
    expected = naive(drawn, hidden, weight, targets)
    assert float(loss_with(drawn, hidden, weight, targets)) == pytest.approx(expected)


def test_with_every_item_drawn_it_is_the_exact_cross_entropy():
    hidden, weight, targets = inputs()
    loss = sampled_softmax(hidden, weight, targets, 0.5, negatives=len(weight))
    exact = 0.5 * F.cross_entropy(hidden @ weight.T, targets, reduction="sum")
    torch.testing.assert_close(loss, exact)
    found = torch.autograd.grad(loss, (hidden, weight))
    for ours, theirs in zip(found, torch.autograd.grad(exact, (hidden, weight)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_denominator_is_unbiased():
    hidden, weight, targets = (tensor.detach() for tensor in inputs(T=1, n_items=30))
    torch.manual_seed(0)
    target = hidden[0] @ weight[targets[0]]
    draws = [loss_with(draw_items(30, 10), hidden, weight, targets) for _ in range(4000)]
    mean = (torch.stack(draws) + target).exp().mean()
    exact = (hidden[0] @ weight.T).exp().sum()
    assert float(mean) == pytest.approx(float(exact), rel=0.03)


def test_drawn_items_are_distinct_and_the_seed_decides():
    torch.manual_seed(3)
    first = draw_items(1000, 200)
    assert len(first.unique()) == 200
    assert 0 <= first.min() and first.max() < 1000
    torch.manual_seed(3)
    assert torch.equal(draw_items(1000, 200), first)
    assert not torch.equal(draw_items(1000, 200), first)


def test_a_trial_trains_with_it(tmp_path):
    data = DataRoot(tmp_path)
    trial = tiny_trial("fparec", loss="sampled_softmax", negatives=5, max_epochs=6)
    run_trial(trial, tiny_splits(), data, device="cpu")
    history = view_trial(data.trial("tiny", "fparec", 0)).history
    assert history.schema == HISTORY_SCHEMA
    assert history["loss"][-1] < history["loss"][0]


def test_it_is_part_of_the_fingerprint():
    exact, sampled = tiny_trial(), tiny_trial(loss="sampled_softmax", negatives=5)
    assert exact.fingerprint("x") == tiny_trial(loss="cross_entropy").fingerprint("x")
    assert exact.fingerprint("x") != sampled.fingerprint("x")
