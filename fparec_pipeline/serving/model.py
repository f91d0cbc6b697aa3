"""A model that answers: its network, the source's ids of its items, and what is popular.

This module, `topk` and what they import travel with a registered model, so they need nothing but
torch, NumPy, Polars, safetensors and pydantic.

Here belongs what can answer without this project's data root.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fparec_pipeline.config import ConfigError, Hyperparameters
from fparec_pipeline.config.catalogue import code_of
from fparec_pipeline.datasets.files import DatasetError
from fparec_pipeline.models.networks import Network, build_network
from fparec_pipeline.serving.topk import EXCLUDED, top_k

# The three files of a packed model.
FACTS = "champion.json"
ITEMS = "items.parquet"
WEIGHTS = "model.safetensors"

USERS_AT_ONCE = 256  # go through the network, and through the catalogue, together


class ModelUnusable(DatasetError):
    """A packed model whose files are missing or do not fit together."""


@dataclass(frozen=True)
class Candidates:
    """The items that may be recommended."""

    items: Tensor  # (m,) int64 item numbers, ascending
    weight: Tensor  # (m, d)
    column: Tensor  # (n_items + 1,) int64: an item's column in `weight`, −1 where it has none
    popular: Tensor  # (m,) int64 columns, most frequent first, then by number


@dataclass(frozen=True)
class Top:
    """The k best items of each user, best first."""

    items: np.ndarray  # (u, k) int64 item numbers; 0 where no candidate was left
    scores: np.ndarray  # (u, k) float32; NaN where popularity answered, or no candidate was left
    by_model: np.ndarray  # (u,) bool; False: the history was empty, popularity answered


def read_network(h: Hyperparameters, n_items: int, weights: Path) -> Network:
    """The network with these weights, on the CPU, in evaluation mode.

    Raises:
        ModelUnusable: a part of one's own is not the code that these weights were trained with.
    """
    own = [name for name in (h.mixer, h.network, h.loss) if name and ":" in name]
    if h.code and code_of(own) != h.code:
        raise ModelUnusable(
            f"{weights}: the code of {', '.join(own)} has changed since these weights were "
            "trained. Bring it back, or train with the new code and promote again."
        )
    network = build_network(h, n_items)
    network.load_state_dict(load_file(weights))
    return network.eval()


class PackedModel:
    """A network with its items, ready to be asked. Made by `load`."""

    def __init__(self, network: Network, items: pl.DataFrame, facts: dict[str, Any]) -> None:
        """
        Args:
            network: in evaluation mode.
            items: `item` 1..n in order, `source_id`, and `count`: how often it was chosen.
            facts: the content of `champion.json`.
        """
        self.network, self.items, self.facts = network, items, facts
        self.names = items["source_id"]
        self.everything = self._candidates(np.ones(items.height, bool))

    @cached_property
    def number(self) -> dict[str, int]:
        """Item numbers by the source's ids."""
        return dict(zip(self.names, self.items["item"], strict=True))

    @classmethod
    def load(cls, folder: Path) -> "PackedModel":
        """The model that is packed in the folder, on the CPU. Nothing is unpickled.

        Raises:
            ModelUnusable: a file is missing or damaged, or they do not fit together.
        """
        try:
            facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
            items = pl.read_parquet(folder / ITEMS)
            h = Hyperparameters(**facts["hyperparameters"])
            network = read_network(h, items.height, folder / WEIGHTS)
        except (
            ConfigError,
            OSError,
            SafetensorError,
            ValueError,
            KeyError,
            RuntimeError,
            pl.exceptions.PolarsError,
        ) as error:
            raise ModelUnusable(
                f"{folder} holds no usable model: {str(error).partition(chr(10))[0]}"
            ) from error
        return cls(network, items, facts)

    def candidates(
        self, allow: Sequence[str] | pl.Series | None, block: Sequence[str] | pl.Series | None
    ) -> Candidates:
        """The items of `allow` (None: all) without those of `block`, by the source's ids."""
        kept = np.ones(len(self.names), bool)
        if allow is not None:
            kept &= self.names.is_in(pl.Series(allow, dtype=pl.String).implode()).to_numpy()
        if block is not None:
            kept &= ~self.names.is_in(pl.Series(block, dtype=pl.String).implode()).to_numpy()
        return self._candidates(kept)

    def _candidates(self, kept: np.ndarray) -> Candidates:
        items = torch.from_numpy(np.flatnonzero(kept) + 1)
        column = torch.full((len(kept) + 1,), -1)
        column[items] = torch.arange(len(items))
        counts = torch.from_numpy(self.items["count"].to_numpy().astype(np.int64))[items - 1]
        weight = self.network.output_weights().detach()
        weight = weight if kept.all() else weight[items - 1]
        return Candidates(items, weight, column, counts.argsort(descending=True, stable=True))

    @torch.no_grad()
    def top(
        self,
        values: np.ndarray,
        offsets: np.ndarray,
        k: int,
        *,
        exclude_seen: bool = True,
        candidates: Candidates | None = None,
    ) -> Top:
        """The exact top k of each history; an empty one is answered by popularity.

        Args:
            values: (interactions,) item numbers 1..n, user after user, each chronological.
            offsets: (u + 1,) into `values`.
            k: at least 1.
            exclude_seen: never return an item of the user's history.
            candidates: default: all items.
        """
        pool = candidates or self.everything
        users = len(offsets) - 1
        found = Top(
            np.zeros((users, k), np.int64),
            np.full((users, k), np.nan, np.float32),
            np.diff(offsets) > 0,
        )
        if not len(pool.items):
            return found
        lengths = np.diff(offsets)
        asked = np.flatnonzero(lengths)
        asked = asked[np.argsort(lengths[asked], kind="stable")]  # blocks with little padding
        for start in range(0, len(asked), USERS_AT_ONCE):
            places = asked[start : start + USERS_AT_ONCE]
            hidden = self.network(self._inputs(values, offsets, places), last_only=True)[0]
            seen = _seen(values, offsets, places, pool) if exclude_seen else None
            scores, columns = top_k(hidden, pool.weight, k, seen)
            valid = scores > EXCLUDED
            width = scores.shape[1]
            found.items[places, :width] = torch.where(valid, pool.items[columns], 0).numpy()
            found.scores[places, :width] = torch.where(valid, scores, torch.nan).numpy()
        best = pool.items[pool.popular[:k]].numpy()
        found.items[np.flatnonzero(lengths == 0), : len(best)] = best
        return found

    def _inputs(self, values: np.ndarray, offsets: np.ndarray, places: np.ndarray) -> Tensor:
        """The last n items of these users, (L, u), right-aligned, 0 is padding."""
        lengths = np.minimum(offsets[places + 1] - offsets[places], self.network.n)
        back = np.arange(lengths.max(), 0, -1)[:, None]
        inputs = values[np.maximum(offsets[places + 1] - back, 0)]
        return torch.from_numpy(np.where(back <= lengths, inputs, 0).astype(np.int64))


def _seen(
    values: np.ndarray, offsets: np.ndarray, places: np.ndarray, pool: Candidates
) -> tuple[Tensor, Tensor]:
    """Row and candidate column of every item in these users' whole histories."""
    lengths = offsets[places + 1] - offsets[places]
    ends = np.cumsum(lengths)
    flat = np.repeat(offsets[places] - (ends - lengths), lengths) + np.arange(ends[-1])
    rows = torch.from_numpy(np.repeat(np.arange(len(places)), lengths))
    columns = pool.column[torch.from_numpy(values[flat])]
    there = columns >= 0
    return rows[there], columns[there]
