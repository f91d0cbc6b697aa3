"""Runs that a command asks for: put into Dagster's queue, followed, and what became of them.

Here belongs what is the same on a laptop and on a cluster. Who starts the runs, and where, is the
launcher that the instance's `dagster.yaml` names.
"""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from fparec_pipeline.defs.news import read_news
from fparec_pipeline.defs.private import (
    JobPythonOrigin,
    LoadableTargetOrigin,
    ManagedGrpcPythonEnvCodeLocationOrigin,
    ModuleCodePointer,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
    RepositoryPythonOrigin,
)
from fparec_pipeline.defs.reasons import reason
from fparec_pipeline.running.context import Context
from fparec_pipeline.running.launcher import ForkingRunLauncher
from fparec_pipeline.running.liveness import ALIVE, alive
from fparec_pipeline.running.queue import LEFT, Queue
from fparec_pipeline.training.record import Progress

LOCATION = "fparec_pipeline.definitions"  # the code location's module, and its name in Dagster
POLL_SECONDS = 0.3
ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    place: int  # of its request among those that were asked for
    run: dg.DagsterRun
    error: str | None


def run_all(
    requests: Sequence[dg.RunRequest],
    context: Context,
    queue: Queue,
    *,
    jobs: int,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Iterator[Ended]:
    """Put runs into the queue, `jobs` of them at a time; yields each as it ends.

    Leaving before the end cancels what is going on or waits.

    Args:
        requests: in this order.
        context: whose instance has the queue.
        queue: that of the context's instance.
        jobs: how many may wait or go on at once.
        on_progress: told of the newest epoch of each trial now and then.
    """
    waiting, going = deque(enumerate(requests)), dict[str, int]()
    with alive(context.data) as holder:  # when this process dies, what waits is nobody's
        try:
            while waiting or going:
                while waiting and len(going) < jobs:
                    place, request = waiting.popleft()
                    run_id = _submit(request, context, holder)
                    going[run_id] = place
                    queue.own.add(run_id)
                queue.step()
                for progress in (p for run in going for p in read_news(context.data, run)):
                    on_progress(progress)
                ended = dg.RunsFilter(run_ids=list(going), statuses=list(ENDED))
                for run in context.instance.get_runs(ended):
                    if LEFT in run.tags and not run.is_success:
                        place = going.pop(run.run_id)  # resumed from its last checkpoint
                        waiting.appendleft((place, requests[place]))
                        continue
                    error = None if run.is_success else reason(context.instance, run)
                    yield Ended(going.pop(run.run_id), run, error)
                time.sleep(POLL_SECONDS)
        finally:
            for run_id in going:
                context.instance.run_coordinator.cancel_run(run_id)


def _submit(request: dg.RunRequest, context: Context, holder: Path) -> str:
    """Put one run into the queue; its id."""
    name, assets = str(request.job_name), request.asset_selection or []
    job = context.repository.get_job(name)
    partitions = job.asset_layer.get(assets[0]).partitions_def
    # A cluster's runs outlive the command that asked for them.
    here = isinstance(context.instance.run_launcher, ForkingRunLauncher)
    tags = {**({ALIVE: str(holder)} if here else {}), **request.tags}
    if request.partition_key and partitions:
        tags |= partitions.get_tags_for_partition_key(request.partition_key)
    run = context.instance.create_run_for_job(
        job_def=job,
        run_config=request.run_config,
        tags=tags,
        asset_selection=set(assets),
        remote_job_origin=_remote_origin(name),
        job_code_origin=_code_origin(name),
    )
    nothing: Any = None  # a workspace, of which the queue makes no use
    context.instance.submit_run(run.run_id, nothing)
    return run.run_id


def _remote_origin(job: str) -> RemoteJobOrigin:
    """The job as the page knows it."""
    target = LoadableTargetOrigin(module_name=LOCATION)
    location = ManagedGrpcPythonEnvCodeLocationOrigin(target, LOCATION)
    return RemoteJobOrigin(RemoteRepositoryOrigin(location, "__repository__"), job)


def _code_origin(job: str) -> JobPythonOrigin:
    """The job as a run's process loads it."""
    pointer = ModuleCodePointer(LOCATION, "defs")
    return JobPythonOrigin(job, RepositoryPythonOrigin(sys.executable, pointer, entry_point=None))
