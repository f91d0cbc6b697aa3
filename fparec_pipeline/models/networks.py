"""What a network is to whoever trains, ranks or serves it, and how one is built.

What belongs here: the interface. Each network has a file of its own and a line in
`config/catalogue.py`.
"""

from torch import Tensor, nn

from fparec_pipeline.config import Hyperparameters
from fparec_pipeline.config.catalogue import NETWORKS, load


class Network(nn.Module):
    """From item sequences to hidden rows, whose products with the output weights are the scores.

    A subclass is built from (Hyperparameters, n_items) and draws its parameters from PyTorch's
    generator. `models.contract.check_network` says whether it keeps to all of this.
    """

    n: int  # the window: no input is longer

    def forward(self, items: Tensor, last_only: bool = False) -> Tensor:
        """The hidden row at every position, or at the last one only.

        Args:
            items: (L, b) item ids, L ≤ n, right-aligned, 0 is padding.
            last_only: prediction needs no other position, and a network may compute no other.

        Returns:
            (L, b, d), or (1, b, d). A row depends on the items up to its position and on nothing
            else: not on later items, other columns, or how much padding stands before them. Rows
            at padding are unspecified but finite.
        """
        raise NotImplementedError

    def output_weights(self) -> Tensor:
        """(|V|, d): row i − 1 times a hidden row is the score of item i."""
        raise NotImplementedError


def build_network(h: Hyperparameters, n_items: int) -> Network:
    """The network that the hyper-parameters name, freshly initialised.

    Examples:
        >>> import torch
        >>> from fparec_pipeline.config import load_config
        >>> h = load_config().hyperparameters("beauty", "fparec")
        >>> network = build_network(h, n_items=100)
        >>> items = torch.randint(1, 101, (h.n, 4))  # (L, b): four users
        >>> (network(items, last_only=True) @ network.output_weights().T).shape  # their scores
        torch.Size([1, 4, 100])
    """
    network: Network = load(h.network, NETWORKS)(h, n_items)
    return network
