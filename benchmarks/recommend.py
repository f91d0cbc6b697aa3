"""Batch recommending beside RecTools and RePlay: exact top 10 of every user, seen items left out.

    python benchmarks/recommend.py                      # Beauty's size, and 10⁶ items
    python benchmarks/recommend.py --peers "" --small   # a quick look

Prints tables and writes results/recommend.json. All recommend with SASRec of n 50, d 50, two
blocks and one head, whose weights are as initialised: speed does not depend on them. Histories
are drawn: each item of the catalogue is in one at least, because RecTools knows no others. Ours
includes writing the parquet file, with identifiers as text; the peers return a data frame.
Turns and ratios are as in bench.py: ours, then a peer, and the ratio within the pair.
"""

import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import polars as pl
import typer
from bench import console, cpu_marks, machine, others_share
from rich.table import Table
from workers import PEERS, Worker, WorkerFailed, environment

RESULTS = Path(__file__).parent / "results" / "recommend.json"
OWN = "own"
LENGTH = 20  # items of the longest half of the histories; the others have half as many


@dataclass(frozen=True)
class Size:
    """A catalogue, and for how many users something is recommended."""

    title: str
    users: int
    items: int
    asked: int


SIZES = (
    Size("Beauty's size", 22_363, 12_101, 22_363),
    Size("a million items", 70_000, 1_000_000, 256),
)
SMALL = (Size("small", 500, 2_000, 500),)


@dataclass
class Row:
    """One recommender at one size."""

    versions: str = ""
    seconds: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)  # a peer's seconds by ours, by pair
    memory_mib: float | None = None  # peak above the imports'
    reason: str = ""  # why it is not measured


def write_histories(size: Size, folder: Path) -> None:
    """histories.parquet (user_id, item_id as a list, from 0) and histories.csv, a row an item."""
    draw = np.random.default_rng(0)
    lengths = np.where(np.arange(size.users) % 2, LENGTH, LENGTH // 2)
    more = draw.integers(0, size.items, lengths.sum() - size.items)
    items = draw.permutation(np.concatenate([np.arange(size.items), more]))
    users = np.repeat(np.arange(size.users), lengths)
    table = pl.DataFrame({"user_id": users, "item_id": items})
    table.write_csv(folder / "histories.csv")
    lists = table.group_by("user_id", maintain_order=True).agg("item_id")
    lists.write_parquet(folder / "histories.parquet")


class Contest:
    """Our worker and the peers' at one size, by turns."""

    def __init__(self, size: Size, peers: list[str], rounds: int, threads: int, at: Path) -> None:
        self.size, self.peers, self.rounds = size, peers, rounds
        self.arguments = (at, size.items, size.asked, threads)
        self.rows = {name: Row() for name in (OWN, *peers)}
        self.workers: dict[str, Worker] = {}

    def run(self) -> None:
        try:
            for name in self.rows:
                with console.status(f"{self.size.title}: preparing {name}"):
                    self._try(name, self._start)
            for number in range(self.rounds):
                with console.status(f"{self.size.title}: round {number + 1} of {self.rounds}"):
                    self._round()
            for name in list(self.workers):
                self._try(name, self._remember)
        finally:
            for worker in self.workers.values():
                worker.stop()

    def _try(self, name: str, action: Callable[[str], object]) -> None:
        """A worker's failure becomes the reason in its row."""
        try:
            action(name)
        except WorkerFailed as error:
            self.rows[name].reason = str(error)
            if worker := self.workers.pop(name, None):
                worker.stop()

    def _start(self, name: str) -> None:
        """The worker prepared, and warm: the first call does not count."""
        if name == OWN:
            python: Path | str = sys.executable
        else:
            python = environment(name)
        script = f"{name}_recommend.py"
        worker = Worker(python, script, *self.arguments, folder=self.arguments[0])
        self.workers[name] = worker
        worker.ready()
        self.rows[name].versions = worker.facts["versions"]
        rows = worker.order("evaluate")["rows"]
        if rows != self.size.asked * 10:
            raise WorkerFailed(f"it gave {rows:,} rows for {self.size.asked:,} users")

    def _round(self) -> None:
        for name in self.peers or [OWN]:
            ours = self._seconds(OWN)
            if name == OWN or name not in self.workers:
                continue
            self._try(name, self._seconds)
            if name in self.workers and ours:
                self.rows[name].ratios.append(self.rows[name].seconds[-1] / ours)

    def _seconds(self, name: str) -> float:
        seconds: float = self.workers[name].order("evaluate")["seconds"]
        self.rows[name].seconds.append(seconds)
        return seconds

    def _remember(self, name: str) -> None:
        self.rows[name].memory_mib = self.workers[name].order("memory")["above_imports_mib"]


def table_of(contest: Contest, threads: int) -> Table:
    """A row for each recommender."""
    table = Table(title=f"Exact top 10, seen items left out, {threads} threads")
    for column in ("catalogue", "users", "recommender", "versions"):
        table.add_column(column)
    for column in ("seconds (min to max)", "users/s", "ratio", "MiB"):
        table.add_column(column, justify="right")
    size = contest.size
    for name, row in contest.rows.items():
        title = "this project" if name == OWN else PEERS[name].title
        head = (f"{size.items:,} items", f"{size.asked:,}", title, row.versions)
        if not row.seconds:
            table.add_row(*head, f"not measured: {row.reason}")
            continue
        middle = statistics.median(row.seconds)
        span = f"{middle:.2f} ({min(row.seconds):.2f} to {max(row.seconds):.2f})"
        ratio = f"{statistics.median(row.ratios):.1f} ×" if row.ratios else ""
        memory = "" if row.memory_mib is None else f"{row.memory_mib:,.0f}"
        table.add_row(*head, span, f"{size.asked / middle:,.0f}", ratio, memory)
    table.caption = "ratio: its time by ours, median over rounds, pair by pair. MiB: peak resident "
    table.caption += "above the imports', the preparation included."
    return table


def main(
    peers: Annotated[str, typer.Option(help="Comma-separated; empty: none.")] = "rectools,replay",
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each pair.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="Of every worker.")] = 1,
    small: Annotated[bool, typer.Option(help="A small catalogue only.")] = False,
) -> None:
    """This project's batch recommending beside RecTools' and RePlay's."""
    found = []
    for size in SMALL if small else SIZES:
        marks = cpu_marks()
        with tempfile.TemporaryDirectory() as folder:
            write_histories(size, Path(folder))
            names = [name for name in peers.split(",") if name]
            contest = Contest(size, names, rounds, threads, Path(folder))
            contest.run()
        noise = others_share(marks)
        console.print(table_of(contest, threads))
        if noise is not None:
            console.print(f"{noise:.0%} of the CPUs' time went to other processes.")
        rows = {name: asdict(row) for name, row in contest.rows.items()}
        found.append(asdict(size) | {"rows": rows, "other_processes_share": noise})
    if not small:
        result = {"machine": machine(), "threads": threads, "sizes": found}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
