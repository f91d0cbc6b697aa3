"""What a GPU runs, as far as it can be seen without one.

The kernels of the fused loss run in Triton's interpreter. A step on the `meta` device, whose
tensors have no values, fails at whatever waits for the GPU.
"""

import os
import subprocess
import sys
from functools import partial

import pytest
import torch
from tiny import tiny_splits, tiny_trial

from fparec_pipeline.models.network import Recommender
from fparec_pipeline.training.batches import Batches
from fparec_pipeline.training.stacked import Stack, compiled, gathered, stacked_cross_entropy

ARMS = (
    "sasrec",
    "linear_attention",
    "token_mixing",
    "parec",
    "fparec",
    "average",
    "linear_annealing",
    "exponential_annealing",
)

AGAINST_PYTORCH = """
import torch
import torch.nn.functional as F
from fparec_pipeline.training.fused import losses_and_gradients

generator = torch.Generator().manual_seed(0)
for S, T, V, d in [(2, 130, 200, 50), (1, 64, 64, 128)]:
    hidden = torch.randn(S, T, d, generator=generator, requires_grad=True)
    table = torch.randn(S, V + 1, d, generator=generator, requires_grad=True)
    weight = table[:, 1:]  # as the loss gets it: models at a stride of their own
    targets = torch.randint(V, (S, T), generator=generator)
    targets[0, :63] = -1
    targets[-1, 5] = -1
    expected = torch.stack(
        [
            F.cross_entropy(h @ w.T, t, ignore_index=-1, reduction="none")
            for h, w, t in zip(hidden, weight, targets, strict=True)
        ]
    )
    d_hidden, d_table = torch.autograd.grad(expected.sum(), (hidden, table))
    transposed = weight.detach().mT.contiguous().mT
    for weights in (weight.detach(), transposed):
        found = losses_and_gradients(hidden.detach(), weights, targets)
        for ours, theirs in zip(found, (expected.detach(), d_hidden, d_table[:, 1:]), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
"""


def test_the_fused_loss_and_its_gradients_equal_pytorchs():
    interpreted = os.environ | {"TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", AGAINST_PYTORCH], env=interpreted, check=True)


@pytest.mark.parametrize("arm", ARMS)
def test_no_step_of_a_stack_waits_for_the_device(arm):
    h = tiny_trial(arm).hyperparameters
    splits = tiny_splits(n_users=21)
    batches = Batches(splits, h.n, h.batch_size)
    for name in ("values", "ends", "device_lengths"):
        setattr(batches, name, getattr(batches, name).to("meta"))
    stack = Stack([Recommender(h, splits.n_items).to("meta") for _ in range(3)])
    rows = torch.empty(3, h.batch_size, dtype=torch.int64, device="meta")
    items, targets = gathered(batches, rows, h.n)
    weight = stack.output_weights()
    losses = stacked_cross_entropy(stack(items).flatten(1, 2), weight, targets.flatten(1) - 1, 0.1)
    losses.sum().backward()
    assert losses.shape == (3,)


def test_one_process_compiles_stacks_of_many_windows(monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for n in range(6, 16):  # more than the 8 that torch.compile takes of one function
            h = tiny_trial("fparec", n=n, dropout=0.2).hyperparameters
            stack = Stack([Recommender(h, n_items=12)])
            stack.forward = compiled(stack.forward)
            items = torch.ones(1, n, 4, dtype=torch.int64)
            assert stack(items).shape == (1, n, 4, h.d)
