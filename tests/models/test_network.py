"""The recommender network: causality, padding, and a naive float64 recomputation."""

import oracles
import pytest
import torch

from fparec_pipeline.config import load_config
from fparec_pipeline.models.network import Recommender

CONFIG = load_config()
N, D, K, ITEMS = 8, 6, 3, 30
ARMS = sorted(arm for arm in CONFIG.arms if "network" not in CONFIG.arms[arm])  # others: own tests
CLOSE = {"rtol": 1e-8, "atol": 1e-9}
# The handcrafted patterns are constants kept in float32; all else is computed in float64.
PATTERNS = ("average", "linear_annealing", "exponential_annealing")
CLOSE_TO_ORACLE = {arm: {"rtol": 1e-5, "atol": 1e-5} if arm in PATTERNS else CLOSE for arm in ARMS}


def hyperparameters(arm, **changes):
    small = {"n": N, "d": D, "k": K}
    return CONFIG.trial("beauty", arm, 0).hyperparameters.model_copy(update=small | changes)


def network(h):
    """A float64 network in evaluation mode, its parameters of order one so that they matter."""
    torch.manual_seed(0)
    model = Recommender(h, ITEMS).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.7)
    return model


def sequences(lengths, n=N):
    """(n, b) left-padded item ids."""
    generator = torch.Generator().manual_seed(4)
    items = torch.randint(1, ITEMS + 1, (n, len(lengths)), generator=generator)
    return items * (torch.arange(n).unsqueeze(1) >= n - torch.tensor(lengths))


@pytest.mark.parametrize("arm", ARMS)
def test_a_later_item_never_changes_an_earlier_output(arm):
    model = network(hyperparameters(arm))
    items = sequences([N, 5])
    before = model(items)
    for changed in range(1, N):
        other = items.clone()
        other[changed] = torch.where(items[changed] > 0, items[changed] % ITEMS + 1, 0)
        after, real = model(other), items > 0
        past = real & (torch.arange(N).unsqueeze(1) < changed)
        torch.testing.assert_close(after[past], before[past], **CLOSE)
        assert not torch.allclose(after[changed, 0], before[changed, 0])


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("length", [1, 3, N - 1])
def test_extra_padding_changes_no_output(arm, length):
    model = network(hyperparameters(arm))
    items = sequences([length, 1])
    full = model(items)
    for window in range(length, N):
        trimmed, real = model(items[-window:]), items[-window:] > 0
        torch.testing.assert_close(trimmed[real], full[-window:][real], **CLOSE)


@pytest.mark.parametrize("arm", ARMS)
def test_other_users_of_the_batch_change_no_output(arm):
    model = network(hyperparameters(arm))
    items = sequences([3, N, 1, 6])
    together = model(items)
    for user, length in enumerate([3, N, 1, 6]):
        alone = model(items[-length:, user : user + 1])
        torch.testing.assert_close(alone[:, 0], together[-length:, user], **CLOSE)


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("window", [N, 5, 1])
def test_last_only_equals_the_last_position(arm, window):
    model = network(hyperparameters(arm))
    items = sequences([window, 1])[-window:]
    last = model(items, last_only=True)
    assert last.shape == (1, 2, D)
    torch.testing.assert_close(last, model(items)[-1:], **CLOSE)


@pytest.mark.parametrize(
    ("arm", "changes"),
    [(arm, {}) for arm in ARMS]
    + [
        ("fparec", changes)
        for changes in (
            {"softmax": "all_columns"},
            {"residual": "input"},
            {"value_source": "normalized"},
            {"feed_forward": "last_block"},
            {"scale_embedding": False},
            {"position_embedding": True},
            {"blocks": 1},
            {"blocks": 3, "feed_forward": "last_block", "residual": "input"},
        )
    ],
    ids=str,
)
def test_equals_the_naive_recomputation(arm, changes):
    h = hyperparameters(arm, **changes)
    model, items = network(h), sequences([N, 5, 1])
    out = model(items)
    for user in range(items.shape[1]):
        window = items[:, user].numpy()
        oracle = torch.from_numpy(oracles.network(model, h, window))
        torch.testing.assert_close(
            out[window > 0, user], oracle[window > 0], **CLOSE_TO_ORACLE[arm]
        )


def test_items_have_a_row_each_and_padding_is_row_zero():
    assert network(hyperparameters("fparec")).item_embedding.weight.shape == (ITEMS + 1, D)


def test_what_stands_in_the_padding_row_changes_nothing():
    model, items = network(hyperparameters("sasrec")), sequences([5, 2])
    before = model(items)
    with torch.no_grad():
        model.item_embedding.weight[0] = 100.0
    after = model(items)
    torch.testing.assert_close(after[items > 0], before[items > 0], **CLOSE)


@pytest.mark.parametrize("arm", ARMS)
def test_fresh_networks_are_finite_and_follow_the_seed(arm):
    h, items = hyperparameters(arm), sequences([N, 3])
    outputs = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        outputs.append(Recommender(h, ITEMS).eval()(items).detach())
    assert all(torch.isfinite(out[items > 0]).all() for out in outputs)
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
