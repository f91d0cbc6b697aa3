"""What a CUDA GPU does with the trials: correct, fast, useful, each within a budget of seconds.

    python benchmarks/gpu.py correct --budget 60     # equal to the CPU, mixer by mixer
    python benchmarks/gpu.py fast --budget 90        # seconds an epoch, by what is switched on
    python benchmarks/gpu.py tiles --budget 60 --jobs 16  # the fused loss by the size of its tiles
    python benchmarks/gpu.py train table_3:ml-1m --budget 400 --jobs 4 --out results

`train` takes studies and datasets, or single trials (`ml-1m/parec_long/0`); the seeds of each arm
are one stack, or with `--alone` each a process of its own. `--jobs` of them run side by side, and
what has finished when the budget ends is exported to `--out`, for `fparec results import --from`.
What has not is packed there as it stands. Unpack it into `trials`, and `train` goes on with the
trials that are named; those that ended are not there, and would be trained again.
Every line is printed and appended to `<out>/<step>.jsonl` as it is known, so that a lease that ends
early loses nothing.

Needs torch with Triton, numpy, polars, pyarrow, pydantic, safetensors, filelock and scipy, the
splits in the data root (`$FPAREC_DATA`), and no network, Dagster or MLflow.
"""

import argparse
import json
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures import TimeoutError as BudgetSpent
from contextlib import contextmanager
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock

from fparec_pipeline.config import Config, ConfigError, Trial, known, load_config
from fparec_pipeline.datasets.splits import Splits, logical_hash, read_splits
from fparec_pipeline.models.networks import build_network
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.results.published import export_results
from fparec_pipeline.training import stacked
from fparec_pipeline.training.evaluation import EvaluationSet
from fparec_pipeline.training.record import (
    ATTEMPT,
    CHECKPOINT,
    WEIGHTS,
    Progress,
    hardware,
    sha256,
    versions,
)
from fparec_pipeline.training.stacked import run_stacked
from fparec_pipeline.training.trial import ranks_of, run_trial

Line = dict[str, Any]
SEEDS = (0, 1, 2)
PART_BYTES = 14 << 20  # of a tar file
# What the stack can switch off, for a comparison: attributes of `training.stacked`.
SWITCHES: dict[str, dict[str, Any]] = {
    "all": {},
    "no compile": {"COMPILES": False},
    "no fused loss": {"FUSES": False},
    "no graph": {"CAPTURES": False},
    "eager": {"COMPILES": False, "FUSES": False, "CAPTURES": False},
    "not repeatable": {"REPEATS": False},
    "tf32": {"PRECISION": "tf32"},
}


def trials_of(dataset: str, arm: str, seeds: Iterable[int], **changes: Any) -> list[Trial]:
    """The arm's trials with these hyper-parameters changed."""
    trials = [load_config().trial(dataset, arm, seed) for seed in seeds]
    return [
        t.model_copy(update={"hyperparameters": t.hyperparameters.model_copy(update=changes)})
        for t in trials
    ]


def few_users(splits: Splits, users: int) -> Splits:
    """The first users of a dataset, as a dataset of its own."""
    few = Splits(
        name=splits.name,
        n_users=users,
        n_items=splits.n_items,
        train_items=splits.train_items[: splits.train_offsets[users]],
        train_offsets=splits.train_offsets[: users + 1],
        valid=splits.valid[:users],
        test=splits.test[:users],
        stats={},
    )
    few.stats["data_hash"] = logical_hash(few)
    return few


