"""The side-by-side benchmark: `make bench`. Prints one table and writes results/bench.json.

Notable:
* Workers are processes that wait for orders. A round gives each peer a turn of a few batches, right
  after a turn of ours (one epoch); a ratio is taken within the pair, and the figure is the median
  over the rounds, so that a machine that is slower for a while does not tilt it.
* First batches (ours: the first epoch) are left out. A ratio is printed only where the loss falls.
* All trains on all of Beauty: n 50, d 50, two blocks, one head, full cross-entropy.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import parts
import polars as pl
import torch
import typer
from rich.console import Console
from rich.table import Table
from workers import PEERS, Worker, WorkerFailed, own_worker, peer_worker

from fparec_pipeline.config import load_config
from fparec_pipeline.datasets.files import DatasetError
from fparec_pipeline.datasets.sources import fetch_raw
from fparec_pipeline.datasets.splits import Splits, make_splits, read_splits
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training.batches import Batches
from fparec_pipeline.training.record import commit, hardware

DATASET = "beauty"
RESULTS = Path(__file__).parent / "results" / "bench.json"
WARM_UP_BATCHES = 3
TURN_SECONDS = 6.0  # of a peer in a round
RANKINGS = 3
ML_1M_ROUNDS = 2
OVERHEADS = (
    ("code_location_seconds", "loading the code location, interpreter included", "< 3 s"),
    ("materialization_seconds", "Dagster and MLflow, added to a trial", "< 2 s"),
    ("sync_seconds", "bringing a trial into MLflow", "< 2 s"),
)
GOALS = {"recbole": 25, "rectools": 40, "replay": 15}

console = Console(width=None if sys.stdout.isatty() else 180)
app = typer.Typer(pretty_exceptions_enable=False)


@dataclass
class Row:
    """One line of the training table."""

    title: str
    versions: str = ""
    threads: int = 0
    batch: str = ""
    targets: int = 0  # measured, without the first batches
    rates: list[float] = field(default_factory=list)  # targets a second, one a round
    losses: list[float] = field(default_factory=list)  # mean of a target, in nats, in order
    ratios: list[float] = field(default_factory=list)  # our SASRec's rate by this one's, by pair
    memory_mib: float | None = None  # peak above the imports'
    reason: str = ""  # why it is not measured

    @property
    def ratio(self) -> float | None:
        """The median over the pairs; None unless the loss falls."""
        falls = len(self.losses) > 1 and self.losses[-1] < self.losses[0]
        return statistics.median(self.ratios) if falls and self.ratios else None


def splits_of(dataset: str) -> Splits:
    """The splits on disk, made from the published file where they are missing."""
    data = DataRoot.default()
    try:
        return read_splits(data.splits(dataset))
    except DatasetError:
        configured = load_config(data).datasets[dataset]
        return make_splits(dataset, configured, fetch_raw(dataset, configured, data), data)


def export(splits: Splits, folder: Path) -> None:
    """What the peers read: train.csv, full.csv (user, item, position) and train.parquet (lists)."""
    lengths = np.diff(splits.train_offsets)
    users = np.arange(1, splits.n_users + 1)
    ends = splits.train_offsets[1:]
    train = pl.DataFrame({"user": np.repeat(users, lengths), "item": splits.train_items})
    longer = np.insert(splits.train_items, np.repeat(ends, 2), _pairs(splits.valid, splits.test))
    full = pl.DataFrame({"user": np.repeat(users, lengths + 2), "item": longer})
    for name, frame in (("train", train), ("full", full)):
        position = pl.int_range(pl.len()).over("user").alias("position")
        frame.with_columns(position).write_csv(folder / f"{name}.csv")
    zero_based = pl.col("item").cast(pl.Int64) - 1
    lists = train.group_by("user", maintain_order=True).agg(zero_based.alias("item_id"))
    lists.select("item_id").write_parquet(folder / "train.parquet")


def _pairs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.stack([first, second], 1).ravel()


class Contest:
    """Our workers and the peers' on one dataset, by turns. The first two rows are ours."""

    def __init__(self, dataset: str, peers: list[str], rounds: int, threads: int, at: Path) -> None:
        self.rounds, self.peers = rounds, peers
        self.rows = {"sasrec": Row("SASRec, this project"), "fparec": Row("FPARec, this project")}
        self.rows |= {name: Row(PEERS[name].title) for name in peers}
        self.workers: dict[str, Worker] = {}
        self.turn: dict[str, int] = {}  # batches in a turn
        self.large_matrix_rates: list[float] = []  # operations a second, one a turn of ours
        ours = {"sasrec": 1 + rounds * (1 + len(peers)), "fparec": 1 + rounds}  # epochs
        for name in self.rows:
            with console.status(f"{dataset}: preparing {name}"), self._reasons(name):
                if name in peers:
                    self._prepare(name, peer_worker(name, threads, at))
                else:
                    self._prepare(name, own_worker(dataset, name, ours[name], threads, at))

    @contextmanager
    def _reasons(self, name: str) -> Iterator[None]:
        """A worker's failure becomes the reason that stands in its row."""
        try:
            yield
        except WorkerFailed as error:
            self.rows[name].reason = str(error)
            if worker := self.workers.pop(name, None):
                worker.stop()

    def _prepare(self, name: str, worker: Worker) -> None:
        """Start a worker and let it do its first batches, which do not count.

        How many batches make a turn is asked of the second ones: in the first, some compile.
        """
        row = self.rows[name]
        self.workers[name] = worker
        worker.ready()
        row.versions, row.batch = worker.facts["versions"], worker.facts["batch"]
        row.threads = worker.facts["threads"]
        first = WARM_UP_BATCHES if name in self.peers else 1
        answer = worker.order(f"train {first}")
        self.turn[name] = 1
        if name in self.peers:
            row.losses.append(answer["loss"])
            seconds = worker.order(f"train {first}")["seconds"]
            self.turn[name] = max(1, round(TURN_SECONDS * first / seconds))

    def run(self) -> None:
        """All rounds; then memory, and the end of every process but RecBole's."""
        for number in range(self.rounds):
            for name in [name for name in self.rows if name != "sasrec"]:
                with console.status(f"round {number + 1} of {self.rounds}: {name}"):
                    self._pair(name)
        for name in list(self.workers):
            with self._reasons(name):
                self._end(name)

    def _pair(self, name: str) -> None:
        if name not in self.workers:
            return
        self.large_matrix_rates.append(parts.large_matrix_rate())
        ours, theirs = self._train("sasrec"), self._train(name)
        if ours and theirs:
            self.rows[name].ratios.append(ours / theirs)

    def _train(self, name: str) -> float | None:
        """One turn; targets a second, None where the worker has failed."""
        row = self.rows[name]
        with self._reasons(name):
            answer = self.workers[name].order(f"train {self.turn[name]}")
            row.rates.append(answer["targets"] / answer["seconds"])
            row.targets += answer["targets"]
            if answer["loss"] is not None:
                row.losses.append(answer["loss"])
            return row.rates[-1]
        return None

    def _end(self, name: str) -> None:
        row, worker = self.rows[name], self.workers[name]
        row.memory_mib = worker.order("memory")["above_imports_mib"]
        if name not in self.peers:
            row.losses = worker.order("finish")["losses"]
        if name != "recbole":
            worker.stop()

    def rank_by_turns(self, ours: parts.FullRanking) -> dict[str, Any] | None:
        """RecBole's full ranking of all users beside ours; None where RecBole has failed."""
        pairs = []
        with self._reasons("recbole"):
            for _ in range(RANKINGS if "recbole" in self.workers else 0):
                with console.status("full ranking: RecBole"):
                    own = parts.seconds_of(ours.rank)
                    pairs.append((own, self.workers["recbole"].order("evaluate")["seconds"]))
        if len(pairs) < RANKINGS:
            return None
        owns, theirs = (list(column) for column in zip(*pairs, strict=True))
        return {
            "seconds": statistics.median(theirs),
            "ratio": parts.median_ratio(theirs, owns),
        }

    def stop(self) -> None:
        """End whatever still runs."""
        for worker in self.workers.values():
            worker.stop()


