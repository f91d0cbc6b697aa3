"""The blocked cross-entropy against torch's, over the full logits in float64."""

import pytest
import torch
from torch.nn.functional import cross_entropy as torch_cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from fparec_pipeline.training.losses import cross_entropy as loss_module
from fparec_pipeline.training.losses.cross_entropy import cross_entropy

V, D = 1213, 11  # a prime number of items: a multiple of no block
SIZES = [1, 15, 16, 17, 333, 900]


@pytest.fixture(autouse=True, params=["one pass", "two passes"])
def passes(request, monkeypatch):
    """Both ways through the catalogue; two passes in blocks of 256 items and 128 targets."""
    if request.param == "two passes":
        monkeypatch.setattr(loss_module, "LEAST_COLUMNS", 1 << 30)
        monkeypatch.setattr(loss_module, "LARGE_CATALOGUE_COLUMNS", 128)
        monkeypatch.setattr(loss_module, "BLOCK_BYTES", 4 * 128 * 256)
    return request.param


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def problem(T, v=V, dtype=torch.float32, spread=1.0):
    """hidden (T, D), weight (v, D), targets (T,), of which the first are the first and last row."""
    generator = torch.Generator().manual_seed(T)
    hidden = torch.randn(T, D, generator=generator).mul(spread).to(dtype).requires_grad_()
    weight = torch.randn(v, D, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(v, (T,), generator=generator)
    targets[:2] = torch.tensor([0, v - 1])[:T]
    return hidden, weight, targets


def naive(hidden, weight, targets, scale, upstream=1.0):
    """Loss and both gradients from the full logits in float64."""
    hidden, weight = (x.detach().double().requires_grad_() for x in (hidden, weight))
    loss = scale * torch_cross_entropy(hidden @ weight.T, targets, reduction="sum")
    (loss * upstream).backward()
    return loss.detach(), hidden.grad, weight.grad


def assert_equal_to_naive(hidden, weight, targets, scale, tolerance, upstream=1.0):
    loss = cross_entropy(hidden, weight, targets, scale)
    assert loss.shape == ()
    (loss * upstream).backward()
    expected, d_hidden, d_weight = naive(hidden, weight, targets, scale, upstream)
    torch.testing.assert_close(loss.detach().double(), expected, rtol=tolerance, atol=tolerance)
    for found, wanted in ((hidden.grad, d_hidden), (weight.grad, d_weight)):
        # Relative to the largest entry: small ones are differences of large ones.
        atol = tolerance * wanted.abs().max().item()
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=atol)