@contextmanager
def scratch() -> Iterator[DataRoot]:
    """A data root that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield DataRoot(Path(folder))


# --- correct --------------------------------------------------------------------------------------


def correct(mixer_arm: str, device: str) -> Line:
    """One epoch without dropout: CPU alone, `device` alone and stacked, and the stack once more."""
    splits = few_users(read_splits(DataRoot.default().splits("ml-1m")), 1000)
    changes = {"n": 50, "k": 20, "dropout": 0, "max_epochs": 1, "min_epochs": 1, "threads": 2}
    trials = trials_of("ml-1m", mixer_arm, SEEDS, **changes)
    with scratch() as cpu, scratch() as alone, scratch() as stack, scratch() as again:
        wanted = run_trial(trials[0], splits, cpu, device="cpu")
        single = run_trial(trials[0], splits, alone, device=device)
        stacks = [run_stacked(trials, splits, data, device=device)[0] for data in (stack, again)]
        losses = [_loss(d, trials[0]) for d in (cpu, alone, stack)]
        weights = [sha256(_folder(d, trials[0]) / WEIGHTS) for d in (stack, again)]
        moved = _moved_ranks(trials[0], splits, cpu, device)
    key = "valid/ndcg_at_10"
    return {
        "arm": mixer_arm,
        "loss": losses[0],
        "loss_alone": losses[1] / losses[0] - 1,
        "loss_stacked": losses[2] / losses[0] - 1,
        "ndcg": wanted.metrics[key],
        "ndcg_alone": single.metrics[key] - wanted.metrics[key],
        "ndcg_stacked": stacks[0].metrics[key] - wanted.metrics[key],
        "ranks_moved": moved,
        "stack_repeats_bit_for_bit": weights[0] == weights[1],
    }


def _folder(data: DataRoot, trial: Trial) -> Path:
    return data.trial(*trial.id)


def _loss(data: DataRoot, trial: Trial) -> float:
    import polars as pl

    return float(pl.read_parquet(_folder(data, trial) / "history.parquet")["loss"][-1])


def _moved_ranks(trial: Trial, splits: Splits, data: DataRoot, device: str) -> int:
    """Of how many users the rank by the same weights differs between the CPU and `device`."""
    from safetensors.torch import load_file

    ranks = []
    for where in ("cpu", device):
        model = build_network(trial.hyperparameters, splits.n_items)
        model.load_state_dict(load_file(_folder(data, trial) / WEIGHTS))
        users = EvaluationSet(splits, "valid", trial.hyperparameters.n, where)
        ranks.append(ranks_of(model.to(where), users, trial, 1).kept)
    return int((ranks[0] != ranks[1]).sum())


# --- fast -----------------------------------------------------------------------------------------


class Clock:
    """Notes when an epoch's last seed has been validated."""

    def __init__(self, seeds: int) -> None:
        self.seeds, self.ticks, self.told = seeds, [time.perf_counter()], 0
        self.scores: list[float] = []

    def on_epoch(self, progress: Progress) -> None:
        self.told += 1
        self.scores.append(progress.valid_ndcg_at_10 or 0.0)
        if self.told % self.seeds == 0:
            self.ticks.append(time.perf_counter())

    def on_checkpoint(self, folder: Path) -> None:
        pass


class Told:
    """Prints every so many epochs."""

    def __init__(self, every: int) -> None:
        self.every, self.started = every, time.perf_counter()

    def on_epoch(self, p: Progress) -> None:
        if p.epoch % self.every == 1:
            seconds = time.perf_counter() - self.started
            print(f"  {p.trial} {p.words} {seconds:.0f} s", flush=True)

    def on_checkpoint(self, folder: Path) -> None:
        pass


def epochs(
    dataset: str, arm: str, device: str, switch: str = "all", seeds: int = 3, **changes: Any
) -> Line:
    """Seconds an epoch of so many stacked seeds, validation included; the first epoch compiles."""
    for name, value in SWITCHES[switch].items():
        setattr(stacked, name, value)
    splits = read_splits(DataRoot.default().splits(dataset))
    few = {"min_epochs": 4, "max_epochs": 4}
    trials = trials_of(dataset, arm, range(seeds), **(few | changes))
    clock = Clock(len(trials))
    told = dict.fromkeys(range(seeds), clock)
    with scratch() as data:
        run_stacked(trials, splits, data, device=device, observers=told)
    seconds = np.diff(clock.ticks)
    h = trials[0].hyperparameters
    return {
        "dataset": dataset,
        "arm": arm,
        "switch": switch,
        "seeds": seeds,
        "n": h.n,
        "d": h.d,
        "batch": h.batch_size,
        "first": seconds[0],
        "seconds": float(np.median(seconds[1:])),
        "ndcg": float(np.mean(clock.scores[-3:])),
    }


