"""RePlay's SasRec under Lightning's `predict`, with its callback for the top k of unseen items.

Usage (in RePlay's environment): as own_recommend.py
"""

import logging
import sys
import time
from importlib.metadata import version
from pathlib import Path

from gate import LIGHTNING, Gate

gate = Gate()

import lightning  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from replay.data.nn import ParquetModule  # noqa: E402
from replay.nn.lightning import LightningModule  # noqa: E402
from replay.nn.lightning.callback import PandasTopItemsCallback  # noqa: E402
from replay.nn.lightning.postprocessor import SeenItemsFilter  # noqa: E402
from replay.nn.transform.template import make_default_sasrec_transforms  # noqa: E402
from replay_model import BATCH, N, network, schema_of  # noqa: E402

gate.imported()
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

folder = Path(sys.argv[1])
n_items, asked, threads = map(int, sys.argv[2:])
torch.set_num_threads(threads)
torch.manual_seed(0)
table = pd.read_parquet(folder / "histories.parquet").head(asked)
table["seen_ids"] = table["item_id"]
longest = int(table["item_id"].map(len).max())
table.to_parquet(folder / "replay.parquet")
schema = schema_of(n_items)
padded = {"padding": n_items}
module = ParquetModule(
    batch_size=BATCH,
    metadata={
        "predict": {
            "user_id": {},
            "item_id": {"shape": N, **padded},
            "seen_ids": {"shape": longest, **padded},
        }
    },
    transforms=make_default_sasrec_transforms(schema),
    predict_path=str(folder / "replay.parquet"),
)
model = LightningModule(network(schema))


def recommend() -> dict[str, float]:
    started = time.perf_counter()
    top = PandasTopItemsCallback(
        top_k=10,
        query_column="user_id",
        item_column="item_id",
        postprocessors=[SeenItemsFilter(n_items)],
    )
    trainer = lightning.Trainer(callbacks=[top], inference_mode=True, **LIGHTNING)
    trainer.predict(model, datamodule=module, return_predictions=False)
    found = top.get_result()
    return {"seconds": time.perf_counter() - started, "rows": len(found)}


gate.evaluate = recommend
gate.ready(
    versions=f"RePlay {version('replay-rec')}, torch {torch.__version__}",
    threads=torch.get_num_threads(),
)
