"""Packed models without a training: random weights, and items whose source ids are their own."""

import json
from pathlib import Path

import polars as pl
import torch
from safetensors.torch import save_file
from tiny import tiny_trial

from fparec_pipeline.models.network import Recommender
from fparec_pipeline.serving.model import FACTS, ITEMS, WEIGHTS, PackedModel


def name_of(item: int) -> str:
    """What the source calls item `item`."""
    return f"item {item}"


def packed_model(folder: Path, arm: str = "fparec", n_items: int = 30, **changes) -> PackedModel:
    """A model of random weights; item i was chosen (i · 7) mod 5 times."""
    folder.mkdir(parents=True, exist_ok=True)
    h = tiny_trial(arm, **changes).hyperparameters
    torch.manual_seed(0)
    network = Recommender(h, n_items)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        network.item_embedding.weight[0] = 0
    save_file(network.state_dict(), folder / WEIGHTS)
    numbers = range(1, n_items + 1)
    pl.DataFrame(
        {
            "item": numbers,
            "source_id": [name_of(i) for i in numbers],
            "count": [i * 7 % 5 for i in numbers],
        }
    ).write_parquet(folder / ITEMS)
    facts = {"dataset": "tiny", "model": arm, "fingerprint": "f" * 16, "commit": "c" * 40}
    (folder / FACTS).write_text(json.dumps(facts | {"hyperparameters": h.model_dump()}))
    return PackedModel.load(folder)