def losses(S: int, T: int, V: int, d: int) -> Line:
    """Milliseconds of loss and both gradients: ours, PyTorch's, and what libraries are there."""
    hidden = torch.randn(S, T, d, device="cuda", requires_grad=True)
    weight = torch.randn(S, V, d, device="cuda").mul_(0.1).requires_grad_()
    targets = torch.randint(V, (S, T), device="cuda")

    def run(loss: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(loss(), (hidden, weight))

    def plain() -> Any:
        scores = torch.bmm(hidden, weight.mT)
        return F.cross_entropy(scores.flatten(0, 1), targets.flatten(), reduction="sum")

    def liger() -> Any:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        loss = LigerFusedLinearCrossEntropyLoss(reduction="sum")
        return sum(loss(w, h, t) for h, w, t in zip(hidden, weight, targets, strict=True))

    def cce() -> Any:
        from cut_cross_entropy import linear_cross_entropy

        return sum(
            linear_cross_entropy(h, w, t, reduction="sum")
            for h, w, t in zip(hidden, weight, targets, strict=True)
        )

    def ours(precision: str, fuses: bool = True) -> Callable[[], Any]:
        def loss() -> Any:
            stacked.PRECISION, stacked.FUSES = precision, fuses
            return stacked.stacked_cross_entropy(hidden, weight, targets, 1.0).sum()

        return loss

    ways = {
        "fused tf32x3": ours("tf32x3"),
        "fused tf32": ours("tf32"),
        "fused ieee": ours("ieee"),
        "blocks": ours("tf32x3", False),
        "plain PyTorch": plain,
        "plain, compiled": torch.compile(plain),
        "liger": liger,
        "cut-cross-entropy": cce,
    }
    double = [t.detach().double().requires_grad_() for t in (hidden, weight)]
    scores = torch.bmm(double[0], double[1].mT).flatten(0, 1)
    exact = torch.autograd.grad(F.cross_entropy(scores, targets.flatten(), reduction="sum"), double)
    line: Line = {"S": S, "T": T, "V": V, "d": d}
    for name, way in ways.items():
        try:
            found = run(way)()
            error = max(float((a - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True))
            line[name] = f"{_milliseconds(run(way)):.3f} ms, error {error:.1e}"
        except Exception as error:
            line[name] = f"{type(error).__name__}: {str(error)[:120]}"
    return line


def _milliseconds(call: Callable[[], Any], repeats: int = 20) -> float:
    for _ in range(3):
        call()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return float(np.median(times))


def tiles(rows: int, items: int, warps: int, d: int = 50) -> Line:
    """Milliseconds a model of the fused loss, 8,000 positions of which 3,000 are targets.

    Alone, and of eight models at once: many processes that share the card. Kernels are compiled
    side by side and timed one after the other.
    """
    from fparec_pipeline.training import fused

    fused.NARROW = fused.WIDE = (rows, items, warps)
    line: Line = {"rows": rows, "items": items, "warps": warps, "d": d}
    for models in (1, 8):
        hidden = torch.randn(models, 8000, d, device="cuda")
        weight = torch.randn(models, 3416, d, device="cuda").mul_(0.1)
        targets = torch.randint(3416, (models, 8000), device="cuda")
        targets.view(models, 16, 500)[:, :, :313] = -1
        call = partial(fused.losses_and_gradients, hidden, weight, targets)
        call()
        with FileLock(Path(tempfile.gettempdir()) / "fparec-tiles.lock"):
            line[f"{models} at once"] = _milliseconds(call) / models
    return line


def ceilings() -> Line:
    """The card's own: bytes a second of a copy, float32 and TF32 arithmetic of a product."""
    a = torch.empty(1 << 28, device="cuda")
    b = torch.empty_like(a)
    copy = 2 * a.nbytes / _milliseconds(lambda: b.copy_(a)) / 1e9
    m = torch.randn(4096, 4096, device="cuda")
    line: Line = {"copy TB/s": copy}
    for precision in ("highest", "high"):
        torch.set_float32_matmul_precision(precision)
        line[f"product TFLOP/s {precision}"] = 2 * 4096**3 / _milliseconds(lambda: m @ m) / 1e9
    torch.set_float32_matmul_precision("highest")
    return line


# --- train ----------------------------------------------------------------------------------------


def train(dataset: str, arm: str, seeds: tuple[int, ...], device: str) -> Line:
    """A stack to its end, into the data root."""
    data = DataRoot.default()
    trials = [load_config(data).trial(dataset, arm, seed) for seed in seeds]
    started = time.perf_counter()
    observers = {seeds[0]: Told(every=10)}
    splits = read_splits(data.splits(dataset))
    records = run_stacked(trials, splits, data, device=device, observers=observers)
    return {
        "dataset": dataset,
        "arm": arm,
        "seconds": time.perf_counter() - started,
        "epochs": [r.epochs for r in records],
        "best": [r.best_epoch for r in records],
        "valid": [round(r.metrics["valid/ndcg_at_10"], 5) for r in records],
        "test": [round(r.metrics["test/ndcg_at_10"], 5) for r in records],
        "unseen": [round(r.metrics["test_unseen/ndcg_at_10"], 5) for r in records],
    }


Job = tuple[str, str, tuple[int, ...]]  # dataset, arm, seeds


def stacks_of(names: Iterable[str]) -> list[Job]:
    """The stacks of each "study:dataset" or "dataset/arm/seed", in order, each once."""
    config = load_config()
    found = []
    for name in names:
        for dataset, arm, seeds in _named(name, config):
            first = config.trial(dataset, arm, seeds[0])
            if stacked.is_stackable(first.hyperparameters):
                found.append((dataset, first.arm, seeds))
            else:
                print(f"{dataset}/{first.arm} cannot be stacked and is left out", flush=True)
    return list(dict.fromkeys(found))


def _named(name: str, config: Config) -> Iterator[Job]:
    if "/" in name:
        dataset, arm, seed = name.split("/")
        yield dataset, arm, (int(seed),)
        return
    study, _, dataset = name.partition(":")
    entry = config.studies[known(study, config.studies, "study")]
    known(dataset, config.datasets, "dataset")
    for arm in entry.arms:
        yield dataset, arm, entry.seeds


def alone(stacks: Iterable[Job]) -> list[Job]:
    """Each seed as a stack of its own."""
    return [(dataset, arm, (seed,)) for dataset, arm, seeds in stacks for seed in seeds]


def export(out: Path) -> None:
    """What has finished, as published results; beside it seed 0's weights and what has not."""
    data = DataRoot.default()
    checkpoints = sorted(data.trials.glob(f"*/*/seed=*/{CHECKPOINT}"))
    _pack(out, "unfinished", data, [c.with_name(n) for c in checkpoints for n in (ATTEMPT, c.name)])
    _pack(out, "weights", data, sorted(data.trials.glob(f"*/*/seed=0/{WEIGHTS}")))
    print(f"{len(checkpoints)} unfinished trials packed", flush=True)
    names = export_results(data, load_config(data), out / "published")
    with tarfile.open(out / "published.tar", "w") as tar:
        tar.add(out / "published", "published")
    print(f"{len(names)} trials exported")


def _pack(out: Path, name: str, data: DataRoot, files: Iterable[Path]) -> None:
    """Tar files of at most PART_BYTES, unless one file is larger, in the place of older ones."""
    for old in out.glob(f"{name}-*.tar"):
        old.unlink()
    number, size = 0, PART_BYTES
    for path in files:
        if size + path.stat().st_size > PART_BYTES:
            number, size = number + 1, 0
        with tarfile.open(out / f"{name}-{number}.tar", "a") as tar:
            tar.add(path, path.relative_to(data.trials))
        size += path.stat().st_size


# --- all steps ------------------------------------------------------------------------------------


class Pool:
    """Processes, one for each call, that end when the budget does; results noted as they come."""

    def __init__(self, step: str, jobs: int, budget: float, out: Path) -> None:
        self.step, self.out, self.end = step, out, time.monotonic() + budget
        self.pool = ProcessPoolExecutor(
            jobs, mp_context=get_context("spawn"), max_tasks_per_child=1
        )
        self.waiting: list[Future[Line]] = []

    def submit(self, function: Callable[..., Line], *arguments: Any, **changes: Any) -> None:
        self.waiting.append(self.pool.submit(_call, function, changes, *arguments))

    def results(self, seconds: float | None = None) -> Iterator[Line]:
        """Each result as it comes, until all have, or `seconds` from now, or the budget's end."""
        end = min(self.end, time.monotonic() + (seconds or 1e9))
        try:
            for done in as_completed(list(self.waiting), max(0.0, end - time.monotonic())):
                self.waiting.remove(done)
                line = done.result()
                print(json.dumps(line), flush=True)
                with (self.out / f"{self.step}.jsonl").open("a") as file:
                    file.write(json.dumps(line) + "\n")
                yield line
        except BudgetSpent:
            print(f"{self.step}: {len(self.waiting)} have not ended in time", flush=True)

    def kill(self) -> None:
        for process in list((self.pool._processes or {}).values()):
            process.kill()
        self.pool.shutdown(wait=False, cancel_futures=True)


def _call(function: Callable[..., Line], changes: Line, *arguments: Any) -> Line:
    """The function's line; its error as a line, so that the others go on."""
    try:
        return function(*arguments, **changes)
    except Exception as error:
        text = str(error).strip().splitlines()
        return {"failed": [function.__name__, *map(str, arguments)], "error": text[-5:]}


def main() -> None:
    """Run one step."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("step", choices=("correct", "fast", "tiles", "train"))
    parser.add_argument("studies", nargs="*", help="for train: study:dataset or dataset/arm/seed")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--alone", action="store_true", help="no stacks of several seeds")
    parser.add_argument("--budget", type=float, default=300, help="seconds")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gpu")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    where = {"device": hardware(options.device), "versions": versions()}
    print(json.dumps(where | {"cuda": torch.version.cuda}), flush=True)
    device = options.device
    pool = Pool(options.step, options.jobs, options.budget, options.out)
    arms = ("fparec", "sasrec", "linear_attention", "token_mixing", "parec")
    if options.step == "correct":
        for arm in (*arms, "average", "linear_annealing", "exponential_annealing", "parec_fast"):
            pool.submit(correct, arm, device)
    elif options.step == "fast":
        pool.submit(ceilings)
        for seeds in (3, 1):
            pool.submit(epochs, "ml-1m", "fparec", device, n=500, seeds=seeds)
        for arm in arms:
            pool.submit(epochs, "ml-1m", arm, device)
        for name in SWITCHES:
            pool.submit(epochs, "ml-1m", "fparec", device, name)
        pool.submit(epochs, "ml-1m", "sasrec", device, n=500)
        for arm in ("fparec", "sasrec"):
            pool.submit(epochs, "beauty", arm, device)
        for shape in ((3, 3200, 3416, 50), (1, 750, 12101, 50)):
            pool.submit(losses, *shape)
    elif options.step == "tiles":
        for rows, items, warps in product((32, 64), (32, 64), (4, 8)):
            pool.submit(tiles, rows, items, warps)
            pool.submit(tiles, rows, items, warps, d=128)
    else:
        try:
            stacks = stacks_of(options.studies)
        except ConfigError as error:
            parser.error(str(error))
        for stack in alone(stacks) if options.alone else stacks:
            pool.submit(train, *stack, device)
    for _ in pool.results():
        pass
    pool.kill()
    if options.step == "train":
        export(options.out)
    os._exit(0)  # processes that outlived the budget are killed, not waited for


if __name__ == "__main__":
    main()
