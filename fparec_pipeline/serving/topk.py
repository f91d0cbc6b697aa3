"""The exact top k of a catalogue: products of outputs and item weights, never all of them at once.

Notable:
* Scores exist for one cache-sized block of items at a time. Of each block only its k best are kept,
  and the k best of those are the answer, so that memory grows neither with the catalogue nor with
  the number of users.
* Within a block the k chunks with the largest maxima hold its k largest scores: a maximum is a
  vectorised pass, a selection is not, and only k chunks are left to select from.
* Equal scores: which of them is taken is the selection's choice, the same on every call.

Here belongs the selection. Which items are excluded is the caller's to say.
"""

import torch
from torch import Tensor

from fparec_pipeline.training.blocks import BLOCK_BYTES, CUDA_BLOCK_BYTES
from fparec_pipeline.training.matmul import mm

CHUNK = 256  # items whose maximum is taken together
EXCLUDED = float("-inf")


@torch.no_grad()
def top_k(
    hidden: Tensor, weight: Tensor, k: int, excluded: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """The k largest of hidden · weightᵀ in each row, the largest first.

    Args:
        hidden: (u, d) outputs of the network.
        weight: (m, d) weights of the candidate items.
        k: at least 1; where it is larger than m, m are returned.
        excluded: rows and columns (each int64, any order) that must not be returned.

    Returns:
        Scores (u, min(k, m)) and columns of `weight` (int64). Where a row has fewer items that are
        not excluded, the rest has the score −∞.
    """
    rows, columns = _by_column(excluded, hidden.device)
    size = _items_at_once(len(hidden), weight.device)
    starts = range(0, len(weight), size)
    edges = torch.searchsorted(columns, torch.tensor([*starts, len(weight)], device=columns.device))
    buffer = hidden.new_empty(len(hidden) * min(size, len(weight)))
    kept_scores, kept_columns = [], []
    for number, start in enumerate(starts):
        scores = mm(hidden, weight[start : start + size].T, buffer)
        mine = slice(int(edges[number]), int(edges[number + 1]))
        scores[rows[mine], columns[mine] - start] = EXCLUDED
        best, places = largest(scores, k)
        kept_scores.append(best)
        kept_columns.append(places + start)
    best, places = torch.cat(kept_scores, 1).topk(min(k, len(weight)), dim=1)
    return best, torch.cat(kept_columns, 1).gather(1, places)


def largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The min(k, m) largest of each row of `scores` (u, m) and their columns, the largest first."""
    u, m = scores.shape
    chunks = m // CHUNK
    if chunks <= k:
        best = scores.topk(min(k, m), dim=1)
        return best.values, best.indices
    body = scores[:, : chunks * CHUNK].unflatten(1, (chunks, CHUNK))
    chosen = body.amax(-1).topk(k, dim=1, sorted=False).indices  # (u, k)
    candidates = body.gather(1, chosen.unsqueeze(-1).expand(-1, -1, CHUNK)).flatten(1)
    within = torch.arange(CHUNK, device=scores.device)
    columns = (chosen.unsqueeze(-1) * CHUNK + within).flatten(1)
    if rest := m - chunks * CHUNK:
        candidates = torch.cat([candidates, scores[:, -rest:]], 1)
        tail = torch.arange(m - rest, m, device=scores.device)
        columns = torch.cat([columns, tail.expand(u, -1)], 1)
    best = candidates.topk(k, dim=1)
    return best.values, columns.gather(1, best.indices)


def _items_at_once(users: int, device: torch.device) -> int:
    budget = CUDA_BLOCK_BYTES if device.type == "cuda" else BLOCK_BYTES
    return max(budget // (4 * max(users, 1)), 16 * CHUNK) // CHUNK * CHUNK


def _by_column(
    excluded: tuple[Tensor, Tensor] | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The pairs sorted by column, so that those of a block of items lie together."""
    if excluded is None:
        empty = torch.empty(0, dtype=torch.int64, device=device)
        return empty, empty
    rows, columns = (pairs.to(device) for pairs in excluded)
    order = columns.argsort()
    return rows[order], columns[order].contiguous()
