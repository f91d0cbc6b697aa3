"""A network of one's own, as a configuration may name it."""

import torch
from torch import Tensor, nn

from fparec_pipeline.config import Hyperparameters
from fparec_pipeline.models.networks import Network


class LastItem(Network):
    """Says nothing of a sequence but its item at each position."""

    def __init__(self, h: Hyperparameters, n_items: int):
        super().__init__()
        self.n = h.n
        self.embedding = nn.Embedding(n_items + 1, h.d)
        self.step = nn.Linear(h.d, h.d)

    def forward(self, items: Tensor, last_only: bool = False) -> Tensor:
        return torch.tanh(self.step(self.embedding(items[-1:] if last_only else items)))

    def output_weights(self) -> Tensor:
        return self.embedding.weight[1:]
