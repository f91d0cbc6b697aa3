"""Where an epoch's time goes: batch, forward, loss, backward and Adam, in seconds.

Runs the trainer's steps of one epoch twice and prints the second. Usage: python benchmarks/steps.py
[--model fparec] [--dataset beauty] [--threads 1] [--busy] [--give-back]
"""

import sys
import time
from collections import defaultdict
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
from fparec_pipeline.training.memory import keep_freed_memory

STAGES = ("batch", "forward", "loss", "backward", "Adam")


class Clock:
    """Seconds by part; of processor time on a `busy` machine."""

    def __init__(self, busy: bool) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.now = time.process_time if busy else time.perf_counter

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        started = self.now()
        yield
        self.seconds[part] += self.now() - started


def epoch(
    model: Network, optimizer: torch.optim.Adam, batches: Batches, number: int, clock: Clock
) -> Clock:
    """One epoch of steps, as `run_trial` does them."""
    scale = 1 / batches.targets_per_step
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
    busy: Annotated[
        bool, typer.Option(help="Processor time of all threads, where other work runs too.")
    ] = False,
    give_back: Annotated[
        bool, typer.Option(help="Give freed memory back to the system, as trials once did.")
    ] = False,
) -> None:
    """Print one epoch's seconds by part."""
    torch.set_num_threads(threads)
    if not give_back:
        keep_freed_memory()
    h = load_config().trial(dataset, model, 0).hyperparameters
    splits = splits_of(dataset)
    batches = Batches(splits, h.n, h.batch_size)
    network = build_network(h, splits.n_items).train()
    adam = torch.optim.Adam(network.parameters(), h.learning_rate, (0.9, h.beta2), fused=True)
    epoch(network, adam, batches, 1, Clock(busy))
    seconds = epoch(network, adam, batches, 2, Clock(busy)).seconds
    table = Table("model", "threads", *STAGES, "epoch")
    cells = [f"{seconds[part]:.2f}" for part in STAGES]
    table.add_row(model, str(threads), *cells, f"{sum(seconds.values()):.2f}")
    Console(width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == "__main__":
    typer.run(main)
