"""Dagster's queue, served by this process while no daemon does.

Here belongs who takes runs off the queue; what is put into it stands in `submission.py`.
"""

import logging
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import dagster as dg
from filelock import FileLock, Timeout

from fparec_pipeline.defs.private import (
    QueuedRunCoordinatorDaemon,
    execute_run_monitoring_iteration,
)
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.running.context import Context
from fparec_pipeline.running.launcher import ForkingRunLauncher

LOGGER = logging.getLogger("dagster.daemon")
# A run's tag: the command that had started it has ended, whose run it was not.
LEFT = ".dagster/fparec_left"
HEARTBEAT_SECONDS = 60.0  # Dagster's daemon writes one every 30
KILLED = (
    "its process was killed, for lack of memory most often. "
    "The same command resumes it from its last checkpoint."
)


@dataclass(frozen=True)
class _Process:
    """What Dagster's dequeuer asks of the process that it runs in.

    Only a launcher that hands runs to code servers needs more; a daemon has to serve that one.
    """

    instance: dg.DagsterInstance

    def create_request_context(self) -> None:
        return None


class Queue:
    """Takes runs off the queue at every `step`, unless somebody else does; a context.

    A daemon that starts meanwhile takes over; when the process that serves the queue ends, another
    command that waits for its runs goes on serving it. On leaving, the runs that this process has
    started on this machine are ended; those that another command waits for are marked as LEFT, and
    that command asks for them again.
    """

    def __init__(self, context: Context) -> None:
        self._instance = context.instance
        launcher = context.instance.run_launcher
        self._launcher = launcher if isinstance(launcher, ForkingRunLauncher) else None
        self.own: set[str] = set()  # the runs that this process has asked for
        self._lock = queue_lock(context.data)
        self._dequeuer = QueuedRunCoordinatorDaemon(interval_seconds=1)
        self._monitored = time.monotonic()

    def __enter__(self) -> "Queue":
        LOGGER.setLevel(logging.CRITICAL)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()
        if self._launcher:
            for run_id in self._launcher.going() - self.own:
                self._instance.add_run_tags(run_id, {LEFT: "true"})
            self._launcher.stop_all()
            self._settle(self._launcher)

    def step(self) -> None:
        """Start what is due, and tell Dagster of processes that ended without telling it."""
        if self._launcher:
            self._settle(self._launcher)
        if not self._may_serve():
            return
        process: Any = _Process(self._instance)
        for _ in self._dequeuer.run_iteration(process):
            pass
        if self._launcher is None and self._is_time_to_monitor():
            for _ in execute_run_monitoring_iteration(process, LOGGER):
                pass

    def _is_time_to_monitor(self) -> bool:
        """On a cluster, whose processes only its launcher can tell about."""
        instance, now = self._instance, time.monotonic()
        if not instance.run_monitoring_enabled:
            return False
        if now - self._monitored < instance.run_monitoring_poll_interval_seconds:
            return False
        self._monitored = now
        return True

    def _may_serve(self) -> bool:
        if daemon_is_alive(self._instance):
            self._lock.release()
            return False
        try:
            self._lock.acquire()
        except Timeout:
            return False
        return True

    def _settle(self, launcher: ForkingRunLauncher) -> None:
        for run_id in launcher.ended():
            run = self._instance.get_run_by_id(run_id)
            if run and run.status == dg.DagsterRunStatus.CANCELING:
                self._instance.report_run_canceled(run)
            elif run and not run.is_finished:
                self._instance.report_run_failed(run, KILLED)


def warm_up(context: Context) -> None:
    """Have the launcher load what runs need, and do not wait for it."""
    if isinstance(context.instance.run_launcher, ForkingRunLauncher):
        context.instance.run_launcher.warm_up()


def queue_lock(data: DataRoot) -> FileLock:
    """Held by the process that takes runs off the queue."""
    data.dagster_home.mkdir(parents=True, exist_ok=True)
    return FileLock(
        data.dagster_home / "queue.lock", blocking=False, fallback_to_soft=False, is_singleton=False
    )


def daemon_is_alive(instance: dg.DagsterInstance) -> bool:
    """Whether a Dagster daemon has served this instance's queue within the last minute."""
    heartbeat = instance.get_daemon_heartbeats().get(QueuedRunCoordinatorDaemon.daemon_type())
    return heartbeat is not None and time.time() - heartbeat.timestamp < HEARTBEAT_SECONDS
