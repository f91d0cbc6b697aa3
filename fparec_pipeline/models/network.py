"""The recommender around a sequence mixer: embedding, blocks, prediction (equations 5 to 10).

Notable:
* Time-major, `items (L, b)`, right-aligned, 0 is padding.
* The default formulation is the published code's where it speaks: input embeddings × √d, the
  *normalised* F in the residual, V from the un-normalised F; one feed-forward a block as in the
  paper; a learned position embedding for the mixers that need one.
* The output weights are the unscaled item embedding; the scores are left to the loss and the
  evaluation, which never hold all of them.

Here belongs what the paper's models share. A mixer belongs to `mixers.py`; a network that is none
of them has a file of its own.
"""

import math

import torch
from torch import Tensor, nn

from fparec_pipeline.config import Hyperparameters
from fparec_pipeline.models.dropout import Dropout
from fparec_pipeline.models.mixers import build_mixer, glorot_linear
from fparec_pipeline.models.networks import Network

LAYER_NORM_EPSILON = 1e-8  # as the published code


class FeedForward(nn.Module):
    """ReLU(x·W₁ + b₁)·W₂ + b₂ with dropout after each layer (equation 8)."""

    def __init__(self, d: int, dropout: float) -> None:
        super().__init__()
        self.inner = glorot_linear(d, d, bias=True)
        self.outer = glorot_linear(d, d, bias=True)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.outer(self.dropout(torch.relu(self.inner(x)))))


class Block(nn.Module):
    """One attention block: mixer and, where configured, feed-forward, each with its residual."""

    def __init__(self, h: Hyperparameters, *, feed_forward: bool) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(h.d, LAYER_NORM_EPSILON)
        self.mixer = build_mixer(h)
        self.feed_forward_norm = nn.LayerNorm(h.d, LAYER_NORM_EPSILON) if feed_forward else None
        self.feed_forward = FeedForward(h.d, h.dropout) if feed_forward else None
        self.add_normalized = h.residual == "normalized"
        self.value_is_normalized = h.value_source == "normalized"

    def forward(self, x: Tensor, mask: Tensor, last_only: bool = False) -> Tensor:
        """(L, b, d), (L, b) → (L, b, d), or (1, b, d) for the last position only."""
        normalized = self.attention_norm(x)
        value = normalized if self.value_is_normalized else x
        mixed = self.mixer(normalized, value, mask, last_only)
        residual = normalized if self.add_normalized else x
        x = mixed + (residual[-1:] if last_only else residual)
        if self.feed_forward is None or self.feed_forward_norm is None:
            return x
        normalized = self.feed_forward_norm(x)
        return self.feed_forward(normalized) + (normalized if self.add_normalized else x)


class Recommender(Network):
    """From item sequences to the output whose product with the item embedding is the scores."""

    def __init__(self, h: Hyperparameters, n_items: int) -> None:
        super().__init__()
        self.n = h.n
        self.scale = math.sqrt(h.d) if h.scale_embedding else 1.0
        self.item_embedding = nn.Embedding(n_items + 1, h.d, padding_idx=0)
        nn.init.xavier_uniform_(self.item_embedding.weight)
        with torch.no_grad():
            self.item_embedding.weight[0] = 0
        self.position_embedding = (
            nn.Parameter(nn.init.xavier_uniform_(torch.empty(h.n, h.d)))
            if h.position_embedding
            else None
        )
        self.dropout = Dropout(h.dropout)
        self.blocks = nn.ModuleList(
            Block(h, feed_forward=h.feed_forward == "every_block" or i == h.blocks - 1)
            for i in range(h.blocks)
        )
        self.output_norm = nn.LayerNorm(h.d, LAYER_NORM_EPSILON)

    def forward(self, items: Tensor, last_only: bool = False) -> Tensor:
        """The LayerNormed output F̂ (equation 9) at every position, or at the last one only.

        Args:
            items: (L, b) item ids, L ≤ n, right-aligned, 0 is padding.
            last_only: compute the last block for the last position only, as prediction needs.

        Returns:
            (L, b, d), or (1, b, d). Scores are its product with `output_weights()`ᵀ (equation 10).
            Rows at padding are unspecified.

        Raises:
            ValueError: L is larger than the window n.
        """
        L = items.shape[0]
        if L > self.n:
            raise ValueError(f"a sequence of {L} items is longer than the window n = {self.n}")
        mask = items != 0
        x = self.item_embedding(items) * self.scale
        if self.position_embedding is not None:
            x = x + self.position_embedding[-L:].unsqueeze(1) * mask.unsqueeze(-1)
        x = self.dropout(x)
        for block in self.blocks[:-1]:
            x = block(x, mask)
        return self.output_norm(self.blocks[-1](x, mask, last_only))

    def output_weights(self) -> Tensor:
        """The item embedding without padding, (|V|, d): tied, and not scaled."""
        return self.item_embedding.weight[1:]
