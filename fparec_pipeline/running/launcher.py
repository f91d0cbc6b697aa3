"""Dagster's run launcher for this machine: a run is a process forked from one that is warm.

Here belongs how a run's process is started, known to be alive, and ended. When and in what order
runs are started is the queue's business.

Notable:
* Named by the packaged `dagster.yaml`, so that runs of the command, the page and the schedule are
  started alike. A fresh process takes seconds to load torch and Dagster; a fork has them.
* A run's process holds an flock on `<data root>/dagster/alive/<run id>.lock` from before it is
  forked until it has ended. The file names the process, so that any other process can end it.
* A run's process ends with the process that launched it, however that one ends.
"""

import fcntl
import multiprocessing
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

import dagster as dg

from fparec_pipeline.datasets.locks import is_held
from fparec_pipeline.defs.private import (
    CheckRunHealthResult,
    ConfigurableClass,
    ConfigurableClassData,
    ExecuteRunArgs,
    LaunchRunContext,
    ResumeRunArgs,
    ResumeRunContext,
    RunLauncher,
    WorkerStatus,
)
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.running.liveness import ALIVE, alive_folder

# What a run needs and takes seconds to load. Not Polars, and so neither MLflow nor this package:
# it must not be forked (https://docs.pola.rs/user-guide/misc/multiprocessing/). A name that is not
# there is passed over.
PRELOAD = (
    "torch",
    "torch.optim.adam",
    "dagster._cli",
    "matplotlib.pyplot",
    "pandas",
    "alembic.command",
    "databricks.sdk",
    "docker",
    "fastapi",
    "google.protobuf",
)
STOP_SECONDS = 5.0
PATIENCE_SECONDS = 1.0


class ForkingRunLauncher(RunLauncher, ConfigurableClass):
    """Starts each run in a process forked from one that has loaded torch and Dagster."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        self._inst_data = inst_data
        self._processes: dict[str, BaseProcess] = {}  # of the runs launched by this object
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(PRELOAD))
        super().__init__()

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "ForkingRunLauncher":
        return cls(inst_data)

    def warm_up(self) -> None:
        """Start loading what runs need, and do not wait for it."""
        from multiprocessing import forkserver

        forkserver.ensure_running()

    def launch_run(self, context: LaunchRunContext) -> None:
        """Start the run's process; nothing when another launcher has started it already."""
        run = context.dagster_run
        self._start(run, ExecuteRunArgs)

    @property
    def supports_resume_run(self) -> bool:
        return True

    def resume_run(self, context: ResumeRunContext) -> None:
        """Start a process that goes on with a run whose process has died."""
        run = context.dagster_run
        self._start(run, ResumeRunArgs)

    def _start(
        self, run: dg.DagsterRun, arguments: type[ExecuteRunArgs] | type[ResumeRunArgs]
    ) -> None:
        if run.job_code_origin is None:
            raise dg.DagsterInvariantViolationError(
                f"run {run.run_id} does not say where its job is"
            )
        wanted = arguments(run.job_code_origin, run.run_id, self._instance.get_ref(), True)
        run_id, command, data = run.run_id, wanted.get_command_args(), DataRoot.default()
        path = lock_of(data, run_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        log = data.dagster_home / "logs" / f"{run_id}.log"
        log.parent.mkdir(exist_ok=True)
        lock = _locked(path)
        if lock is None:
            return
        try:
            os.ftruncate(lock, 0)  # of a process that has died
            self._instance.add_run_tags(run_id, {ALIVE: str(path)})
            process = self._context.Process(
                target=_run,
                args=(_Inherited(lock), path, log, list(command), dict(os.environ)),
                daemon=True,  # ended with this process
            )
            process.start()
            self._processes[run_id] = process
        finally:
            os.close(lock)

    def terminate(self, run_id: str) -> bool:
        """Tell the run's process to stop, whoever launched it on this machine."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        path = Path(run.tags.get(ALIVE, ""))
        if not is_held(path):
            self._instance.report_run_canceled(run, "Its process had ended before.")
            return True
        pid = _process_in(path)
        if pid is None:
            return False
        os.kill(pid, signal.SIGTERM)
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """By the lock that the run's process holds."""
        if is_held(Path(run.tags.get(ALIVE, ""))):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.FAILED, "its process has ended")

    def ended(self) -> list[str]:
        """The runs launched by this object whose processes have ended since the last call."""
        done = [run for run, process in self._processes.items() if process.exitcode is not None]
        for run in done:
            del self._processes[run]
        return done

    def going(self) -> set[str]:
        """The runs launched by this object whose processes have not ended."""
        return {run for run, process in self._processes.items() if process.exitcode is None}

    def stop_all(self) -> None:
        """End the processes of all runs launched by this object; who takes long is killed."""
        processes = list(self._processes.values())
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(STOP_SECONDS)
            process.kill()
            process.join()

    def dispose(self) -> None:
        self.stop_all()


def _locked(path: Path) -> int | None:
    """The descriptor of the file, locked; None when another process holds the lock.

    Somebody who only looks whether it is held holds it for an instant, and whoever sweeps up may
    remove it before it is locked.
    """
    last = time.monotonic() + PATIENCE_SECONDS
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and path.stat().st_ino == os.fstat(lock).st_ino:
                return lock
        except BlockingIOError:
            if time.monotonic() > last:
                os.close(lock)
                return None
        os.close(lock)
        time.sleep(0.01)


def _process_in(path: Path) -> int | None:
    """The process that a run's file names; a new one writes its number in a moment."""
    last = time.monotonic() + STOP_SECONDS
    while is_held(path):
        if (text := path.read_text()).isdigit():
            return int(text)
        if time.monotonic() > last:
            break
        time.sleep(0.05)
    return None


def lock_of(data: DataRoot, run_id: str) -> Path:
    """The file that the run's process keeps locked, and that holds its process id."""
    return alive_folder(data) / f"{run_id}.lock"


class _Inherited:
    """An open file that a child process has too, and with it its flock."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __reduce__(self) -> tuple[Any, ...]:
        return _inherit, (DupFd(self.descriptor),)


def _inherit(duplicate: Any) -> _Inherited:
    return _Inherited(duplicate.detach())


def _run(
    lock: _Inherited, path: Path, log: Path, command: list[str], environment: dict[str, str]
) -> None:
    """A run's process: what `python -m dagster api execute_run` does."""
    os.setsid()  # Ctrl-C in a terminal reaches who launched this process, who decides
    os.environ.clear()
    os.environ.update(environment)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.ftruncate(lock.descriptor, 0)
    os.write(lock.descriptor, str(os.getpid()).encode())
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(output, stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Runs of the page name `dagster` as what to call, those of the command `python -m dagster`.
    sys.argv = ["dagster", *command[command.index("api") :]]
    try:
        runpy.run_module("dagster", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code:
            raise
    finally:
        path.unlink()
    log.unlink()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)  # nobody waits for this run; its checkpoints resume it