def overheads(folder: Path) -> dict[str, float] | None:
    """What overheads.py prints; None, with its last words on the console, where it fails."""
    script = Path(__file__).parent / "overheads.py"
    done = subprocess.run(  # noqa: S603
        [sys.executable, str(script)], capture_output=True, text=True, cwd=folder, check=False
    )
    if done.returncode:
        console.print(f"overheads could not be measured: {done.stderr.strip()[-300:]}")
        return None
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def machine() -> dict[str, Any]:
    """Where and with what this ran."""
    return {
        "hardware": hardware("cpu"),
        "cpus": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit(),
    }


def cpu_marks() -> tuple[float, float, float] | None:
    """Seconds so far: wall clock, busy CPUs, this process and those it waited for. Linux only."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    user, nice, system, _, _, irq, soft_irq, *_ = map(int, stat.read_text().split()[1:9])
    busy = (user + nice + system + irq + soft_irq) / os.sysconf("SC_CLK_TCK")
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return time.perf_counter(), busy, sum(usage.ru_utime + usage.ru_stime for usage in usages)


def others_share(start: tuple[float, float, float] | None) -> float | None:
    """The share of all CPUs' time that other processes took since `start`: the noise."""
    end = cpu_marks()
    if not start or not end:
        return None
    seconds, busy, own = (now - then for now, then in zip(end, start, strict=True))
    return max(0.0, busy - own) / (seconds * (os.cpu_count() or 1))


