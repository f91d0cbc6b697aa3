"""oneDNN's products: right for every layout, and by its fast kernels, as its own log tells."""

import os
import subprocess
import sys

import pytest
import torch

from fparec_pipeline.training.matmul import HAS_ONEDNN, onednn_mm

pytestmark = pytest.mark.skipif(not HAS_ONEDNN, reason="this build of PyTorch has no oneDNN")

# Sizes at which the loss takes several blocks, and the last one is not full.
PROGRAM = """
import torch
from fparec_pipeline.training import matmul
from fparec_pipeline.training.loss import block_size, loss_and_gradients

matmul.PREFERS_ONEDNN = True
items, d = 20_033, 50
T = 2 * block_size(items, torch.device("cpu")) + 7
loss_and_gradients(torch.randn(T, d), torch.randn(items, d), torch.randint(items, (T,)))
print("the loss is done", flush=True)
"""


def layouts():
    """a (30, 20) and b (20, 40), each whole, transposed and as a slice of columns."""
    wide = torch.randn(20, 100)
    left = {
        "whole": torch.randn(30, 20),
        "transposed": torch.randn(20, 30).T,
        "slice": wide.T[5:35],
    }
    right = {
        "whole": torch.randn(20, 40),
        "transposed": torch.randn(40, 20).T,
        "slice": wide[:, 7:47],
    }
    return [pytest.param(a, b, id=f"{i}-{j}") for i, a in left.items() for j, b in right.items()]


@pytest.mark.parametrize(("a", "b"), layouts())
def test_every_layout_gives_the_product(a, b):
    torch.testing.assert_close(onednn_mm(a, b).double(), a.double() @ b.double(), rtol=0, atol=1e-4)


def test_the_loss_never_gets_onednns_reference_loops():
    environment = os.environ | {"ONEDNN_VERBOSE": "1"}
    log = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert "the loss is done" in log
    products = [line for line in log.splitlines() if ",exec," in line and "20033" in line]
    assert len(products) == 9  # three in each of three blocks
    assert not [line for line in products if ",ref" in line]
