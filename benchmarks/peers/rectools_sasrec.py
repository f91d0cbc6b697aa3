"""RecTools' SASRecModel(loss="softmax"), trained by its own `fit` under PyTorch Lightning.

Usage (in RecTools' environment): rectools_sasrec.py <folder with train.csv> <threads>
"""

import logging
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gate import LIGHTNING, Gate

gate = Gate()

import pandas as pd  # noqa: E402
import pytorch_lightning as lightning  # noqa: E402
import torch  # noqa: E402
from rectools import Columns  # noqa: E402
from rectools.dataset import Dataset  # noqa: E402
from rectools.models import SASRecModel  # noqa: E402

gate.imported()
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

BATCH = 128  # sessions, its default


class Turns(lightning.Callback):
    """Passes the gate after each batch."""

    def on_train_start(self, trainer: Any, module: Any) -> None:
        gate.ready(
            versions=f"RecTools {version('rectools')}, torch {torch.__version__}",
            threads=torch.get_num_threads(),
            batch=f"{BATCH} users",
            epoch_targets=None,
        )

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        gate.batch(int((batch["y"] != 0).sum()), outputs["loss"].detach())


def trainer() -> lightning.Trainer:
    return lightning.Trainer(max_epochs=1000, callbacks=[Turns()], **LIGHTNING)


folder, threads = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(threads)
torch.manual_seed(0)
interactions = pd.read_csv(folder / "train.csv")
interactions.columns = [Columns.User, Columns.Item, Columns.Datetime]
interactions[Columns.Datetime] = pd.to_datetime(interactions[Columns.Datetime], unit="s")
interactions[Columns.Weight] = 1.0
SASRecModel(
    n_blocks=2,
    n_heads=1,
    n_factors=50,
    session_max_len=50,
    dropout_rate=0.5,
    loss="softmax",
    batch_size=BATCH,
    get_trainer_func=trainer,
).fit(Dataset.construct(interactions))
