"""How many rows are scored at once, by the loss and by the evaluation alike.

Nothing else belongs here.
"""

import torch

BLOCK_BYTES = 6 << 20  # of scores: about what a core has of the caches
CUDA_BLOCK_BYTES = 512 << 20  # large enough to fill a GPU


def block_size(n_items: int, device: torch.device, parts: int = 1) -> int:
    """How many targets or users are scored at once: a multiple of 16, at least 16.

    `parts` is what a block is divided by where memory is short.
    """
    budget = CUDA_BLOCK_BYTES if device.type == "cuda" else BLOCK_BYTES
    return max(16, min(budget // (4 * n_items), 1 << 16) // parts // 16 * 16)
