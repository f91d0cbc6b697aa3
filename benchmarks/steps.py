"""Where an epoch's time goes: batch, forward, loss, backward and Adam, in seconds.

Runs the trainer's steps of one epoch twice and prints the second. Usage: python benchmarks/steps.py
[--model fparec] [--dataset beauty] [--threads 1]
"""

import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import torch
import typer
from bench import splits_of
from rich.console import Console
from rich.table import Table

from fparec_pipeline.config import load_config
from fparec_pipeline.models.networks import Network, build_network
from fparec_pipeline.training.batches import Batches
from fparec_pipeline.training.losses.cross_entropy import cross_entropy

STAGES = ("batch", "forward", "loss", "backward", "Adam")


class Clock:
    """Seconds by part."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - started


def epoch(model: Network, optimizer: torch.optim.Adam, batches: Batches, number: int) -> Clock:
    """One epoch of steps, as `run_trial` does them."""
    clock, scale = Clock(), 1 / batches.targets_per_step
    steps = batches.epoch(0, number)
    while True:
        with clock("batch"):
            batch = next(steps, None)
        if batch is None:
            return clock
        items, targets = batch
        with clock("forward"):
            hidden, wanted = model(items)[targets != 0], targets[targets != 0] - 1
        with clock("loss"):
            loss = cross_entropy(hidden, model.output_weights(), wanted, scale)
        with clock("backward"):
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
        with clock("Adam"):
            optimizer.step()


def main(
    model: Annotated[str, typer.Option(help="An arm with the full cross-entropy.")] = "fparec",
    dataset: Annotated[str, typer.Option(help="Its published file.")] = "beauty",
    threads: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    """Print one epoch's seconds by part."""
    torch.set_num_threads(threads)
    h = load_config().trial(dataset, model, 0).hyperparameters
    splits = splits_of(dataset)
    batches = Batches(splits, h.n, h.batch_size)
    network = build_network(h, splits.n_items).train()
    adam = torch.optim.Adam(network.parameters(), h.learning_rate, (0.9, h.beta2), fused=True)
    epoch(network, adam, batches, 1)
    seconds = epoch(network, adam, batches, 2).seconds
    table = Table("model", "threads", *STAGES, "epoch")
    cells = [f"{seconds[part]:.2f}" for part in STAGES]
    table.add_row(model, str(threads), *cells, f"{seconds.total():.2f}")
    Console(width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == "__main__":
    typer.run(main)
