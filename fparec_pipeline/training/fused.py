"""The stacked cross-entropy as two Triton kernels: what a CUDA GPU runs.

What belongs here: kernels, and the two calls that launch them. The loss as an operation with
gradients stands in `stacked.py`; on a CPU nothing of this is imported.

Notable:
* Scores are formed in registers, tile by tile, and never written: memory traffic is that of hidden,
  weight and their gradients. The price is four products in the place of three.
* The first kernel owns rows: log-sum-exp and the gradient of `hidden` in one pass over the
  catalogue. The second owns items: the gradient of `weight`. Neither adds atomically, so that equal
  input gives equal bits.
* Tiles without a target (padding) are skipped.
* Products are float32 on the tensor cores in three parts of TF32 (`tf32x3`), whose error is near
  float32's own.
Method: online softmax (Milakov and Gimelshein 2018) with the weighted sum carried along as in Dao
et al., "FlashAttention" (2022); recomputing instead of storing as in Wijmans et al., "Cut Your
Losses in Large-Vocabulary Language Models" (2024).
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# Rows, items, warps of a tile: the fastest on an H100 of those in `benchmarks/gpu.py tiles`. Wider
# embeddings need smaller ones, whose registers suffice.
NARROW, WIDE = (64, 64, 4), (32, 32, 4)


def losses_and_gradients(
    hidden: Tensor, weight: Tensor, targets: Tensor, precision: str = "tf32x3"
) -> tuple[Tensor, Tensor, Tensor]:
    """Each target's −log softmax(hidden · weightᵀ)[target] and the gradients of their sum.

    Args:
        hidden: (S, T, d) float32 on a GPU, contiguous.
        weight: (S, |V|, d) float32.
        targets: (S, T) int64 rows of `weight`; −1 is no target and counts nothing.
        precision: of the products: "tf32x3", "tf32" or "ieee".

    Returns:
        The losses (S, T), 0 where there is no target; d / d hidden (S, T, d); d / d weight
        (S, |V|, d).
    """
    S, T, d = hidden.shape
    V = weight.shape[1]
    if weight.stride()[1:] != (d, 1):  # of a network of one's own, say a transposed one
        weight = weight.contiguous()
    losses, log_totals = hidden.new_empty(S, T), hidden.new_empty(S, T)
    d_hidden = torch.empty_like(hidden)
    d_weight = hidden.new_empty(S, V, d)
    width = max(16, triton.next_power_of_2(d))
    rows, items, warps = NARROW if width <= 64 else WIDE
    sizes: dict[str, Any] = {
        "T": T,
        "V": V,
        "d": d,
        "ROWS": rows,
        "ITEMS": items,
        "WIDTH": width,
        "PRECISION": precision,
        "num_warps": warps,
    }
    model = weight.stride(0)
    _rows_kernel[(triton.cdiv(T, rows), S)](
        hidden, weight, targets, losses, log_totals, d_hidden, model, **sizes
    )
    _items_kernel[(triton.cdiv(V, items), S)](
        hidden, weight, targets, log_totals, d_weight, model, **sizes
    )
    return losses, d_hidden, d_weight


@triton.jit
def _tile(base, rows, n_rows, d: tl.constexpr, WIDTH: tl.constexpr):
    """Rows of a row-major (n_rows, d) matrix, zeros beyond it: (·, WIDTH)."""
    columns = tl.arange(0, WIDTH)
    inside = (rows < n_rows)[:, None] & (columns < d)[None, :]
    return tl.load(base + rows[:, None] * d + columns[None, :], mask=inside, other=0.0)


@triton.jit
def _store_tile(base, rows, n_rows, values, d: tl.constexpr, WIDTH: tl.constexpr):
    columns = tl.arange(0, WIDTH)
    inside = (rows < n_rows)[:, None] & (columns < d)[None, :]
    tl.store(base + rows[:, None] * d + columns[None, :], values, mask=inside)


@triton.jit
def _rows_kernel(
    hidden,
    weight,
    targets,
    losses,
    log_totals,
    d_hidden,
    model_stride,
    T: tl.constexpr,
    V: tl.constexpr,
    d: tl.constexpr,
    ROWS: tl.constexpr,
    ITEMS: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    s = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    hidden += s * T * d
    weight += s * model_stride
    wanted = tl.load(targets + s * T + rows, mask=rows < T, other=-1)  # (ROWS,)
    gradient = tl.zeros((ROWS, WIDTH), tl.float32)
    log_total = tl.zeros((ROWS,), tl.float32)
    score = tl.zeros((ROWS,), tl.float32)
    if tl.max(wanted, 0) >= 0:
        h = _tile(hidden, rows, T, d, WIDTH)
        top = tl.full((ROWS,), float("-inf"), tl.float32)
        total = tl.zeros((ROWS,), tl.float32)
        for start in range(0, V, ITEMS):
            items = start + tl.arange(0, ITEMS)
            w = _tile(weight, items, V, d, WIDTH)
            scores = tl.dot(h, tl.trans(w), input_precision=PRECISION)  # (ROWS, ITEMS)
            scores = tl.where((items < V)[None, :], scores, float("-inf"))
            higher = tl.maximum(top, tl.max(scores, 1))
            shrink = tl.exp(top - higher)
            shares = tl.exp(scores - higher[:, None])  # of e^top
            total = total * shrink + tl.sum(shares, 1)
            gradient *= shrink[:, None]
            gradient += tl.dot(shares, w, input_precision=PRECISION)
            top = higher
        own = _tile(weight, tl.maximum(wanted, 0), V, d, WIDTH)  # the targets' embeddings
        score = tl.sum(h * own, 1)
        log_total = top + tl.log(total)
        gradient = gradient / total[:, None] - own
    known = wanted >= 0
    _store_tile(d_hidden + s * T * d, rows, T, tl.where(known[:, None], gradient, 0.0), d, WIDTH)
    tl.store(losses + s * T + rows, tl.where(known, log_total - score, 0.0), mask=rows < T)
    tl.store(log_totals + s * T + rows, log_total, mask=rows < T)


@triton.jit
def _items_kernel(
    hidden,
    weight,
    targets,
    log_totals,
    d_weight,
    model_stride,
    T: tl.constexpr,
    V: tl.constexpr,
    d: tl.constexpr,
    ROWS: tl.constexpr,
    ITEMS: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    s = tl.program_id(1).to(tl.int64)
    items = tl.program_id(0) * ITEMS + tl.arange(0, ITEMS)
    hidden += s * T * d
    w = _tile(weight + s * model_stride, items, V, d, WIDTH)
    gradient = tl.zeros((ITEMS, WIDTH), tl.float32)
    for start in range(0, T, ROWS):
        rows = start + tl.arange(0, ROWS)
        wanted = tl.load(targets + s * T + rows, mask=rows < T, other=-1)
        if tl.max(wanted, 0) >= 0:
            h = _tile(hidden, rows, T, d, WIDTH)
            log_total = tl.load(log_totals + s * T + rows, mask=rows < T, other=0.0)
            scores = tl.dot(w, tl.trans(h), input_precision=PRECISION)  # (ITEMS, ROWS)
            shares = tl.exp(scores - log_total[None, :])
            shares -= tl.where(items[:, None] == wanted[None, :], 1.0, 0.0)
            shares = tl.where((wanted >= 0)[None, :], shares, 0.0)
            gradient += tl.dot(shares, h, input_precision=PRECISION)
    _store_tile(d_weight + s * V * d, items, V, gradient, d, WIDTH)
