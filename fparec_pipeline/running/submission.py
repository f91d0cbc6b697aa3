"""Runs that a command asks for: put into Dagster's queue, followed, and what became of them.

Here belongs what is the same on a laptop and on a cluster. Who starts the runs, and where, is the
launcher that the instance's `dagster.yaml` names.
"""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
from fparec_pipeline.running.context import Context
from fparec_pipeline.running.liveness import ALIVE, alive
from fparec_pipeline.running.queue import Queue
from fparec_pipeline.running.reasons import reason
from fparec_pipeline.training.record import Progress

LOCATION = "fparec_pipeline.definitions"  # the code location's module, and its name in Dagster
POLL_SECONDS = 0.3
ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


@dataclass(frozen=True, eq=False)
class Request:
    """A run that is asked for."""

    job: str
    assets: tuple[dg.AssetKey, ...]
    partitions: tuple[str, ...] = ()  # none, one, or the first to the last of a range
    config: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)  # shown in the page


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    request: Request
    run: dg.DagsterRun
    error: str | None


def run_all(
    requests: Sequence[Request],
    context: Context,
    queue: Queue,
    *,
    jobs: int,
    on_progress: Callable[[Progress], None],
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
    waiting, going = deque(requests), dict[str, Request]()
    with alive(context.data) as holder:  # when this process dies, what waits is nobody's
        try:
            while waiting or going:
                while waiting and len(going) < jobs:
                    request = waiting.popleft()
                    going[_submit(request, context, holder)] = request
                queue.step()
                for progress in (p for run in going for p in read_news(context.data, run)):
                    on_progress(progress)
                ended = dg.RunsFilter(run_ids=list(going), statuses=list(ENDED))
                for run in context.instance.get_runs(ended):
                    error = None if run.is_success else reason(context.instance, run)
                    yield Ended(going.pop(run.run_id), run, error)
                time.sleep(POLL_SECONDS)
        finally:
            for run_id in going:
                context.instance.run_coordinator.cancel_run(run_id)


def _submit(request: Request, context: Context, holder: Path) -> str:
    """Put one run into the queue; its id."""
    job = context.repository.get_job(request.job)
    run = context.instance.create_run_for_job(
        job_def=job,
        run_config=request.config,
        tags={ALIVE: str(holder), **_partition_tags(request, job), **request.tags},
        asset_selection=set(request.assets),
        remote_job_origin=_remote_origin(request.job),
        job_code_origin=_code_origin(request.job),
    )
    nothing: Any = None  # a workspace, of which the queue makes no use
    context.instance.submit_run(run.run_id, nothing)
    return run.run_id


def _partition_tags(request: Request, job: dg.JobDefinition) -> dict[str, str]:
    if not request.partitions:
        return {}
    first, last = request.partitions[0], request.partitions[-1]
    if first != last:
        return {
            "dagster/asset_partition_range_start": first,
            "dagster/asset_partition_range_end": last,
        }
    partitions = job.asset_layer.get(request.assets[0]).partitions_def
    return dict(partitions.get_tags_for_partition_key(first)) if partitions else {}


def _remote_origin(job: str) -> RemoteJobOrigin:
    """The job as the page knows it."""
    target = LoadableTargetOrigin(module_name=LOCATION)
    location = ManagedGrpcPythonEnvCodeLocationOrigin(target, LOCATION)
    return RemoteJobOrigin(RemoteRepositoryOrigin(location, "__repository__"), job)


def _code_origin(job: str) -> JobPythonOrigin:
    """The job as a run's process loads it."""
    pointer = ModuleCodePointer(LOCATION, "defs")
    return JobPythonOrigin(job, RepositoryPythonOrigin(sys.executable, pointer, entry_point=None))
