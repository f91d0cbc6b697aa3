"""Who is told while a run trains: Dagster's log, MLflow, and whoever follows the run.

Here belongs the observer of the trials of a run. What a trial is belongs to `training/`.
"""

import logging
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from fparec_pipeline.defs.news import News
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training.record import Progress

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LOG_SECONDS = 5.0  # a line of Dagster's log is a row of its database


class Reporter:
    """Tells of epochs, and keeps the MLflow runs of a Dagster run's trials equal to the folders."""

    def __init__(
        self, data: DataRoot, run_id: str, log: logging.Logger, received: Sequence[int] = ()
    ) -> None:
        from fparec_pipeline.tracking import MachineMonitor, Tracker

        self.tracker = Tracker(None, data)
        self.machine = MachineMonitor(self.tracker)
        self.tags = {"dagster_run_id": run_id}
        self.news, self.log, self.logged = News(data, run_id), log, 0.0
        self.received = received  # interrupts that should have ended the run

    def on_epoch(self, progress: Progress) -> None:
        if self.received:
            signal.raise_signal(self.received[0])
        self.news.tell(progress)
        if time.monotonic() - self.logged > LOG_SECONDS:
            self.logged = time.monotonic()
            self.log.info(
                f"{progress.trial}: {progress.words} on validation, of at most "
                f"{progress.max_epochs} epochs (best {progress.best_epoch}), "
                f"{progress.targets_per_second:,.0f} targets/s"
            )

    def on_checkpoint(self, folder: Path) -> None:
        self.sync(folder)

    def sync(self, folder: Path) -> str | None:
        """The id of the trial's MLflow run, brought up to date; None without MLflow."""
        with uninterrupted():
            run_id = self.tracker.sync_trial(folder, self.tags)
            if run_id:
                self.machine.follow(run_id)
            return run_id

    def settle_interrupted(self) -> None:
        with uninterrupted():
            self.tracker.settle_interrupted()


@contextmanager
def reporting(data: DataRoot, run_id: str, log: logging.Logger) -> Iterator[Reporter]:
    """The reporter of a run that trains: however that ends, nobody who follows is misled."""
    with _heeded() as received:
        reporter = Reporter(data, run_id, log, received)
        try:
            yield reporter
        except BaseException:  # a run that was cancelled too: MLflow must not say RUNNING for ever
            reporter.settle_interrupted()
            raise
        finally:
            reporter.machine.end()
            reporter.news.remove()


@contextmanager
def _heeded() -> Iterator[list[int]]:
    """The SIGINTs and SIGTERMs that arrive inside of the block, beside what they do anyway.

    Dagster answers them with an exception at whatever line runs. In a weak reference's callback it
    is lost; the reporter then raises it again, at the end of the epoch.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        handler = handlers[number]
        if callable(handler):
            handler(number, frame)

    noted = [number for number in SIGNALS if callable(handlers[number])]
    for number in noted:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number in noted:
            signal.signal(number, handlers[number])


@contextmanager
def uninterrupted() -> Iterator[None]:
    """SIGINT and SIGTERM wait until the block is left, and count then.

    Dagster raises them at whatever line runs. Inside of SQLAlchemy that leaves a transaction open,
    whose lock nobody can take, or the exception is lost in a weak reference's callback.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers run, and can be replaced, in the main thread only
        return
    received: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, frame: received.append(number))
        for number in SIGNALS
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])
