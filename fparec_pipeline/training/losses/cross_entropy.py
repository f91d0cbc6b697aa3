"""Cross-entropy over all items at every target (equation 11): the hot loop of the project.

Notable:
* The |V| × T scores never exist as a whole. Blocks of targets, small enough for the cache, are
  scored, exponentiated and multiplied into both gradients while they are there, so the backward
  pass only scales what the forward pass has formed.
* Three matrix products and one exponential a block are the whole arithmetic. exp(x) is taken as
  exp2(x·log₂e), which PyTorch vectorises four times better, with log₂e folded into the hidden
  rows; the softmax's denominators come out of a product as one row more; its division is done
  on d numbers a target rather than |V|; and no maximum is looked for where no logit can be large.
* A catalogue of which a block could hold few targets only is gone through twice, in blocks of items
  and targets, so that memory is flat in the catalogue.
* Every target weighs the same, whatever its batch: the caller gives one constant `scale`.

Here belongs this loss alone; the registry is the package's.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fparec_pipeline.config import Hyperparameters
from fparec_pipeline.datasets.splits import Splits
from fparec_pipeline.training.blocks import BLOCK_BYTES, block_size
from fparec_pipeline.training.losses import Loss
from fparec_pipeline.training.matmul import add_mm, mm

# Base-2 logits up to here need no shift: 2¹⁰⁰ times any catalogue is below float32's 2¹²⁸.
LARGEST_LOGIT = 100.0
# Where a block of every item has fewer targets than this, items are blocked too.
LEAST_COLUMNS = 64
LARGE_CATALOGUE_COLUMNS = 512


def build(h: Hyperparameters, splits: Splits, device: str, parts: int) -> Loss:
    """The loss of `training.losses`."""
    return lambda step: cross_entropy(step.hidden, step.weight, step.targets, step.scale, parts)


def equal_blocks(T: int, largest: int) -> tuple[int, int]:
    """The number of blocks for T targets, and their common size: a multiple of 64 if it can be.

    oneDNN makes and keeps a primitive for every shape that it sees, and T is another number at
    every step. With equal blocks of few sizes the memory stays flat.
    """
    blocks = max(1, math.ceil(T / largest))
    return blocks, min(largest, max(1, math.ceil(T / blocks / 64)) * 64)


def cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, scale: float, parts: int = 1
) -> Tensor:
    """scale · Σ_t −log softmax(hidden_t · weightᵀ)[target_t], equation 11 with `scale` before it.

    Args:
        hidden: (T, d) outputs at the positions that have a target.
        weight: (|V|, d) item embeddings, without padding.
        targets: (T,) int64 rows of `weight`.
        scale: the weight of each target, such as 1 / (mean number of targets a step).
        parts: as in `block_size`.

    Returns:
        A scalar that back-propagates into `hidden` and `weight`.
    """
    loss: Tensor = _BlockedCrossEntropy.apply(hidden, weight, targets, scale, parts)
    return loss


class _BlockedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, scale: float, parts: int
    ) -> Tensor:
        loss, d_hidden, d_weight = loss_and_gradients(hidden, weight, targets, parts)
        ctx.save_for_backward(d_hidden, d_weight)
        ctx.scale = scale
        return loss * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        d_hidden, d_weight = ctx.saved_tensors
        factor = gradients[0] * ctx.scale
        return d_hidden * factor, d_weight * factor, None, None, None


@torch.no_grad()
def loss_and_gradients(
    hidden: Tensor, weight: Tensor, targets: Tensor, parts: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Σ_t −log softmax(hidden·weightᵀ)[target_t] and its gradients, in blocks; see `cross_entropy`.

    Returns:
        The loss (scalar), d loss / d hidden (T, d), d loss / d weight (|V|, d).
    """
    T, d = hidden.shape
    form, largest = _in_one_pass, block_size(len(weight), hidden.device, parts)
    if largest < LEAST_COLUMNS // parts:
        form, largest = _in_two_passes, LARGE_CATALOGUE_COLUMNS
    blocks, columns = equal_blocks(T, largest)
    padded = F.pad(hidden, (0, 0, 0, blocks * columns - T))  # rows of zeros, which add nothing
    sums, tops, d_weight = form(padded, weight, columns)
    sums, total = sums[:d, :T], sums[d, :T]
    target_rows = weight[targets]
    log_total = total.log() if tops is None else total.log() + tops[:T] * math.log(2)
    loss = (log_total - (hidden * target_rows).sum(1)).sum()
    d_hidden = (sums / total).T - target_rows
    return loss, d_hidden, d_weight.index_add_(0, targets, hidden, alpha=-1)


