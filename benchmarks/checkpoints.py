"""What a checkpoint costs as the catalogue grows: to write it, to show its history, to load it.

    python benchmarks/checkpoints.py [--items 10000,100000,1000000]

One block of width 64, every parameter with its best copy and Adam's two moments, as in training.
Prints one JSON object a size.
"""

import argparse
import json
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import torch

from fparec_pipeline.config import load_config
from fparec_pipeline.models.networks import build_network
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from fparec_pipeline.training.record import CHECKPOINT, checkpoint_history
from fparec_pipeline.training.trial import checkpoint_interval


def measure(n_items: int) -> dict[str, float]:
    """Seconds and bytes of one checkpoint."""
    packaged = load_config(DataRoot.default()).trial("beauty", "fparec", 0).hyperparameters
    network = build_network(packaged.model_copy(update={"d": 64, "blocks": 1}), n_items)
    optimizer = torch.optim.Adam(network.parameters())
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    state = TrainingState(epoch=1, history=[{"epoch": 1, "loss": 2.5}])
    state.best_weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "generated" / "fparec" / "seed=0"
        folder.mkdir(parents=True)
        times = [time.perf_counter()]
        save_checkpoint(folder, state, network, optimizer, "attempt")
        times.append(time.perf_counter())
        checkpoint_history(folder)
        times.append(time.perf_counter())
        load_checkpoint(folder, network, optimizer, "attempt")
        times.append(time.perf_counter())
        write, show, load = (b - a for a, b in pairwise(times))
        return {
            "items": n_items,
            "megabytes": round((folder / CHECKPOINT).stat().st_size / 1e6, 1),
            "write_seconds": round(write, 3),
            "show_seconds": round(show, 4),
            "load_seconds": round(load, 3),
            "next_after_seconds": round(checkpoint_interval(write), 1),
        }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", default="10000,100000,1000000")
    for n_items in map(int, parser.parse_args().items.split(",")):
        print(json.dumps(measure(n_items)), flush=True)


if __name__ == "__main__":
    main()
