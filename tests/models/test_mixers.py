"""Sequence mixers against naive float64 loops over their definitions (oracles.py)."""

import numpy as np
import pytest
import torch
from oracles import MIXERS, parameters
from torch.utils._python_dispatch import TorchDispatchMode

from fparec_pipeline.config import load_config
from fparec_pipeline.models.mixers import build_mixer

N, D, K = 7, 4, 3
LENGTHS = (7, 5, 1, 3)  # real items of each user of the batch; the rest of the window is padding
LEARNED = ["positional", "factorized_positional"]
PATTERNS = ["average", "linear_annealing", "exponential_annealing"]
CASES = [(mixer, "masked") for mixer in MIXERS] + [(mixer, "all_columns") for mixer in LEARNED]
# Mixers whose weights depend on positions alone.
POSITIONAL = [case for case in CASES if case[0] in LEARNED + PATTERNS]
every_case = pytest.mark.parametrize(("mixer", "softmax"), CASES)

# The handcrafted patterns are constants kept in float32; all else is computed in float64.
TOLERANCE = {
    mixer: {"rtol": 1e-6, "atol": 1e-6} if mixer in PATTERNS else {"rtol": 1e-9, "atol": 1e-10}
    for mixer in MIXERS
}

BASE = load_config().trial("beauty", "fparec", 0).hyperparameters


def hyperparameters(mixer, softmax="masked", **changes):
    changes = {"n": N, "d": D, "k": K, "dropout": 0.5} | changes
    return BASE.model_copy(update={"mixer": mixer, "softmax": softmax} | changes)


def make(mixer, softmax="masked", **changes):
    """A mixer in evaluation mode, float64, its parameters of order one so that they matter."""
    torch.manual_seed(1)
    module = build_mixer(hyperparameters(mixer, softmax, **changes)).double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    return module


def batch(lengths=LENGTHS, n=N, d=D):
    """query, value (n, b, d) with rubbish at the padding, and mask (n, b)."""
    generator = torch.Generator().manual_seed(2)
    query, value = torch.randn(2, n, len(lengths), d, generator=generator, dtype=torch.float64)
    mask = torch.arange(n).unsqueeze(1) >= n - torch.tensor(lengths)
    return query, value, mask


def expected(module, mixer, softmax, query, value, mask):
    """The oracle's output (n, b, d)."""
    options = {"softmax": softmax} if mixer in LEARNED else {}
    users = [
        MIXERS[mixer](q, v, m, parameters(module), **options)
        for q, v, m in zip(*(x.transpose(0, 1).numpy() for x in (query, value, mask)), strict=True)
    ]
    return torch.from_numpy(np.stack(users, axis=1))


@every_case
def test_equals_the_naive_loops(mixer, softmax):
    module, (query, value, mask) = make(mixer, softmax), batch()
    out = module(query, value, mask)
    oracle = expected(module, mixer, softmax, query, value, mask)
    assert out.shape == (N, len(LENGTHS), D)
    torch.testing.assert_close(out[mask], oracle[mask], **TOLERANCE[mixer])


@every_case
@pytest.mark.parametrize("length", [5, 2, 1])
def test_trimming_shared_padding_changes_nothing(mixer, softmax, length):
    module = make(mixer, softmax)
    query, value, mask = batch(lengths=(length, 1, max(1, length - 1)))
    trimmed = module(query[-length:], value[-length:], mask[-length:])
    oracle = expected(module, mixer, softmax, query, value, mask)[-length:]
    assert trimmed.shape == (length, 3, D)
    real = mask[-length:]
    torch.testing.assert_close(trimmed[real], oracle[real], **TOLERANCE[mixer])


@every_case
@pytest.mark.parametrize("length", [N, 4, 1])
def test_last_only_equals_the_last_row(mixer, softmax, length):
    module = make(mixer, softmax)
    query, value, mask = batch(lengths=(length, 1))
    inputs = query[-length:], value[-length:], mask[-length:]
    last = module(*inputs, last_only=True)
    assert last.shape == (1, 2, D)
    torch.testing.assert_close(last, module(*inputs)[-1:], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("mixer", "softmax"), POSITIONAL)
def test_padding_rows_of_positional_mixers_are_zero(mixer, softmax):
    query, value, mask = batch()
    assert (make(mixer, softmax)(query, value, mask)[~mask] == 0).all()


