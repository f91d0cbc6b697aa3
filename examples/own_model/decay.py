"""A mixer of your own: attention whose weight decays with the distance, at a learned rate."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fparec_pipeline.config import Hyperparameters
from fparec_pipeline.models.mixers import PositionalMixer


class Decay(PositionalMixer):
    """a_ij = exp(−softplus(r)·(i − j)): one learned number r instead of PARec's matrix R.

    `PositionalMixer` does the masked softmax, the value projection and the dropout.
    """

    def __init__(self, h: Hyperparameters) -> None:
        super().__init__(h)
        self.rate = nn.Parameter(torch.zeros(()))
        distance = torch.arange(h.n).unsqueeze(1) - torch.arange(h.n)  # (n, n): i − j
        self.register_buffer("distance", distance.to(torch.get_default_dtype()), False)

    def logits(self, L: int) -> Tensor:
        """The last L rows of the logits, (L, n)."""
        return -F.softplus(self.rate) * self.get_buffer("distance")[-L:]
