"""Materialises assets in this process, or trials in worker processes, on the persistent instance.

Notable:
* Short runs go through `dg.materialize` in process (about a second each, against ten for a run of
  its own), on the instance that `dagster dev` shows.
* Workers are spawned and watch their parent: when it dies, however it dies, they end.
* A trial that fails, or whose worker is killed, does not stop the others.
* A run holds an flock while it lasts. The kernel frees it when the process dies, however it dies:
  that is how `settle_dead_runs` knows a run that Dagster still shows as started.
"""

import logging
import multiprocessing
import os
import queue
import shutil
import signal
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager
from filelock import FileLock, Timeout

from fparec_pipeline.config import PACKAGE, Config, Trial, load_config
from fparec_pipeline.defs.automation import in_progress
from fparec_pipeline.defs.resources import Workspace
from fparec_pipeline.defs.training import data_version, places, trial_metadata
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training.record import Progress, TrialCorrupt, TrialRecord, read_record

logger = logging.getLogger(__name__)

DATA_VERSION = "dagster/data_version"  # a materialization's tag
ALIVE = "fparec/alive"  # a run's tag: the file that the run's process keeps locked
QUIET = {"console": {"config": {"log_level": "CRITICAL"}}}  # errors are returned, in one line
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


def prepare_dagster_home(data: DataRoot) -> Path:
    """The persistent DAGSTER_HOME of the data root, with the packaged `dagster.yaml`."""
    home = data.dagster_home
    home.mkdir(parents=True, exist_ok=True)
    target = home / "dagster.yaml"
    if not target.exists():
        shutil.copyfile(PACKAGE / "dagster.yaml", target)
    return home


@contextmanager
def instance(data: DataRoot) -> Iterator[dg.DagsterInstance]:
    """The persistent Dagster instance of the data root, or the one that DAGSTER_HOME names."""
    home = os.environ.get("DAGSTER_HOME") or str(prepare_dagster_home(data))
    # Else each run would start processes that copy this terminal's output to a file.
    no_copies = {"module": NoOpComputeLogManager.__module__, "class": "NoOpComputeLogManager"}
    ref = InstanceRef.from_dir(home, overrides={"compute_logs": no_copies})
    with dg.DagsterInstance.from_ref(ref) as opened:
        yield opened


def materialize(
    keys: Sequence[str],
    data: DataRoot,
    on: dg.DagsterInstance,
    *,
    partition: str | None = None,
    device: str = "auto",
    listener: Callable[[Progress], None] | None = None,
    ops: dict[str, Any] | None = None,
) -> str | None:
    """Materialise assets in this process; the error's text when one fails."""
    from fparec_pipeline.definitions import build_defs

    definitions = build_defs(data)
    assets = [asset for asset in definitions.assets or [] if isinstance(asset, dg.AssetsDefinition)]
    with _alive(data) as lock:
        result = dg.materialize(
            assets,
            selection=[dg.AssetKey(key.split("/")) for key in keys],
            instance=on,
            partition_key=partition,
            resources={
                "workspace": Workspace(data_root=str(data.root), device=device),
                "listener": listener or (lambda progress: None),
            },
            run_config={"loggers": QUIET, "ops": ops or {}},
            tags={ALIVE: str(lock)},
            raise_on_error=False,
        )
    return None if result.success else _reason(result)


@contextmanager
def _alive(data: DataRoot) -> Iterator[Path]:
    """A file that this process keeps locked inside the context, and then removes."""
    folder = data.dagster_home / "alive"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{uuid.uuid4().hex}.lock"
    with FileLock(path):
        yield path
    path.unlink(missing_ok=True)


def settle_dead_runs(on: dg.DagsterInstance) -> int:
    """Mark the runs failed that Dagster shows as going on though their process has died.

    Returns:
        How many there were.
    """
    going = on.get_runs(dg.RunsFilter(statuses=in_progress()))
    dead = [run for run in going if ALIVE in run.tags and not _is_held(Path(run.tags[ALIVE]))]
    for run in dead:
        on.report_run_failed(run, "Its process ended before it did. `fparec run` resumes it.")
        Path(run.tags[ALIVE]).unlink(missing_ok=True)
    return len(dead)


def _is_held(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        with FileLock(path, blocking=False):
            return False
    except Timeout:
        return True


def _reason(result: dg.ExecuteInProcessResult) -> str:
    """The messages of a failed run's checks, else of the error that ended it."""
    lines = [
        f"check {check.check_name} of {check.asset_key.to_user_string()} failed: "
        f"{check.metadata['message'].value}"
        for check in result.get_asset_check_evaluations()
        if not check.passed
    ]
    errors = [
        event.step_failure_data.error if event.is_step_failure else event.job_failure_data.error
        for event in result.all_events
        if event.is_step_failure or event.is_run_failure
    ]
    for error in errors:
        # Dagster's wrapping comes off; what our own errors were raised from says less than they.
        while error and error.cause and (error.cls_name or "").startswith("Dagster"):
            error = error.cause
        if error and not lines:
            lines.append(_plain(error.message))
    return "; ".join(lines) or "the run failed; see its page in Dagster"


def _plain(message: str) -> str:
    """An error's message, without the class where the error is one of ours."""
    kind, _, text = message.strip().partition(": ")
    return text if kind.startswith(PACKAGE.name + ".") and text else message.strip()


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
        key = (trial.dataset, trial.model, alone)
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
    config = load_config(data)
    asset, partition = places(config, trial.dataset, trial.model, trial.seed)[0]
    with instance(data) as on:
        error = materialize(
            [asset.to_user_string()],
            data,
            on,
            partition=partition,
            device=options.device,
            listener=_news.put,
            ops={"__".join(asset.path): {"config": {"retrain": options.retrain}}},
        )
        if error is None:  # show it in the other studies that have this arm
            report_missing([data.trial(trial.dataset, trial.model, trial.seed)], config, on)
        return error


def report_missing(folders: Sequence[Path], config: Config, on: dg.DagsterInstance) -> int:
    """Record finished trials that Dagster does not know, such as those copied in from elsewhere.

    Returns:
        How many materializations were recorded.
    """
    return sum(_report(folder, config, on) for folder in folders)


def _report(folder: Path, config: Config, on: dg.DagsterInstance) -> int:
    try:
        record = read_record(folder)
    except TrialCorrupt as error:
        logger.warning("Not shown in Dagster: %s", error)
        return 0
    if record is None or not record.trained:
        return 0
    return sum(
        _report_at(key, partition, folder, record, config, on)
        for key, partition in places(config, record.dataset, record.model, record.seed)
    )


def _report_at(
    key: dg.AssetKey,
    partition: dg.MultiPartitionKey,
    folder: Path,
    record: TrialRecord,
    config: Config,
    on: dg.DagsterInstance,
) -> bool:
    tags = {DATA_VERSION: data_version(record)}
    wanted = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[partition])
    known = [
        event.asset_materialization.tags or {}
        for event in on.fetch_materializations(wanted, limit=1).records
        if event.asset_materialization
    ]
    if known and known[0].get(DATA_VERSION) == tags[DATA_VERSION]:
        return False
    on.report_runless_asset_event(
        dg.AssetMaterialization(
            key,
            partition=partition,
            metadata=trial_metadata(folder, record, config.titles[record.model]),
            tags=tags,
        )
    )
    return True
