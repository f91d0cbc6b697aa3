"""Data roots with a user's own dataset `tiny`, on which every model trains in a moment."""

import csv
import random
from pathlib import Path

from fparec_pipeline.paths import DataRoot

USERS, ITEMS = 60, 20

DATASETS = """
[tiny]
core = 1
expected = {{ users = {users}, items = {items}, interactions = {interactions} }}
[tiny.sources.own]
reader = "csv"
address = "tiny.csv"
user = "who"
item = "what"
time = "when"
[tiny.hyperparameters]
n = 8
d = 8
k = 4
batch_size = 16
min_epochs = 1
max_epochs = {epochs}
patience = {epochs}
"""

STUDIES = """
[table_3]
datasets = ["tiny"]
[benchmark]
datasets = ["tiny"]
"""


def tiny_root(root: Path, *, epochs: int = 3, expected_users: int = USERS) -> DataRoot:
    """A data root whose studies `table_3` and `benchmark` are of `tiny` alone.

    Args:
        root: the folder, made when it is not there.
        epochs: how long each trial trains.
        expected_users: what the check of the splits' counts expects.
    """
    root.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)
    with (root / "tiny.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["who", "what", "when"])
        written = 0
        for user in range(USERS):
            item = draw.randrange(ITEMS)
            for _ in range(8 + user % 5):
                written += 1
                writer.writerow([f"user {user}", f"item {item}", written])
                item = draw.randrange(ITEMS) if draw.random() < 0.3 else (item + 1) % ITEMS
    counts = {"users": expected_users, "items": ITEMS, "interactions": written}
    (root / "datasets.toml").write_text(DATASETS.format(epochs=epochs, **counts))
    (root / "studies.toml").write_text(STUDIES)
    return DataRoot(root)
