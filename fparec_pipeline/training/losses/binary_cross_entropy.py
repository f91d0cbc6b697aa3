"""SASRec's own loss: binary cross-entropy with drawn negatives, for the arm `sasrec_bce`.

Source: Kang and McAuley, "Self-Attentive Sequential Recommendation" (ICDM 2018), equation 5, and
their code (kang205/SASRec): one negative for each target, uniform over the items that the user's
training sequence does not hold.

Here belongs this loss alone; the registry is the package's.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fparec_pipeline.config import Hyperparameters
from fparec_pipeline.datasets.splits import Splits
from fparec_pipeline.training.losses import Loss, Step


def build(h: Hyperparameters, splits: Splits, device: str, parts: int) -> Loss:
    """The loss of `training.losses`."""
    unseen = UnseenItems(splits, device)

    def loss(step: Step) -> Tensor:
        drawn = unseen.draw(step.users(), h.negatives)
        return binary_cross_entropy(step.hidden, step.weight, step.targets, drawn, step.scale)

    return loss


def binary_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, negatives: Tensor, scale: float
) -> Tensor:
    """scale · Σ_t [−log σ(s_t,target) − Σ_m log(1 − σ(s_t,negative_m))], s = hidden · weightᵀ.

    Every target weighs the same, as in `cross_entropy`; the authors divide each batch by its
    own number of targets.

    Args:
        hidden: (T, d) outputs at the positions that have a target.
        weight: (|V|, d) item embeddings, without padding.
        targets: (T,) int64 rows of `weight`.
        negatives: (T, m) int64 rows of `weight`.
        scale: the weight of each target.

    Returns:
        A scalar that back-propagates into `hidden` and `weight`.
    """
    positive = (hidden * F.embedding(targets, weight)).sum(-1)  # (T,)
    negative = (hidden.unsqueeze(1) * F.embedding(negatives, weight)).sum(-1)  # (T, m)
    return (F.softplus(-positive).sum() + F.softplus(negative).sum()) * scale


class UnseenItems:
    """Draws items that a user's training sequence does not hold, each with the same probability.

    No rejection: of a user's sorted distinct items s₀ < s₁ < …, below s_j there are s_j − j unseen
    ones (counting items from 0), so the r-th unseen item is r plus the number of j with
    s_j − j ≤ r, one binary search over all users' keys.
    """

    def __init__(self, splits: Splits, device: str = "cpu") -> None:
        """Sorts the training items once.

        Raises:
            ValueError: some user's training sequence holds every item.
        """
        width = splits.n_items + 1
        users = np.repeat(np.arange(splits.n_users), np.diff(splits.train_offsets))
        held = np.unique(users * width + (splits.train_items.astype(np.int64) - 1))
        owners = held // width
        counts = np.bincount(owners, minlength=splits.n_users)
        if counts.max() == splits.n_items:
            raise ValueError(
                f"{splits.name}: user {counts.argmax() + 1} has interacted with every item, so "
                "there is no negative to draw; use another loss than binary_cross_entropy"
            )
        starts = np.concatenate([[0], np.cumsum(counts)])
        self.width = width
        self.keys = torch.from_numpy(held - (np.arange(len(held)) - starts[owners])).to(device)
        self.starts = torch.from_numpy(starts).to(device)
        self.unseen = torch.from_numpy(splits.n_items - counts).to(device)

    def draw(self, users: Tensor, number: int) -> Tensor:
        """`number` items for each of `users` (T,), both counted from 0: (T, number) int64.

        They come from torch's CPU generator, so that every device draws the same.
        """
        shares = torch.rand(len(users), number, dtype=torch.float64).to(users.device)
        ranks = (shares * self.unseen[users].unsqueeze(1)).long()
        below = torch.searchsorted(self.keys, users.unsqueeze(1) * self.width + ranks, right=True)
        return ranks + below - self.starts[users].unsqueeze(1)
