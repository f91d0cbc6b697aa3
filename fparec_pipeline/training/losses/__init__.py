"""The losses: a file each, all with one signature.

What belongs here: what a loss is given. A loss file has a function
`build(h, splits, device, parts) -> Loss`, which prepares what the loss needs once (a sampler, say),
and a line in `config/catalogue.py`. The trainer knows none of them by name.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from fparec_pipeline.config import Hyperparameters
from fparec_pipeline.config.catalogue import LOSSES, load
from fparec_pipeline.datasets.splits import Splits


@dataclass(frozen=True)
class Step:
    """What a loss is given of one batch: T targets of |V| items."""

    hidden: Tensor  # (T, d) outputs at the positions that have a target
    weight: Tensor  # (|V|, d) output weights, without padding
    targets: Tensor  # (T,) int64 rows of `weight`
    users: Callable[[], Tensor]  # gives (T,) int64: whose target it is, counted from 0
    scale: float  # the weight of each target, the same in every batch


Loss = Callable[[Step], Tensor]  # a scalar that back-propagates into `hidden` and `weight`


def build_loss(h: Hyperparameters, splits: Splits, device: str, parts: int) -> Loss:
    """The loss that the hyper-parameters name.

    Args:
        h: a loss reads its own keys, such as `negatives`.
        splits: what is trained on.
        device: where it is trained.
        parts: as in `blocks.block_size`; a loss that does not work in blocks ignores it.
    """
    loss: Loss = load(h.loss, LOSSES)(h, splits, device, parts)
    return loss
