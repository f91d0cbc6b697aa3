"""Full-ranking evaluation: every user's target against all items, in blocks.

Notable:
* The rank with history kept is 1 + the number of items i ≠ t for which s_i < s_t is *not* true:
  ties and NaN count against the model. With history removed, the distinct history items h ≠ t for
  which s_h < s_t is not true are taken off again; the target always stays a candidate.
* Scores exist for one cache-sized block of users at a time and are compared where they lie.
* HR@k, NDCG@k and MRR are means over all users, computed from ranks (Krichene and Rendle 2020 on
  why sampled candidates will not do).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fparec_pipeline.datasets.splits import Splits
from fparec_pipeline.models.network import Recommender
from fparec_pipeline.training.loss import block_size
from fparec_pipeline.training.matmul import mm

CUTOFFS = (1, 5, 10, 20, 50)
NETWORK_USERS = 512  # users that go through the network at once

Part = Literal["valid", "test"]
# (L, u) right-aligned items → scores of all items for u users, a few rows at a time
Scorer = Callable[[Tensor], Iterator[Tensor]]


class NonFiniteScores(ArithmeticError):
    """A score is NaN or infinite: the model has diverged and its ranks mean nothing."""


@dataclass(frozen=True)
class Ranks:
    """Each user's rank of the target, (n_users,) int64, counted from 1."""

    kept: np.ndarray  # history items are candidates, as in the paper
    unseen: np.ndarray  # history items are removed, but for the target


class EvaluationSet:
    """One part of the splits, ready to be ranked: inputs, targets and distinct histories.

    Users are held sorted by the length of their input, so that blocks carry little padding.
    """

    def __init__(self, splits: Splits, part: Part, n: int, device: str = "cpu") -> None:
        items, offsets = splits.train_items, splits.train_offsets
        if part == "test":  # the validation item is the last item of the input
            items = np.insert(items, offsets[1:], splits.valid)
            offsets = offsets + np.arange(len(offsets))
        lengths = np.diff(offsets)
        self.order = np.argsort(lengths, kind="stable")
        self.n_items = splits.n_items
        self.n = n
        targets = splits.valid if part == "valid" else splits.test
        self.targets = torch.from_numpy(targets[self.order].astype(np.int64)).to(device)
        self.lengths = torch.from_numpy(np.minimum(lengths, n)[self.order])
        self.ends = torch.from_numpy(offsets[1:][self.order]).to(device)
        self.values = torch.from_numpy(items).to(device)
        history, history_offsets = _distinct_histories(items, lengths, self.order)
        self.history = torch.from_numpy(history).to(device)
        self.history_offsets = torch.from_numpy(history_offsets)

    def __len__(self) -> int:
        return len(self.order)

    def inputs(self, users: slice) -> Tensor:
        """The last n items before the target, (L, u) int64, right-aligned, 0 is padding."""
        lengths = self.lengths[users].to(self.values.device)
        longest = int(self.lengths[users].max())
        back = torch.arange(longest, 0, -1, device=self.values.device).unsqueeze(1)
        items = self.values[(self.ends[users] - back).clamp_min(0)].long()
        return items.masked_fill_(back > lengths, 0)


def _distinct_histories(
    items: np.ndarray, lengths: np.ndarray, order: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Each user's distinct items, users in `order`: flat values and offsets (users + 1,)."""
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    width = int(items.max(initial=0)) + 1
    keys = np.unique(np.repeat(place, lengths) * width + items)
    return keys % width, np.searchsorted(keys // width, np.arange(len(order) + 1))


def network_scorer(model: Recommender, parts: int = 1) -> Scorer:
    """Scores of a network in evaluation mode (equation 10), in cache-sized blocks of users.

    `parts` is as in `block_size`.
    """

    def score(items: Tensor) -> Iterator[Tensor]:
        weight = model.item_embedding.weight[1:]
        hidden = model(items, last_only=True)[0]  # (u, d)
        size = block_size(len(weight), weight.device, parts)
        buffer = hidden.new_empty(min(size, len(hidden)) * len(weight))
        for rows in hidden.split(size):
            yield mm(rows, weight.T, buffer)

    return score


@torch.no_grad()
def rank_targets(score: Scorer, users: EvaluationSet) -> Ranks:
    """The rank of every user's target among all items, by both rankings.

    Raises:
        NonFiniteScores: a score is NaN or infinite.
    """
    kept = np.empty(len(users), np.int64)
    unseen = np.empty(len(users), np.int64)
    for start in range(0, len(users), NETWORK_USERS):
        first = start
        for scores in score(users.inputs(slice(start, start + NETWORK_USERS))):
            last = first + len(scores)
            offsets = users.history_offsets[first : last + 1]
            ranks = count_ranks(
                scores,
                users.targets[first:last],
                users.history[offsets[0] : offsets[-1]],
                offsets - offsets[0],
            )
            places = users.order[first:last]
            kept[places], unseen[places] = (rank.cpu().numpy() for rank in ranks)
            first = last
    return Ranks(kept, unseen)


def count_ranks(
    scores: Tensor, targets: Tensor, history_items: Tensor, history_offsets: Tensor
) -> tuple[Tensor, Tensor]:
    """Ranks of the targets among the items, ties against the model. Overwrites `scores`.

    Args:
        scores: (u, |V|) floats, column i − 1 for item i.
        targets: (u,) int64 item ids, 1 … |V|.
        history_items: flat int64 ids, each user's distinct history items one after the other.
        history_offsets: (u + 1,) int64 into `history_items`.

    Returns:
        The rank with history kept and the rank with history removed, each (u,) int64.

    Raises:
        NonFiniteScores: a score is NaN or infinite.
    """
    if not torch.isfinite(scores.sum()):
        raise NonFiniteScores("a score is NaN or infinite")
    target_scores = scores.gather(1, targets.unsqueeze(1) - 1)  # (u, 1)
    counts = history_offsets.diff().to(scores.device)
    rows = torch.arange(len(scores), device=scores.device).repeat_interleave(
        counts, output_size=len(history_items)
    )
    above = ~(scores[rows, history_items - 1] < target_scores[rows, 0])
    above &= history_items != targets[rows]
    removed = torch.zeros_like(counts).index_add_(0, rows, above.long())
    # Ones and zeros in place: their float sum is exact below 2²⁴ items, and no mask is allocated.
    below = scores.lt_(target_scores).sum(1)
    kept = scores.shape[1] - below.long()
    return kept, kept - removed


def metrics_from_ranks(ranks: np.ndarray) -> dict[str, float]:
    """Means over users: hr_at_k and ndcg_at_k for k in CUTOFFS, and mrr.

    HR@k is the share of ranks ≤ k; NDCG@k the mean of 1 / log₂(1 + rank) where rank ≤ k, else 0;
    MRR the mean of 1 / rank.
    """
    ranks = ranks.astype(np.float64)  # small integers, as on disk, would overflow
    gains = 1 / np.log2(1 + ranks)
    metrics = {}
    for k in CUTOFFS:
        hit = ranks <= k
        metrics[f"hr_at_{k}"] = float(hit.mean())
        metrics[f"ndcg_at_{k}"] = float((gains * hit).mean())
    return metrics | {"mrr": float((1 / ranks).mean())}
