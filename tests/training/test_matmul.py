"""oneDNN's products: right for every layout, and by its fast kernels, as its own log tells."""

import os
import subprocess
import sys
from functools import partial

import pytest
import torch

from fparec_pipeline.training.matmul import HAS_ONEDNN, has_units_mkl_ignores, onednn_mm

needs_onednn = pytest.mark.skipif(not HAS_ONEDNN, reason="this build of PyTorch has no oneDNN")

# Sizes at which the loss takes several blocks, and the last one is not full.
PROGRAM = """
import torch
from fparec_pipeline.training import matmul
from fparec_pipeline.training.blocks import block_size
from fparec_pipeline.training.losses.cross_entropy import loss_and_gradients

matmul.PREFERS_ONEDNN = True
items, d = 20_033, 50
T = 2 * block_size(items, torch.device("cpu")) + 7
loss_and_gradients(torch.randn(T, d), torch.randn(items, d), torch.randint(items, (T,)))
print("the loss is done", flush=True)
"""


def layouts():
    """a (30, 20) and b (20, 40), each whole, transposed and as a slice of columns."""
    random = partial(torch.randn, generator=torch.Generator().manual_seed(0))
    left = {
        "whole": random(30, 20),
        "transposed": random(20, 30).T,
        "slice": random(30, 100)[:, 7:27],
    }
    right = {
        "whole": random(20, 40),
        "transposed": random(40, 20).T,
        "slice": random(20, 100)[:, 7:47],
    }
    return [pytest.param(a, b, id=f"{i}-{j}") for i, a in left.items() for j, b in right.items()]


@needs_onednn
@pytest.mark.parametrize(("a", "b"), layouts())
def test_every_layout_gives_the_product(a, b):
    torch.testing.assert_close(onednn_mm(a, b).double(), a.double() @ b.double(), rtol=0, atol=1e-4)


@needs_onednn
def test_the_loss_never_gets_onednns_reference_loops():
    environment = os.environ | {"ONEDNN_VERBOSE": "1"}
    log = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert "the loss is done" in log
    products = [line for line in log.splitlines() if ",inner_product," in line and "20033" in line]
    assert len(products) == 9  # three in each of three blocks
    assert not [line for line in products if ",ref" in line]


@pytest.mark.parametrize(
    ("vendor", "family", "expected"),
    [
        ("AuthenticAMD", 26, True),  # Zen 5
        ("AuthenticAMD", 25, False),  # Zen 4 and Zen 3
        ("GenuineIntel", 6, False),
        ("GenuineIntel", 26, False),  # families are counted by each maker
    ],
)
def test_onednn_is_for_zen_5_and_later(vendor, family, expected):
    cpu = f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: 17\n"
    assert has_units_mkl_ignores(cpu) is expected


def test_a_processor_that_names_no_family_gets_mkl():
    assert not has_units_mkl_ignores("CPU implementer : 0x41\n")
