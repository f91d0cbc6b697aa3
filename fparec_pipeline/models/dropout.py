"""Dropout whose masks are cheap on a CPU.

PyTorch draws a CPU mask one element at a time from a Mersenne twister (about 6 ns an element, a
seventh of a training step). Here 16 bits an element come from NumPy's SFC64, seeded by one draw
from PyTorch's generator, so that `torch.manual_seed` still decides everything. The rate is exact
to 2⁻¹⁶. Other devices use PyTorch's own dropout.

Here belong the masks. Where dropout is applied belongs to `network.py`.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Dropout(nn.Module):
    """Zeroes each element with probability `rate` and scales the rest by 1 / (1 − rate)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.rate)
        return x * keep_mask(x.shape, self.rate).to(x.dtype).mul_(1 / (1 - self.rate))


def keep_mask(shape: torch.Size, rate: float) -> Tensor:
    """A boolean CPU tensor, True with probability 1 − rate, from PyTorch's generator's state."""
    seed = int(torch.randint(1 << 62, ()))
    words = np.random.SFC64(seed).random_raw(-(-shape.numel() // 4))  # 64 bits for 4 elements
    bits = torch.from_numpy(words.view(np.int16)[: shape.numel()])
    return (bits >= round(rate * 65536) - 32768).view(shape)
