"""This project's batch recommending: `write_recommendations`, the parquet file included.

Usage: own_recommend.py <folder with histories.parquet> <items> <users asked> <threads>
"""

import sys
import time
from pathlib import Path

from gate import Gate

gate = Gate()

import numpy as np  # noqa: E402
import polars as pl  # noqa: E402
import torch  # noqa: E402

from fparec_pipeline.config import load_config  # noqa: E402
from fparec_pipeline.models.networks import build_network  # noqa: E402
from fparec_pipeline.serving.batch import Prepared, Wish, write_recommendations  # noqa: E402
from fparec_pipeline.serving.histories import Histories  # noqa: E402
from fparec_pipeline.serving.model import PackedModel  # noqa: E402

gate.imported()

folder = Path(sys.argv[1])
n_items, asked, threads = map(int, sys.argv[2:])
torch.set_num_threads(threads)
torch.manual_seed(0)

h = load_config().trial("beauty", "sasrec", 0).hyperparameters
numbers = pl.int_range(1, n_items + 1, eager=True)
items = pl.DataFrame({"item": numbers, "source_id": numbers.cast(pl.String), "count": numbers})
model = PackedModel(build_network(h, n_items), items, {})
table = pl.read_parquet(folder / "histories.parquet").head(asked)
lengths = table["item_id"].list.len().to_numpy()
histories = Histories(
    table["user_id"].cast(pl.String),
    table["item_id"].explode().to_numpy() + 1,
    np.concatenate([[0], lengths.cumsum()]).astype(np.int64),
    np.zeros(table.height, np.int64),
)
wish = Wish(k=10)


def recommend() -> dict[str, float]:
    target = folder / "own.parquet"
    started = time.perf_counter()
    write_recommendations(model, Prepared(histories, model.everything), wish, target)
    seconds = time.perf_counter() - started
    rows = pl.scan_parquet(target).select(pl.len()).collect().item()
    target.unlink()
    return {"seconds": seconds, "rows": rows}


gate.evaluate = recommend
gate.ready(versions="", threads=torch.get_num_threads())
