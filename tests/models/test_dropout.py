"""Dropout against its definition: the rate, the scale, the generator, evaluation mode."""

import pytest
import torch

from fparec_pipeline.models.dropout import Dropout


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.5, 0.9])
def test_the_share_of_zeros_is_the_rate_and_the_rest_is_scaled(rate: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(1000, 1001)
    y = Dropout(rate)(x)
    assert (y == 0).double().mean().item() == pytest.approx(rate, abs=2e-3)  # four deviations
    torch.testing.assert_close(y[y != 0].unique(), torch.tensor([1 / (1 - rate)]))


def test_neighbouring_elements_and_successive_masks_are_independent() -> None:
    torch.manual_seed(1)
    dropout = Dropout(0.5)
    a, b = (dropout(torch.ones(1_000_000)).gt(0).double() - 0.5 for _ in range(2))
    for left, right in ((a[1:], a[:-1]), (a[4:], a[:-4]), (a, b)):
        assert abs((left * right).mean().item()) < 1e-3  # four deviations of 0.25 / 1000


def test_the_seed_decides_the_mask() -> None:
    x = torch.ones(7, 3)
    masks = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        masks.append(Dropout(0.5)(x))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_evaluation_changes_nothing() -> None:
    x = torch.randn(4, 5)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


def test_the_gradient_is_the_mask() -> None:
    torch.manual_seed(2)
    x = torch.ones(50, requires_grad=True)
    y = Dropout(0.3)(x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach())
