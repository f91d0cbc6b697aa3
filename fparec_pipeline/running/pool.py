"""Trials in worker processes.

Notable:
* Workers are spawned and watch their parent: when it dies, however it dies, they end.
* A trial that fails, or whose worker is killed, does not stop the others.
"""

import logging
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fparec_pipeline.config import Trial
from fparec_pipeline.defs.training import places
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.running.context import open_context
from fparec_pipeline.running.here import materialize
from fparec_pipeline.running.reporting import report_missing
from fparec_pipeline.training.record import Progress

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
STOP_SECONDS = 5.0
WORKER_KILLED = (
    "a training process was killed, for lack of memory most often, and this trial with it. "
    "The same command resumes it from its last checkpoint."
)


@dataclass(frozen=True)
class Options:
    """What a trial's materialisation is told beside the trial."""

    data_root: str
    device: str
    retrain: bool


@dataclass(frozen=True)
class Outcome:
    """How the materialisation of a trial ended."""

    trial: Trial
    error: str | None


def train(
    trials: Sequence[Trial],
    options: Options,
    workers: int,
    on_progress: Callable[[Progress], None],
) -> Iterator[Outcome]:
    """Materialise trials in `workers` processes; yields each as it ends.

    On CUDA the seeds of an arm go to one worker, which trains them as one stack. When a worker is
    killed, what was in progress fails, and new workers train the others.
    """
    waiting = deque(together(trials, options.device))
    while waiting:
        yield from _train_in_pool(waiting, options, workers, on_progress)


def _train_in_pool(
    waiting: deque[list[Trial]],
    options: Options,
    workers: int,
    on_progress: Callable[[Progress], None],
) -> Iterator[Outcome]:
    """Takes groups off `waiting` until none is left or a killed worker has broken the pool."""
    context = multiprocessing.get_context("spawn")
    news = context.Queue()
    with ProcessPoolExecutor(workers, context, _start_worker, (news, os.getpid())) as pool:
        pending: dict[Future[list[str | None]], list[Trial]] = {}
        broken = False
        try:
            while True:
                # No more than can run: a trial that waits in the pool could not be taken back.
                while waiting and not broken and len(pending) < workers:
                    try:
                        future = pool.submit(_train_group, waiting[0], options)
                        pending[future] = waiting.popleft()
                    except BrokenProcessPool:  # a worker that had nothing to do was killed
                        broken = True
                if not pending:
                    return
                done, _ = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                for progress in _drain(news):
                    on_progress(progress)
                for future in done:
                    group, failure = pending.pop(future), future.exception()
                    killed = isinstance(failure, BrokenProcessPool)
                    broken = broken or killed
                    reason = WORKER_KILLED if killed else str(failure)
                    errors = [reason] * len(group) if failure else future.result()
                    yield from map(Outcome, group, errors)
        except BaseException:
            _stop(multiprocessing.active_children())
            raise


def together(trials: Sequence[Trial], device: str) -> list[list[Trial]]:
    """The trials that one worker trains as one: on CUDA the seeds of an arm, else each alone."""
    if device in ("cpu", "mps"):
        return [[trial] for trial in trials]
    import torch

    if not torch.cuda.is_available():
        return [[trial] for trial in trials]
    from fparec_pipeline.training.stacked import is_stackable

    groups: dict[object, list[Trial]] = {}
    for trial in trials:
        alone = None if is_stackable(trial.hyperparameters) else trial.seed
        key = (trial.dataset, trial.arm, alone)
        groups.setdefault(key, []).append(trial)
    return list(groups.values())


def _stop(processes: Sequence[multiprocessing.process.BaseProcess]) -> None:
    """End the workers: a run that is interrupted says so to Dagster; who takes long is killed."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(STOP_SECONDS)
        process.kill()


def _drain(news: Any) -> Iterator[Progress]:
    while True:
        try:
            yield news.get_nowait()
        except queue.Empty:
            return


_news: Any = None  # of a worker: where its progress goes


def _start_worker(news: Any, parent: int) -> None:
    global _news
    _news = news
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides who ends, and when
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)  # nobody waits for this trial; its checkpoint resumes it


class _News:
    """Passes on the epochs of a stack's seeds."""

    def on_epoch(self, progress: Progress) -> None:
        _news.put(progress)

    def on_checkpoint(self, folder: Path) -> None:
        pass  # its asset, materialised once the folder is finished, tells MLflow


def _train_group(trials: list[Trial], options: Options) -> list[str | None]:
    """Materialise trials; several are trained as a stack first, and their assets find them done."""
    if len(trials) > 1:
        try:
            _train_stack(trials, options)
            options = replace(options, retrain=False)
        except Exception as error:
            logger.warning("Seed by seed, because the stack failed: %s", error)
    return [_train_one(trial, options) for trial in trials]


def _train_stack(trials: list[Trial], options: Options) -> None:
    from fparec_pipeline.datasets.splits import read_splits
    from fparec_pipeline.training.stacked import run_stacked

    data = DataRoot(Path(options.data_root))
    splits = read_splits(data.splits(trials[0].dataset))
    observers = {trial.seed: _News() for trial in trials}
    run_stacked(
        trials, splits, data, device=options.device, retrain=options.retrain, observers=observers
    )


def _train_one(trial: Trial, options: Options) -> str | None:
    data = DataRoot(Path(options.data_root))
    with open_context(data) as context:
        config = context.config
        asset, partition = places(config, trial.id)[0]
        error = materialize(
            [asset.to_user_string()],
            context,
            partition=partition,
            device=options.device,
            listener=_news.put,
            ops={"__".join(asset.path): {"config": {"retrain": options.retrain}}},
        )
        if error is None:  # show it in the other studies that have this arm
            report_missing([trial.id.folder(data)], config, context.instance)
        return error
