"""Which runs are going on in truth: whose process lives.

A run holds an flock while it lasts. The kernel frees it when the process dies, however it dies:
that is how a run that Dagster still shows as started is known to have ended. A run that waits in
the queue is held by the command that asked for it. A cluster's runs hold none, and are left to
Dagster's own monitoring.

Here belongs whether a run's process lives. How one is started and ended belongs to `launcher.py`.
"""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from fparec_pipeline.datasets.locks import is_held, locked
from fparec_pipeline.defs.automation import in_progress
from fparec_pipeline.paths import DataRoot

# A run's tag: the file that the run's process keeps locked. Dagster's page does not show it.
ALIVE = ".dagster/fparec_alive"


def alive_folder(data: DataRoot) -> Path:
    """Where the files of this data root's runs lie."""
    return data.dagster_home.resolve() / "alive"


@contextmanager
def alive(data: DataRoot) -> Iterator[Path]:
    """A file that this process keeps locked inside the context, and then removes; it names it."""
    folder = alive_folder(data)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{uuid.uuid4().hex}.lock"
    try:
        with locked(path):
            path.write_text(str(os.getpid()))  # whom a click on *Terminate* ends
            yield path
    finally:
        path.unlink(missing_ok=True)


def settle_dead_runs(on: dg.DagsterInstance, data: DataRoot) -> int:
    """Mark the runs failed that Dagster shows as going on though their process has died.

    Runs of another data root with the same Dagster database are left alone: their files may be on
    another machine.

    Returns:
        How many there were.
    """
    going = on.get_runs(dg.RunsFilter(statuses=in_progress()))
    own = [run for run in going if Path(run.tags.get(ALIVE, "")).parent == alive_folder(data)]
    dead = [run for run in own if not is_held(Path(run.tags[ALIVE]))]
    for run in dead:
        on.report_run_failed(run, "Its process ended before it did. The same command resumes it.")
    for path in alive_folder(data).glob("*.lock"):
        if not is_held(path):  # of killed processes
            path.unlink(missing_ok=True)
    return len(dead)