# Of e_vt = 2^(logit_vt − top_t), where logits are in base 2: Σ_v e_vt·weight_v, with Σ_v e_vt as a
# last row, (d + 1, T); the tops, (T,), or None for zeros; Σ_t e_vt / Σ_v e_vt · hidden_t, (|V|, d).
Sums = tuple[Tensor, Tensor | None, Tensor]


def _in_one_pass(hidden: Tensor, weight: Tensor, columns: int) -> Sums:
    """A block has every item and `columns` targets, of which `hidden` has a multiple."""
    logits, tops = _base_2(hidden, weight)
    # The row of ones makes the same product give the softmax's denominators too.
    weight_and_one = torch.cat([weight.T, weight.new_ones(1, len(weight))])
    sums, d_weight = hidden.new_empty(len(weight_and_one), len(hidden)), torch.zeros_like(weight)
    buffer = hidden.new_empty(len(weight) * columns)
    for start in range(0, len(hidden), columns):
        block = slice(start, start + columns)
        exponentials = mm(weight, logits[:, block], buffer)  # (|V|, R)
        if tops is not None:
            tops[block] = exponentials.amax(0)
            exponentials -= tops[block]
        exponentials.exp2_()
        sums[:, block] = mm(weight_and_one, exponentials)
        add_mm(d_weight, exponentials, hidden[block] / sums[-1:, block].T)
    return sums, tops, d_weight


def _in_two_passes(hidden: Tensor, weight: Tensor, columns: int) -> Sums:
    """For a catalogue so large that a block of every item would have few targets.

    A block has `columns` targets and as many items as fit. No division can be made before every
    item is summed, so the items are scored twice: four products for three, in better shapes, and
    no memory that grows with the catalogue.
    """
    logits, tops = _base_2(hidden, weight)
    sums, d_weight = hidden.new_zeros(len(logits) + 1, len(hidden)), torch.zeros_like(weight)
    rows = max(64, BLOCK_BYTES // (4 * columns) // 64 * 64)
    buffer = hidden.new_empty(rows * columns)
    for start in range(0, len(hidden), columns):
        block = slice(start, start + columns)
        chunks = list(zip(weight.split(rows), d_weight.split(rows), strict=True))
        if tops is not None:
            best = [mm(chunk, logits[:, block], buffer).amax(0) for chunk, _ in chunks]
            tops[block] = torch.stack(best).amax(0)
        for chunk, _ in chunks:
            exponentials = _exponentials(chunk, logits, tops, block, buffer)
            sums[:-1, block] += mm(chunk.T, exponentials)
            sums[-1, block] += exponentials.sum(0)
        shares = hidden[block] / sums[-1:, block].T
        for chunk, d_chunk in chunks:
            add_mm(d_chunk, _exponentials(chunk, logits, tops, block, buffer), shares)
    return sums, tops, d_weight


def _base_2(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor | None]:
    """hidden · log₂e, (d, T), contiguous, and zeros where logits need a shift."""
    logits = (hidden * math.log2(math.e)).T.contiguous()
    return logits, None if _is_small(logits, weight) else hidden.new_zeros(len(hidden))


def _exponentials(
    weight: Tensor, hidden_log2: Tensor, tops: Tensor | None, block: slice, buffer: Tensor
) -> Tensor:
    """e of these items and targets, (items, targets)."""
    scores = mm(weight, hidden_log2[:, block], buffer)
    return (scores if tops is None else scores.sub_(tops[block])).exp2_()


def _is_small(hidden_log2: Tensor, weight: Tensor) -> bool:
    """Whether no base-2 logit can exceed LARGEST_LOGIT, by Cauchy and Schwarz."""
    if hidden_log2.device.type != "cpu":
        return False  # reading the answer would make the GPU wait
    if not hidden_log2.numel():
        return True
    norms = torch.linalg.vector_norm(hidden_log2, dim=0), torch.linalg.vector_norm(weight, dim=1)
    return bool(norms[0].amax() * norms[1].amax() <= LARGEST_LOGIT)
