"""RecBole's SASRec with full cross-entropy, trained by RecBole's own `Trainer._train_epoch`.

RecBole makes a row of every prefix of a sequence, and a row has one target: rows are what is
counted. Batch sizes are RecBole's defaults.

Usage (in RecBole's environment): recbole_sasrec.py <folder with full.csv> <threads>
"""

import sys
import time
from pathlib import Path
from typing import Any

from gate import Gate

gate = Gate()

import pandas as pd  # noqa: E402
import recbole  # noqa: E402
import torch  # noqa: E402
from recbole.config import Config  # noqa: E402
from recbole.data import create_dataset, data_preparation  # noqa: E402
from recbole.model.sequential_recommender import SASRec  # noqa: E402
from recbole.trainer import Trainer  # noqa: E402
from recbole.utils import init_seed  # noqa: E402

gate.imported()


class Turns:
    """RecBole's data loader over and over, passing the gate after each batch."""

    shuffle = False  # the sampler inside shuffles; without this RecBole asks for a DDP sampler

    def __init__(self, loader: Any, losses: list[Any]) -> None:
        self.loader, self.losses = loader, losses

    def __iter__(self) -> Any:
        while True:
            for interaction in self.loader:
                yield interaction
                gate.batch(len(interaction), self.losses.pop())


folder, threads = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(threads)
atomic = folder / "recbole" / "beauty"
atomic.mkdir(parents=True, exist_ok=True)
pd.read_csv(folder / "full.csv").set_axis(
    ["user_id:token", "item_id:token", "timestamp:float"], axis=1
).to_csv(atomic / "beauty.inter", sep="\t", index=False)
config = Config(
    model="SASRec",
    dataset="beauty",
    config_dict={
        "data_path": str(atomic.parent),
        "checkpoint_dir": str(folder / "recbole"),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "TIME_FIELD": "timestamp",
        "MAX_ITEM_LIST_LENGTH": 50,
        "eval_args": {
            "split": {"LS": "valid_and_test"},
            "order": "TO",
            "group_by": "user",
            "mode": "full",
        },
        "metrics": ["Hit", "NDCG", "MRR"],
        "valid_metric": "NDCG@10",
        "loss_type": "CE",
        "train_neg_sample_args": None,
        "hidden_size": 50,
        "inner_size": 50,
        "n_layers": 2,
        "n_heads": 1,
        "use_gpu": False,
        "show_progress": False,
    },
)
init_seed(0, False)
dataset = create_dataset(config)
train_data, valid_data, _ = data_preparation(config, dataset)
model = SASRec(config, train_data.dataset)
trainer = Trainer(config, model)

losses: list[Any] = []
calculate_loss = model.calculate_loss


def keep_loss(interaction: Any) -> Any:
    loss = calculate_loss(interaction)
    losses.append(loss.detach())
    return loss


def evaluate() -> dict[str, Any]:
    started = time.perf_counter()
    result = trainer.evaluate(valid_data, load_best_model=False)
    seconds = time.perf_counter() - started
    model.train()
    return {"seconds": seconds, "users": len(valid_data.dataset), "metrics": dict(result)}


gate.evaluate = evaluate
gate.ready(
    versions=f"RecBole {recbole.__version__}, torch {torch.__version__}",
    threads=torch.get_num_threads(),
    batch=f"{config['train_batch_size']} rows",
    epoch_targets=len(train_data.dataset),
)
trainer._train_epoch(Turns(train_data, losses), 0, keep_loss)