@pytest.mark.parametrize("T", SIZES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_loss_and_gradients_equal_the_full_logits(T, dtype, tolerance, threads):
    assert_equal_to_naive(*problem(T, dtype=dtype), scale=0.37, tolerance=tolerance)


@pytest.mark.parametrize("v", [2, 3, 7, 4099])
def test_any_number_of_items(v, threads):
    assert_equal_to_naive(*problem(333, v=v, dtype=torch.float64), scale=1.0, tolerance=1e-12)


@pytest.mark.parametrize("upstream", [-2.5, 0.0, 1e-3])
def test_the_upstream_gradient_multiplies_both_gradients(upstream):
    assert_equal_to_naive(*problem(100), scale=1 / 7, tolerance=1e-5, upstream=upstream)


@pytest.mark.parametrize("sign", [1, -1])
def test_extreme_logits_stay_finite_and_right(sign, threads):
    hidden, weight, targets = problem(40)
    with torch.no_grad():
        hidden.zero_()[:, 0] = 1e3
        weight[:, 0] = sign * torch.linspace(-1, 1, V)  # logits from −1000 to 1000
    assert_equal_to_naive(hidden, weight, targets, scale=1.0, tolerance=1e-5)
    assert torch.isfinite(hidden.grad).all()
    assert torch.isfinite(weight.grad).all()


@pytest.mark.parametrize("level", [1e3, -1e3])
def test_a_constant_added_to_every_logit_changes_nothing(level):
    hidden, weight, targets = problem(16)
    with torch.no_grad():
        hidden[:, 0] = level
        weight[:, 0] = 1.0
    assert_equal_to_naive(hidden, weight, targets, scale=1.0, tolerance=1e-4)


def test_no_targets_give_zero_and_zero_gradients():
    hidden, weight, targets = problem(0)
    loss = cross_entropy(hidden, weight, targets, 0.5)
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad.shape == (0, D)
    assert (weight.grad == 0).all()


def test_a_target_that_stands_many_times_gathers_its_gradients():
    hidden, weight, _ = problem(333)
    repeated = torch.full((333,), 5)
    assert_equal_to_naive(hidden, weight, repeated, scale=1.0, tolerance=1e-5)


def test_gradients_reach_what_hidden_and_weight_were_made_from():
    """As in the network: the weights are rows 1 … of a table that also makes the hidden rows."""
    found, wanted = [
        torch.randn(V + 1, D, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
        for _ in range(2)
    ]
    ids, targets = torch.arange(50) * 3 + 1, torch.arange(50) * 7
    cross_entropy(found[ids] * 2, found[1:], targets, 0.1).backward()
    logits = (wanted[ids] * 2) @ wanted[1:].T
    (0.1 * torch_cross_entropy(logits, targets, reduction="sum")).backward()
    torch.testing.assert_close(found.grad, wanted.grad)


def test_without_gradients_the_loss_is_the_same():
    hidden, weight, targets = problem(100)
    with torch.no_grad():
        plain = cross_entropy(hidden, weight, targets, 1.0)
    expected, _, _ = naive(hidden, weight, targets, 1.0)
    torch.testing.assert_close(plain.double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("T", [17, 900])
def test_equal_inputs_give_equal_bits(T):
    results = []
    for _ in range(2):
        hidden, weight, targets = problem(T)
        loss = cross_entropy(hidden, weight, targets, 0.1)
        loss.backward()
        results.append((loss.detach(), hidden.grad, weight.grad))
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation gives, forward or backward."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


def test_the_full_logits_never_exist():
    T, v = 5000, 12_101
    hidden, weight, targets = problem(T, v=v)
    with Largest() as seen:
        cross_entropy(hidden, weight, targets, 1 / T).backward()
    assert seen.numel < T * v / 10


def test_of_a_large_catalogue_no_tensor_is_larger_than_its_table(monkeypatch):
    T, v, block = 700, 30_000, 1 << 20
    monkeypatch.undo()  # as a trial has it, in smaller blocks
    monkeypatch.setattr(loss_module, "BLOCK_BYTES", block)
    with Largest() as seen:
        cross_entropy(*problem(T, v=v), 1 / T).backward()
    assert seen.numel <= max(v * D, block // 4)


def test_any_number_of_targets_is_scored_in_few_shapes(monkeypatch, passes):
    """oneDNN keeps a primitive a shape: with another shape a step, memory grows for ever."""
    shapes = set()
    product = loss_module.mm

    def noted(a, b, buffer=None):
        shapes.add((*a.shape, b.shape[1]))
        return product(a, b, buffer)

    monkeypatch.setattr(loss_module, "mm", noted)
    generator = torch.Generator().manual_seed(0)
    items = 3416 if passes == "one pass" else 600
    weight = torch.randn(items, 4, generator=generator)
    for T in torch.randint(1, 3200, (100,), generator=generator).tolist():
        hidden = torch.randn(T, 4, generator=generator)
        loss_module.loss_and_gradients(hidden, weight, torch.zeros(T, dtype=torch.int64))
    # Scores and sums, in blocks of 64, 128, … 448 targets; or of 64 and 128, the last items apart.
    assert len(shapes) <= (2 * 8 if passes == "one pass" else 2 * 2 * 2)
