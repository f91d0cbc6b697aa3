"""Full-ranking evaluation: every user's target against all items, in blocks.

Notable:
* The rank with history kept is 1 + the number of items i ≠ t for which s_i < s_t is *not* true:
  ties and NaN count against the model. With history removed, the distinct history items h ≠ t for
  which s_h < s_t is not true are taken off again; the target always stays a candidate.
* Scores exist for one cache-sized block of users at a time and are compared where they lie.
* All items are candidates (Krichene and Rendle 2020 on why sampled ones will not do).
* What ranks come to stands in `metrics`.

Here belong ranks and lists of the best items.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import Tensor

from fparec_pipeline.datasets.splits import Part, Splits
from fparec_pipeline.models.networks import Network
from fparec_pipeline.training.beyond import K
from fparec_pipeline.training.blocks import block_size
from fparec_pipeline.training.matmul import mm
from fparec_pipeline.training.metrics import RANKINGS

NETWORK_USERS = 512  # users that go through the network at once

# (L, u) right-aligned items → scores of all items for u users, a few rows at a time
Scorer = Callable[[Tensor], Iterator[Tensor]]


class NonFiniteScores(ArithmeticError):
    """A score is NaN or infinite: the model has diverged and its ranks mean nothing."""


@dataclass(frozen=True)
class Ranks:
    """The rank of each target, (targets,) int32, counted from 1.

    What no model can recommend (a cold item) or has nothing to go by for (no input) has the rank
    n_items + 1 in both.
    """

    kept: np.ndarray  # history items are candidates, as in the paper
    unseen: np.ndarray  # history items are removed, but for the target
    users: np.ndarray  # whose target it is, counted from 0, ascending


class EvaluationSet:
    """One part of the splits, ready to be ranked: inputs, targets and distinct histories.

    One entry a target with an input, a *user* below: under some protocols one person has several,
    or none. They are held sorted by the length of their input, so that blocks carry little padding;
    `order` has their places among all targets of the part, `owners` whose those all are.
    """

    def __init__(
        self, splits: Splits, part: Part, n: int, device: str | torch.device = "cpu"
    ) -> None:
        cases = splits.cases(part)
        lengths = (cases.ends - cases.starts).astype(np.int32)
        order = np.argsort(lengths, kind="stable")
        self.order = order[lengths[order] > 0].astype(np.int32)
        self.owners = cases.users
        self.cold = cases.targets > splits.n_items
        self.n_items = splits.n_items
        self.n = n
        targets = np.where(self.cold, 1, cases.targets)  # 1: any, its rank is not used
        self.targets = torch.from_numpy(targets[self.order].astype(np.int32)).to(device)
        self.lengths = torch.from_numpy(lengths[self.order])  # of the whole input
        self.ends = torch.from_numpy(cases.ends[self.order]).to(device)
        self.values = torch.from_numpy(cases.items).to(device)
        self.is_first = torch.from_numpy(cases.first_times()).to(device)

    def __len__(self) -> int:
        return len(self.order)

    def inputs(self, users: slice) -> Tensor:
        """The last n items before the target, (L, u) int64, right-aligned, 0 is padding."""
        lengths = self.lengths[users].clamp_max(self.n)
        back = torch.arange(int(lengths.max()), 0, -1, device=self.values.device).unsqueeze(1)
        items = self.values[(self.ends[users] - back).clamp_min(0)].long()
        return items.masked_fill_(back > lengths.to(self.values.device), 0)

    def histories(self, users: slice) -> tuple[Tensor, Tensor]:
        """The distinct items of the whole inputs: rows within `users` and items, each int64."""
        lengths = self.lengths[users].long()
        size, device = int(lengths.sum()), self.values.device
        past = lengths.cumsum(0).to(device)
        rows = torch.arange(len(past), device=device).repeat_interleave(
            lengths.to(device), output_size=size
        )
        places = (self.ends[users] - past)[rows] + torch.arange(size, device=device)
        chosen = self.is_first[places]
        return rows[chosen], self.values[places[chosen]].long()


def network_scorer(model: Network, parts: int = 1) -> Scorer:
    """Scores of a network in evaluation mode (equation 10), in cache-sized blocks of users.

    `parts` is as in `block_size`.
    """

    def score(items: Tensor) -> Iterator[Tensor]:
        weight = model.output_weights()
        hidden = model(items, last_only=True)[0]  # (u, d)
        size = block_size(len(weight), weight.device, parts)
        buffer = hidden.new_empty(min(size, len(hidden)) * len(weight))
        for rows in hidden.split(size):
            yield mm(rows, weight.T, buffer)

    return score


@torch.no_grad()
def rank_targets(score: Scorer, users: EvaluationSet) -> Ranks:
    """The rank of every target among all items, by both rankings.

    Raises:
        NonFiniteScores: a score is NaN or infinite.
    """
    kept = np.full(len(users.owners), users.n_items + 1, np.int32)
    unseen = kept.copy()
    for start in range(0, len(users), NETWORK_USERS):
        first = start
        for scores in score(users.inputs(slice(start, start + NETWORK_USERS))):
            block = slice(first, first + len(scores))
            ranks = count_ranks(scores, users.targets[block].long(), *users.histories(block))
            places = users.order[block]
            kept[places], unseen[places] = (rank.cpu().numpy() for rank in ranks)
            first = block.stop
    kept[users.cold] = unseen[users.cold] = users.n_items + 1
    return Ranks(kept, unseen, users.owners)


@torch.no_grad()
def top_lists(score: Scorer, users: EvaluationSet) -> tuple[np.ndarray, np.ndarray]:
    """The K items of the highest scores for every target, best first, by both rankings.

    Returns:
        (targets, K) in the smallest integers that hold an item: with the history among the
        candidates, and without it (then without the target too, where it is in the history); 0
        where there is no further item.
    """
    kept = np.zeros((len(users.owners), K), np.min_scalar_type(users.n_items))
    unseen = kept.copy()
    for start in range(0, len(users), NETWORK_USERS):
        first = start
        for scores in score(users.inputs(slice(start, start + NETWORK_USERS))):
            block = slice(first, first + len(scores))
            rows, history = users.histories(block)
            places, width = users.order[block], min(K, scores.shape[1])
            kept[places, :width] = (scores.topk(width).indices + 1).cpu().numpy()
            removed = scores.index_put((rows, history - 1), scores.new_tensor(-torch.inf))
            best = removed.topk(width)
            items = (best.indices + 1).masked_fill(best.values == -torch.inf, 0)
            unseen[places, :width] = items.cpu().numpy()
            first = block.stop
    return kept, unseen


def count_ranks(
    scores: Tensor, targets: Tensor, history_rows: Tensor, history_items: Tensor
) -> tuple[Tensor, Tensor]:
    """Ranks of the targets among the items, ties against the model. Overwrites `scores`.

    Args:
        scores: (u, |V|) floats, column i − 1 for item i.
        targets: (u,) int64 item ids, 1 … |V|.
        history_rows: (h,) int64, the row of each pair of a user and a distinct item of its history.
        history_items: (h,) int64, the item of the pair.

    Returns:
        The rank with history kept and the rank with history removed, each (u,) int64.

    Raises:
        NonFiniteScores: a score is NaN or infinite.
    """
    if not torch.isfinite(scores.sum()):
        raise NonFiniteScores("a score is NaN or infinite")
    target_scores = scores.gather(1, targets.unsqueeze(1) - 1)  # (u, 1)
    above = ~(scores[history_rows, history_items - 1] < target_scores[history_rows, 0])
    above &= history_items != targets[history_rows]
    removed = torch.zeros_like(targets).index_add_(0, history_rows, above.long())
    # Ones and zeros in place: their float sum is exact below 2²⁴ items, and no mask is allocated.
    below = scores.lt_(target_scores).sum(1)
    kept = scores.shape[1] - below.long()
    return kept, kept - removed


def ranks_table(valid: Ranks, test: Ranks) -> pl.DataFrame:
    """The columns user (from 1) and RANKINGS, in the smallest integers that hold them.

    A user has as many rows as targets in the part where it has most; where it has fewer in the
    other, that one's columns are null.
    """
    frames = [
        pl.DataFrame(
            {"user": ranks.users + 1, part: ranks.kept, f"{part}_unseen": ranks.unseen}
        ).cast(pl.UInt32)
        for part, ranks in (("valid", valid), ("test", test))
    ]
    if frames[0]["user"].equals(frames[1]["user"]):  # no join, which needs memory
        table = pl.concat([frames[0], frames[1].drop("user")], how="horizontal")
    else:
        place = pl.int_range(pl.len()).over("user").alias("place")
        first, second = (frame.with_columns(place) for frame in frames)
        table = first.join(second, on=["user", "place"], how="full", coalesce=True)
        table = table.sort("user", "place")
    return pl.DataFrame([column.shrink_dtype() for column in table.select("user", *RANKINGS)])