def training_table(rows: dict[str, Row], targets: int, threads: int) -> Table:
    """The rows as a table."""
    table = Table(title=f"Training, all of Beauty, n 50, d 50, {threads} threads, full softmax")
    for column in ("", "versions", "batch", "loss"):
        table.add_column(column)
    per_epoch = f"s per {targets:,}"
    for column in ("targets/s", per_epoch, "measured", "ratio", "goal", "MiB"):
        table.add_column(column, justify="right")
    for name, row in rows.items():
        if not row.rates:
            table.add_row(row.title, f"not measured: {row.reason}")
            continue
        rate = statistics.median(row.rates)
        span = f"{rate:,.0f} ({min(row.rates):,.0f} to {max(row.rates):,.0f})"
        epochs = row.targets / targets
        measured = f"{epochs:.0f} epochs" if epochs >= 1 else f"{row.targets:,} targets*"
        loss = f"{row.losses[0]:.4f} → {row.losses[-1]:.4f}" if row.losses else "unknown"
        ratio = f"{row.ratio:.1f}" if row.ratio else "" if name == "sasrec" else "loss not falling"
        goal = f"≥ {GOALS[name]}" if name in GOALS else ""
        memory = f"{row.memory_mib:,.0f}" if row.memory_mib else ""
        seconds = f"{targets / rate:.1f}{'' if epochs >= 1 else '*'}"
        cells = (row.title, row.versions, row.batch, loss, span, seconds, measured)
        table.add_row(*cells, ratio, goal, memory)
    table.caption = (
        "ratio: SASRec of this project against the row, median over rounds, pair by pair. "
        "*: extrapolated from the batches measured. First batches are left out. MiB: peak "
        "resident above the imports'."
    )
    return table


def other_table(result: dict[str, Any]) -> Table:
    """Everything beside training, each with its goal."""
    table = Table("", "measured", "goal", title="Roofline, evaluation, mixers, overheads")
    roof = result["roofline"]
    rate = f"large matrices at {roof['gflops']:.0f} GFLOP/s"
    share = roof["loss"]
    table.add_row(
        "loss, share of roofline",
        f"{share['share_of_roofline']:.0%} ({share['seconds'] * 1e3:.1f} ms for {share['targets']} "
        f"targets; bound {share['roofline_seconds'] * 1e3:.1f} ms, {rate}; the three products "
        f"alone, in blocks: {share['three_products_seconds'] * 1e3:.1f} ms)",
        "≥ 60 %",
    )
    table.add_row(
        "epoch, share of roofline",
        f"{roof['epoch_share']:.0%} (bound {roof['epoch_seconds']:.2f} s)",
        "≥ 45 %",
    )
    ranking = result["ranking"]
    product = f"{ranking['seconds']:.2f} s; {ranking['ratio']:.2f} × its one matrix product"
    table.add_row("full ranking of all users", product, "≤ 3 ×")
    if theirs := ranking["recbole"]:
        ratio = f"RecBole {theirs['seconds']:.1f} s, {theirs['ratio']:.1f} × ours"
        table.add_row("full ranking of all users", ratio, "≥ 10 ×")
    if memory := result["memory_share_of_recbole"]:
        table.add_row("peak memory, share of RecBole's", f"{memory:.1%}", "≤ 20 %")
    for mixer in result["mixers"]:
        table.add_row(
            f"mixer, forward and backward, n {mixer['n']}",
            f"SASRec {mixer['sasrec_seconds'] * 1e3:.0f} ms, FPARec "
            f"{mixer['fparec_seconds'] * 1e3:.0f} ms: {mixer['ratio']:.2f} × faster",
            "≥ 2 ×",
        )
    if ratio := result["ml_1m_epoch_ratio"]:
        table.add_row("epoch on ML-1M, SASRec by FPARec", f"{ratio:.2f} × faster", "> 1 ×")
    if added := result["overheads"]:
        for key, title, goal in OVERHEADS:
            table.add_row(title, f"{added[key]:.2f} s", goal)
    return table


