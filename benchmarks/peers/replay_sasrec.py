"""RePlay's SasRec with full cross-entropy (CE), trained under Lightning as its documentation shows.

Usage (in RePlay's environment): replay_sasrec.py <folder with train.parquet> <threads>
"""

import logging
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gate import LIGHTNING, Gate

gate = Gate()

import lightning  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from replay.data.nn import ParquetModule  # noqa: E402
from replay.nn.lightning import LightningModule  # noqa: E402
from replay.nn.transform.template import make_default_sasrec_transforms  # noqa: E402
from replay_model import BATCH, N, network, schema_of  # noqa: E402

gate.imported()
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Turns(lightning.Callback):
    """Passes the gate after each batch."""

    def on_train_start(self, trainer: Any, module: Any) -> None:
        gate.ready(
            versions=f"RePlay {version('replay-rec')}, torch {torch.__version__}",
            threads=torch.get_num_threads(),
            batch=f"{BATCH} users",
            epoch_targets=None,
        )

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # RePlay also predicts each first item from padding alone, which is no target of ours.
        targets = batch["target_padding_mask"].squeeze(-1) & batch["padding_mask"]
        gate.batch(int(targets.sum()), outputs["loss"].detach())


folder, threads = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(threads)
torch.manual_seed(0)
items = int(pd.read_parquet(folder / "train.parquet")["item_id"].explode().max()) + 1
schema = schema_of(items)
module = ParquetModule(
    batch_size=BATCH,
    metadata={"train": {"item_id": {"shape": N + 1, "padding": items}}},
    transforms=make_default_sasrec_transforms(schema),
    train_path=str(folder / "train.parquet"),
)
lightning.Trainer(max_epochs=1000, callbacks=[Turns()], limit_val_batches=0, **LIGHTNING).fit(
    LightningModule(network(schema)), datamodule=module
)