@every_case
def test_what_stands_at_the_padding_is_never_seen(mixer, softmax):
    module, (query, value, mask) = make(mixer, softmax), batch()
    out = module(query, value, mask)
    blank = [x.masked_fill(~mask.unsqueeze(-1), 0) for x in (query, value)]
    torch.testing.assert_close(module(*blank, mask)[mask], out[mask], rtol=1e-9, atol=1e-10)


@every_case
def test_training_without_dropout_equals_evaluation(mixer, softmax):
    module, (query, value, mask) = make(mixer, softmax, dropout=0.0), batch()
    oracle = expected(module, mixer, softmax, query, value, mask)
    trained = module.train()(query, value, mask)
    torch.testing.assert_close(trained[mask], oracle[mask], **TOLERANCE[mixer])


@pytest.mark.parametrize(("mixer", "softmax"), POSITIONAL)
def test_one_dropout_mask_is_shared_by_the_batch(mixer, softmax):
    module, (query, value, mask) = make(mixer, softmax).train(), batch(lengths=(N, N))
    query[:, 1], value[:, 1] = query[:, 0], value[:, 0]
    first, second = module(query, value, mask), module(query, value, mask)
    torch.testing.assert_close(first[:, 0], first[:, 1])
    assert not torch.allclose(first, second)


@pytest.mark.parametrize(("mixer", "softmax"), POSITIONAL)
def test_dropout_of_the_numerator_alone_leaves_the_mean(mixer, softmax):
    """Were the denominator dropped too, the expected output would not be the evaluated one."""
    module, (query, value, mask) = make(mixer, softmax), batch()
    evaluated = module(query, value, mask)
    module.train()
    torch.manual_seed(3)
    draws = torch.stack([module(query, value, mask).detach() for _ in range(1500)])
    error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - evaluated).abs() <= 5 * error + 1e-9).all()


@pytest.mark.parametrize(("mixer", "softmax"), [c for c in CASES if c[0] in LEARNED])
@pytest.mark.parametrize("scale", [1e2, 1e4])
@pytest.mark.parametrize("length", [N, 4])
def test_extreme_attention_stays_finite(mixer, softmax, scale, length):
    module = make(mixer, softmax)
    with torch.no_grad():
        (module.R if mixer == "positional" else module.R1).mul_(scale)
    query, value, mask = batch(lengths=(N, length, 2, 1))
    oracle = expected(module, mixer, softmax, query, value, mask)
    torch.testing.assert_close(module(query, value, mask)[mask], oracle[mask])

    single = module.float()
    window = slice(-length, None)
    out = single(query[window].float(), value[window].float(), mask[window])
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert all(torch.isfinite(p.grad).all() for p in single.parameters())


@pytest.mark.parametrize(("mixer", "softmax"), POSITIONAL)
@pytest.mark.parametrize("last_only", [False, True])
def test_gradients_of_positional_mixers(mixer, softmax, last_only):
    n, d = 4, 3
    module = make(mixer, softmax, n=n, d=d, k=2)
    query, value, mask = batch(lengths=(4, 2), n=n, d=d)
    names = [name for name, _ in module.named_parameters()]

    def apply(value, *tensors):
        replaced = dict(zip(names, tensors, strict=True))
        return torch.func.functional_call(module, replaced, (query, value, mask, last_only))

    inputs = [value, *(p.detach().clone() for p in module.parameters())]
    assert torch.autograd.gradcheck(apply, [x.requires_grad_() for x in inputs])


@pytest.mark.parametrize("mixer", [*LEARNED, *PATTERNS])
@pytest.mark.parametrize("training", [False, True])
def test_no_batch_times_n_times_n_tensor(mixer, training):
    users, n, d = 24, 40, 4
    module = make(mixer, n=n, d=d, k=5).train(training)
    query, value, mask = batch(lengths=[n] * (users - 1) + [3], n=n, d=d)
    with Largest() as seen:
        module(query, value, mask).sum().backward()
    assert seen.numel <= max(n * n, users * n * (d + 1))  # batch × n × n would be 38,400


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


@pytest.mark.parametrize(("n", "d", "k"), [(50, 50, 20), (200, 50, 40), (11, 6, 3)])
@pytest.mark.parametrize(
    ("mixer", "count"),
    [
        ("self_attention", lambda n, d, k: 3 * d**2),
        ("positional", lambda n, d, k: d**2 + n**2),
        ("factorized_positional", lambda n, d, k: d**2 + 2 * k * n),
    ],
)
def test_parameter_counts_equal_table_1(mixer, count, n, d, k):
    module = build_mixer(hyperparameters(mixer, n=n, d=d, k=k))
    assert sum(p.numel() for p in module.parameters()) == count(n, d, k)
