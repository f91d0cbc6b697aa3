"""Cross-entropy over all items at every target (equation 11): the hot loop of the project.

Notable:
* The T × |V| scores never exist as a whole. Blocks of rows, small enough for the cache, are
  scored, turned into probabilities and multiplied into both gradients while they are there, so
  the backward pass only scales what the forward pass has formed.
* Three matrix products a block are the whole arithmetic. exp(x) is taken as exp2(x·log₂e), which
  PyTorch vectorises four times better, with log₂e folded into the hidden rows; rows are normalised
  after the products, on d numbers rather than |V|.
* Every target weighs the same, whatever its batch: the caller gives one constant `scale`.
"""

import math
from typing import Any

import torch
from torch import Tensor

from fparec_pipeline.training.matmul import mm_nt

BLOCK_BYTES = 3 << 20  # of scores: fits a core's share of the last-level cache
CUDA_BLOCK_BYTES = 512 << 20  # large enough to fill a GPU


def block_rows(n_items: int, device: torch.device) -> int:
    """How many targets are scored at once: a multiple of 16, at least 16."""
    budget = CUDA_BLOCK_BYTES if device.type == "cuda" else BLOCK_BYTES
    return max(16, min(budget // (4 * n_items), 1 << 16) // 16 * 16)


def cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, scale: float) -> Tensor:
    """scale · Σ_t −log softmax(hidden_t · weightᵀ)[target_t], equation 11 with `scale` before it.

    Args:
        hidden: (T, d) outputs at the positions that have a target.
        weight: (|V|, d) item embeddings, without padding.
        targets: (T,) int64 rows of `weight`.
        scale: the weight of each target, such as 1 / (mean number of targets a step).

    Returns:
        A scalar that back-propagates into `hidden` and `weight`.
    """
    loss: Tensor = _BlockedCrossEntropy.apply(hidden, weight, targets, scale)
    return loss


class _BlockedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, scale: float) -> Tensor:
        loss, d_hidden, d_weight = loss_and_gradients(hidden, weight, targets)
        ctx.save_for_backward(d_hidden, d_weight)
        ctx.scale = scale
        return loss * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        d_hidden, d_weight = ctx.saved_tensors
        factor = gradients[0] * ctx.scale
        return d_hidden * factor, d_weight * factor, None, None


@torch.no_grad()
def loss_and_gradients(
    hidden: Tensor, weight: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Σ_t −log softmax(hidden·weightᵀ)[target_t] and its gradients, in one pass over row blocks.

    Returns:
        The loss (scalar), d loss / d hidden (T, d), d loss / d weight (|V|, d).
    """
    T, d = hidden.shape
    rows = block_rows(len(weight), hidden.device)
    # Whole blocks of few shapes: the matrix library prepares one kernel for each shape.
    padded = -(-T // 16) * 16
    hidden_padded = hidden.new_zeros(padded, d)
    hidden_padded[:T] = hidden
    hidden_log2 = hidden_padded * math.log2(math.e)
    weight_t = weight.T.contiguous()
    d_hidden = torch.empty_like(hidden_padded)
    d_weight_t = torch.zeros_like(weight_t)
    log_total = hidden.new_empty(padded)
    for start in range(0, padded, rows):
        block = slice(start, start + rows)
        scores = mm_nt(hidden_log2[block], weight)  # (R, |V|), base-2 logits
        top = scores.amax(1, keepdim=True)
        exponentials = scores.sub_(top).exp2_()
        total = exponentials.sum(1, keepdim=True)
        log_total[block] = ((top + total.log2()) * math.log(2)).squeeze(1)
        d_hidden[block] = mm_nt(exponentials, weight_t).div_(total)
        normalized = (hidden_padded[block] / total).T.contiguous()  # zero where rows are padded
        d_weight_t += mm_nt(normalized, exponentials.T)
    d_hidden = d_hidden[:T]
    target_rows = weight[targets]
    loss = (log_total[:T] - (hidden * target_rows).sum(1)).sum()
    d_hidden -= target_rows
    d_weight = d_weight_t.T.contiguous().index_add_(0, targets, hidden, alpha=-1)
    return loss, d_hidden, d_weight
