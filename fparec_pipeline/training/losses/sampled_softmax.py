"""Softmax over a sample of the catalogue: for catalogues too large for the exact cross-entropy.

Notable:
* One sample a step, shared by all its targets: distinct items, each drawn with the same
  probability m / |V|. The loss then costs T · m products instead of T · |V|.
* logQ correction: exp(s_v) of a drawn item counts |V| / m times, which makes the softmax's
  denominator unbiased (Bengio and Senécal, "Adaptive Importance Sampling to Accelerate Training of
  a Neural Probabilistic Language Model", 2008; Jean et al., "On Using Very Large Target Vocabulary
  for Neural Machine Translation", 2015). The target is always there, so it is not corrected.
* Accidental hits: where the target itself was drawn, the drawn copy is left out.

Here belongs this loss alone; the registry is the package's.
"""

import math

import numpy as np
import torch
from torch import Tensor

from fparec_pipeline.config import Hyperparameters
from fparec_pipeline.datasets.splits import Splits
from fparec_pipeline.training.losses import Loss


def build(h: Hyperparameters, splits: Splits, device: str, parts: int) -> Loss:
    """The loss of `training.losses`."""
    return lambda step: sampled_softmax(
        step.hidden, step.weight, step.targets, step.scale, h.negatives
    )


def sampled_softmax(
    hidden: Tensor, weight: Tensor, targets: Tensor, scale: float, negatives: int
) -> Tensor:
    """`cross_entropy` with the softmax's denominator estimated from drawn items.

    Args:
        hidden: (T, d) outputs at the positions that have a target.
        weight: (|V|, d) item embeddings, without padding.
        targets: (T,) int64 rows of `weight`.
        scale: the weight of each target.
        negatives: m, how many items are drawn; |V| or more takes all, which is exact.

    Returns:
        A scalar that back-propagates into `hidden` and `weight`. T × m scores are held.
    """
    drawn = draw_items(len(weight), negatives).to(weight.device)
    return loss_with(drawn, hidden, weight, targets) * scale


def draw_items(n_items: int, number: int) -> Tensor:
    """min(number, n_items) distinct items from 0, uniform; PyTorch's CPU generator decides."""
    seed = int(torch.randint(1 << 62, ()))
    # Time and memory do not depend on the catalogue, as those of a permutation would.
    draw = np.random.Generator(np.random.SFC64(seed))
    return torch.from_numpy(draw.choice(n_items, min(number, n_items), False, shuffle=False))


def loss_with(drawn: Tensor, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Σ_t −log of the target's share among itself and `drawn` (m,), each of these |V|/m times."""
    correction = math.log(len(weight) / len(drawn))
    logits = hidden @ weight[drawn].T + correction  # (T, m)
    logits = logits.masked_fill(drawn == targets.unsqueeze(1), -torch.inf)
    wanted = (hidden * weight[targets]).sum(1, keepdim=True)  # (T, 1)
    return (torch.cat([wanted, logits], 1).logsumexp(1) - wanted[:, 0]).sum()
