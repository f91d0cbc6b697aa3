"""RecTools' `SASRecModel.recommend`, after one batch of training: it cannot without.

The loss is one that does not score the whole catalogue; recommending does not depend on it.

Usage (in RecTools' environment): as own_recommend.py
"""

import logging
import sys
import time
from importlib.metadata import version
from pathlib import Path

from gate import LIGHTNING, Gate

gate = Gate()

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import pytorch_lightning as lightning  # noqa: E402
import torch  # noqa: E402
from rectools import Columns  # noqa: E402
from rectools.dataset import Dataset  # noqa: E402
from rectools.models import SASRecModel  # noqa: E402

gate.imported()
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

folder = Path(sys.argv[1])
n_items, asked, threads = map(int, sys.argv[2:])
torch.set_num_threads(threads)
torch.manual_seed(0)


def trainer() -> lightning.Trainer:
    return lightning.Trainer(max_epochs=1, limit_train_batches=1, **LIGHTNING)


table = pd.read_csv(folder / "histories.csv")
table[Columns.Datetime] = pd.to_datetime(np.arange(len(table)), unit="s")
table[Columns.Weight] = 1.0
dataset = Dataset.construct(table)
model = SASRecModel(
    n_blocks=2,
    n_heads=1,
    n_factors=50,
    session_max_len=50,
    loss="BCE",
    n_negatives=1,
    recommend_torch_device="cpu",
    get_trainer_func=trainer,
).fit(dataset)
users = np.arange(asked)


def recommend() -> dict[str, float]:
    started = time.perf_counter()
    found = model.recommend(users, dataset, k=10, filter_viewed=True)
    return {"seconds": time.perf_counter() - started, "rows": len(found)}


gate.evaluate = recommend
gate.ready(
    versions=f"RecTools {version('rectools')}, torch {torch.__version__}",
    threads=torch.get_num_threads(),
)
