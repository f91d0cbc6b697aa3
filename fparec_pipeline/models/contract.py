"""What a mixer or a network must keep to, as one call each: for the tests, and for parts of one's
own.

    from fparec_pipeline.config import load_config
    from fparec_pipeline.models.contract import check_network
    check_network(load_config().hyperparameters("beauty", "my_arm"), n_items=100)

The checks run in evaluation mode, in float64, with random parameters of order one. That they pass
says nothing about the quality of a model.

Here belongs what holds for every mixer or network. What one of them computes is tested beside it.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fparec_pipeline.config import Hyperparameters
from fparec_pipeline.models.mixers import build_mixer
from fparec_pipeline.models.networks import build_network

USERS = 4
# In float64 rounding is below 1e-10 here; constants that a mixer keeps in float32 are the same in
# both of two calls.
RELATIVE, ABSOLUTE = 1e-6, 1e-8


class ContractBroken(AssertionError):
    """A mixer or network that does not keep to its interface; the message says in which point."""


def check_mixer(h: Hyperparameters) -> None:
    """Check that the mixer which the hyper-parameters name keeps to the interface.

    `models.mixers` describes the interface. Checked are shapes, finite outputs, causality,
    `last_only`, and that neither padding nor other users change an output.

    Examples:
        >>> from fparec_pipeline.config import load_config
        >>> check_mixer(load_config().hyperparameters("beauty", "fparec"))

    Raises:
        ContractBroken: it does not; the message names the rule.
        ConfigError: it cannot be imported.
    """
    module = _prepared(build_mixer(h), h)
    draw = torch.Generator().manual_seed(2)
    query, value, other = torch.randn(3, h.n, USERS, h.d, generator=draw, dtype=torch.float64)

    def call(mask: Tensor, changed: Tensor, last_only: bool = False) -> Tensor:
        """The output when the inputs are others at `changed` (L, b)."""
        L = len(mask)
        inputs = [
            torch.where(changed.unsqueeze(-1), other[-L:], x[-L:]).contiguous()
            for x in (query, value)
        ]
        out: Tensor = module(*inputs, mask, last_only)
        return out

    _check(f"mixer {h.mixer!r}", h, call)


def check_network(h: Hyperparameters, n_items: int = 30) -> None:
    """Check that the network which the hyper-parameters name keeps to `models.networks.Network`.

    The checks are those of `check_mixer`, and the shape of the output weights.

    Args:
        h: the hyper-parameters.
        n_items: the size of a catalogue to check it with, at least 2.

    Raises:
        ContractBroken: it does not; the message names the rule.
        ConfigError: it cannot be imported.
    """
    network = build_network(h, n_items)
    _prepared(network, h)
    draw = torch.Generator().manual_seed(2)
    items = torch.randint(1, n_items + 1, (h.n, USERS), generator=draw)

    def call(mask: Tensor, changed: Tensor, last_only: bool = False) -> Tensor:
        L = len(mask)
        others = items[-L:] % n_items + 1  # another item everywhere
        seen = torch.where(changed, others, items[-L:]).masked_fill(~mask, 0)
        out: Tensor = network(seen, last_only)
        return out

    what = f"network {h.network!r}"
    weights = tuple(network.output_weights().shape)
    if weights != (n_items, h.d):
        raise ContractBroken(f"{what}: output weights of shape {weights}, not {(n_items, h.d)}")
    _check(what, h, call)


def _prepared(module: nn.Module, h: Hyperparameters) -> nn.Module:
    draw = torch.Generator().manual_seed(1)
    module = module.double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw, dtype=torch.float64))
    return module


@torch.no_grad()
def _check(what: str, h: Hyperparameters, call: Callable[..., Tensor]) -> None:
    """All points, by calls with other inputs at some places that must change nothing elsewhere."""
    n, half = h.n, max(1, h.n // 2)
    mask = torch.arange(n).unsqueeze(1) >= n - torch.tensor([n, half, 1, half][:USERS])
    nowhere = torch.zeros(n, USERS, dtype=torch.bool)
    out = call(mask, nowhere)
    if tuple(out.shape) != (n, USERS, h.d):
        raise ContractBroken(f"{what}: shape {tuple(out.shape)}, not {(n, USERS, h.d)} (L, b, d)")
    if not torch.isfinite(out).all():
        raise ContractBroken(f"{what}: an output is not finite, perhaps at padding")

    def same(found: Tensor, expected: Tensor, where: Tensor, point: str) -> None:
        if found.shape != expected.shape:
            raise ContractBroken(f"{what}: {point}: shape {tuple(found.shape)}")
        if not torch.allclose(found[where], expected[where], RELATIVE, ABSOLUTE):
            raise ContractBroken(f"{what}: {point}")

    same(call(mask, nowhere), out, mask, "two calls in evaluation mode differ")
    for i in {half - 1, n - 2} - {-1}:
        later = (torch.arange(n) > i).unsqueeze(1).expand(n, USERS)
        point = f"not causal: what comes after position {i + 1} of {n} changes the output there"
        same(call(mask, later)[: i + 1], out[: i + 1], mask[: i + 1], point)
    same(call(mask, ~mask), out, mask, "what stands at padding changes an output")
    first = (torch.arange(USERS) == 0).expand(n, USERS)
    same(call(mask, first)[:, 1:], out[:, 1:], mask[:, 1:], "one user's items change another's")
    last = call(mask, nowhere, True)
    same(last, out[-1:], mask[-1:], "last_only is not the last row (1, b, d)")
    # Without the first user nobody has more than half the window: the padding of all is trimmed.
    short = mask & (torch.arange(USERS) > 0)
    short[-1] = True
    whole, trimmed = call(short, nowhere), call(short[-half:], nowhere[-half:])
    point = "padding that all users share, when it is trimmed, changes an output"
    same(trimmed, whole[-half:], short[-half:], point)
