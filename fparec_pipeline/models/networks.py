"""What a network is to whoever trains, ranks or serves it, and how one is built.

What belongs here: the interface. Each network has a file of its own and a line in
`config/catalogue.py`.
"""

from torch import Tensor, nn

from fparec_pipeline.config import Hyperparameters
from fparec_pipeline.config.catalogue import NETWORKS, load


class Network(nn.Module):
    """Maps item sequences to hidden rows; a hidden row times the output weights gives the scores.

    A subclass is built from (Hyperparameters, n_items) and draws its parameters from PyTorch's
    generator. `models.contract.check_network` checks that it keeps to this interface.
    """

    n: int  # the window: no input is longer

    def forward(self, items: Tensor, last_only: bool = False) -> Tensor:
        """The hidden row at every position, or at the last one only.

        A row must depend on the items up to its position only, and not on later items, other
        users, or the amount of padding before them. Rows at padding may be anything finite.

        Args:
            items: (L, b) item ids, L ≤ n, right-aligned, 0 is padding.
            last_only: return the last row only; the others need not be computed.

        Returns:
            (L, b, d), or (1, b, d) with `last_only`.
        """
        raise NotImplementedError

    def output_weights(self) -> Tensor:
        """(|V|, d). Row i − 1 times a hidden row is the score of item i."""
        raise NotImplementedError


def build_network(h: Hyperparameters, n_items: int) -> Network:
    """Build the network that the hyper-parameters name, with newly drawn parameters.

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
