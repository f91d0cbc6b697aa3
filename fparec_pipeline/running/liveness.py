"""Which runs are going on in truth: whose process lives.

A run holds an flock while it lasts. The kernel frees it when the process dies, however it dies:
that is how a run that Dagster still shows as started is known to have ended.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from filelock import FileLock, Timeout

from fparec_pipeline.defs.automation import in_progress
from fparec_pipeline.paths import DataRoot

ALIVE = "fparec/alive"  # a run's tag: the file that the run's process keeps locked


@contextmanager
def alive(data: DataRoot) -> Iterator[Path]:
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