def measure(peers: list[str], rounds: int, threads: int, ml_1m: bool) -> dict[str, Any]:
    """The whole benchmark; prints the tables and returns the content of bench.json."""
    started, marks = time.perf_counter(), cpu_marks()
    torch.set_num_threads(threads)
    splits = splits_of(DATASET)
    h = load_config().trial(DATASET, "sasrec", 0).hyperparameters
    targets = Batches(splits, h.n, h.batch_size).targets_per_epoch
    with tempfile.TemporaryDirectory() as folder:
        export(splits, Path(folder))
        contest = Contest(DATASET, peers, rounds, threads, Path(folder))
        try:
            contest.run()
            ranking = parts.FullRanking(splits, h)
            evaluation = ranking.against_product() | {"recbole": contest.rank_by_turns(ranking)}
        finally:
            contest.stop()
        with console.status("loss, mixers"):
            loss = parts.loss_against_roofline(splits, h)
            mixers = [parts.mixers(n, h.d) for n in (200, 500)]
        with console.status("overheads"):
            added = overheads(Path(folder))
        ratio = ml_1m_ratio(threads, Path(folder)) if ml_1m else None
    rows = contest.rows
    gflops = statistics.median(contest.large_matrix_rates) / 1e9
    bound = parts.loss_operations(targets, splits.n_items, h.d) / (gflops * 1e9)
    recbole = rows["recbole"].memory_mib if "recbole" in rows else None
    own = rows["sasrec"].memory_mib
    result = {
        "machine": machine() | {"other_processes_share": others_share(marks)},
        "threads": threads,
        "targets_per_epoch": targets,
        "training": {
            name: asdict(row) | {"ratio": row.ratio, "extrapolated": row.targets < targets}
            for name, row in rows.items()
        },
        "roofline": {
            "gflops": gflops,
            "epoch_seconds": bound,
            "epoch_share": bound * statistics.median(rows["sasrec"].rates) / targets,
            "loss": loss,
        },
        "ranking": evaluation,
        "memory_share_of_recbole": own / recbole if own and recbole else None,
        "mixers": mixers,
        "ml_1m_epoch_ratio": ratio,
        "overheads": added,
    }
    result["seconds"] = time.perf_counter() - started
    console.print(training_table(rows, targets, threads))
    console.print(other_table(result))
    return result


def ml_1m_ratio(threads: int, folder: Path) -> float | None:
    """How much faster FPARec's epoch on ML-1M (n 200) is than SASRec's; None without the file."""
    try:
        splits_of("ml-1m")
    except DatasetError as error:
        console.print(f"ML-1M is not measured: {str(error).splitlines()[0]}")
        return None
    contest = Contest("ml-1m", [], ML_1M_ROUNDS, threads, folder)
    try:
        contest.run()
    finally:
        contest.stop()
    ratio = contest.rows["fparec"].ratio
    return 1 / ratio if ratio else None


@app.command()
def main(
    peers: Annotated[str, typer.Option(help="Comma-separated; empty: none.")] = ",".join(PEERS),
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each pair.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="Of every worker.")] = 2,
    ml_1m: Annotated[bool, typer.Option(help="Also the two epochs on ML-1M.")] = True,
) -> None:
    """This project beside its peers: one table, and results/bench.json.

    The peers' environments are made at the first run, which takes minutes and needs PyPI.
    """
    try:
        result = measure([name for name in peers.split(",") if name], rounds, threads, ml_1m)
    except DatasetError as error:
        console.print(str(error))
        raise typer.Exit(1) from error
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    where = result["machine"]
    others = where["other_processes_share"]
    noise = "" if others is None else f"; {others:.0%} of the CPUs' time went to other processes"
    console.print(
        f"{where['hardware']}, {where['cpus']} CPUs{noise}; {result['seconds']:.0f} s in all. "
        f"Written: {RESULTS}"
    )


if __name__ == "__main__":
    app()
