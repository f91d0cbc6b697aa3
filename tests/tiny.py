"""Splits and trials that train in a moment."""

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fparec_pipeline.config import Hyperparameters, Trial, load_config
from fparec_pipeline.datasets.splits import Splits, logical_hash
from fparec_pipeline.paths import DataRoot

PACKAGED = load_config(DataRoot(Path(__file__).parent))  # no overlay stands there

SMALL = {
    "n": 6,
    "d": 8,
    "k": 3,
    "blocks": 1,
    "learning_rate": 1e-2,
    "batch_size": 8,
    "min_epochs": 1,
    "max_epochs": 2,
    "patience": 100,
    "threads": 1,
}


def splits_of(sequences: Sequence[Sequence[int]], n_items: int = 0, name: str = "tiny") -> Splits:
    """Splits of whole histories: the last item is the test target, the one before validation's.

    `n_items` may be larger than the largest id: the others are items that nobody chose.
    """
    train = [list(sequence[:-2]) for sequence in sequences]
    splits = Splits(
        name=name,
        n_users=len(sequences),
        n_items=n_items or max(map(max, sequences)),
        train_items=np.array([item for items in train for item in items], np.int32),
        train_offsets=np.cumsum([0, *map(len, train)]).astype(np.int64),
        valid=np.array([sequence[-2] for sequence in sequences], np.int32),
        test=np.array([sequence[-1] for sequence in sequences], np.int32),
        stats={"dataset": name},
    )
    return rehashed(splits)


def rehashed(splits: Splits) -> Splits:
    """The splits with the data hash that belongs to their arrays."""
    stats = splits.stats | {"data_hash": logical_hash(splits)}
    return dataclasses.replace(splits, stats=stats)


def tiny_sequences(
    n_users: int = 40, n_items: int = 20, shortest: int = 4, longest: int = 14, seed: int = 0
) -> list[list[int]]:
    """Random walks over the items, mostly one step ahead: something to learn, with repeats."""
    draw = random.Random(seed)
    sequences = []
    for _ in range(n_users):
        items = [draw.randrange(n_items)]
        for _ in range(draw.randrange(shortest, longest + 1) - 1):
            far = draw.random() < 0.3
            items.append(draw.randrange(n_items) if far else (items[-1] + 1) % n_items)
        sequences.append([item + 1 for item in items])
    return sequences


def tiny_splits(
    n_users: int = 40,
    n_items: int = 20,
    shortest: int = 4,
    longest: int = 14,
    seed: int = 0,
    name: str = "tiny",
) -> Splits:
    """Splits of `tiny_sequences`, the same for the same arguments."""
    sequences = tiny_sequences(n_users, n_items, shortest, longest, seed)
    return splits_of(sequences, n_items, name)


def tiny_trial(model: str = "fparec", seed: int = 0, *, dataset: str = "tiny", **changes) -> Trial:
    """A trial of a packaged arm, shrunk to `SMALL` and then changed."""
    packaged = PACKAGED.trial("beauty", model, seed).hyperparameters.model_dump()
    hyperparameters = Hyperparameters(**packaged | SMALL | changes)
    return Trial(dataset=dataset, arm=model, seed=seed, hyperparameters=hyperparameters)
