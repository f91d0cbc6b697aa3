"""RePlay's SasRec with full cross-entropy (CE), trained under Lightning as its documentation shows.

Usage (in RePlay's environment): replay_sasrec.py <folder with train.parquet> <threads>
"""

import logging
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gate import Gate

gate = Gate()

import lightning  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from replay.data import FeatureHint, FeatureSource, FeatureType  # noqa: E402
from replay.data.nn import (  # noqa: E402
    ParquetModule,
    TensorFeatureInfo,
    TensorFeatureSource,
    TensorSchema,
)
from replay.nn.lightning import LightningModule  # noqa: E402
from replay.nn.sequential import SasRec  # noqa: E402
from replay.nn.transform.template import make_default_sasrec_transforms  # noqa: E402

gate.imported()
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

BATCH = 128  # users; RePlay has no default
N, D = 50, 50


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
schema = TensorSchema(
    TensorFeatureInfo(
        "item_id",
        is_seq=True,
        feature_type=FeatureType.CATEGORICAL,
        embedding_dim=D,
        padding_value=items,
        cardinality=items,
        feature_hint=FeatureHint.ITEM_ID,
        feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, "item_id")],
    )
)
module = ParquetModule(
    batch_size=BATCH,
    metadata={"train": {"item_id": {"shape": N + 1, "padding": items}}},
    transforms=make_default_sasrec_transforms(schema),
    train_path=str(folder / "train.parquet"),
)
model = SasRec.from_params(
    schema, embedding_dim=D, num_heads=1, num_blocks=2, max_sequence_length=N, dropout=0.5
)
lightning.Trainer(
    max_epochs=1000,
    accelerator="cpu",
    devices=1,
    callbacks=[Turns()],
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    limit_val_batches=0,
).fit(LightningModule(model), datamodule=module)
