"""Assets that a command materialises before and after the trials: data, results, champions.

Here belongs where that is done: in this process on one machine. On a cluster, results are rendered
here too, from small files; all else goes through the queue, so that its nodes load and write the
data. The trials' runs are `training.py`'s.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dagster as dg

from fparec_pipeline.defs.reasons import reason
from fparec_pipeline.running.context import Context
from fparec_pipeline.running.launcher import ForkingRunLauncher
from fparec_pipeline.running.liveness import ALIVE, alive
from fparec_pipeline.running.queue import Queue
from fparec_pipeline.running.submission import run_all
from fparec_pipeline.training.record import Progress

RENDERING = ("render_medians", "render_tables", "render_figures")  # jobs
QUIET = {"console": {"config": {"log_level": "CRITICAL"}}}  # errors are returned, in one line


def materialize(
    keys: Sequence[str],
    context: Context,
    job: str,
    *,
    partition: str | None = None,
    ops: Mapping[str, Any] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> str | None:
    """Materialise assets of a job; the error's text when one fails.

    On one machine they are a run in this process, and so is rendering anywhere: docs/scale.md has
    what that costs, and what a process of their own does. On a cluster, and where training is part
    of it and is followed, they are a run in the queue, as the trials are.

    Args:
        keys: the assets.
        context: whose instance says which launcher there is.
        job: the job that has them.
        partition: the dataset, where they have partitions.
        ops: the part of the run's configuration of that name: an asset's own.
        on_progress: told of the newest epoch now and then.
    """
    request = dg.RunRequest(
        job_name=job,
        asset_selection=[dg.AssetKey(key.split("/")) for key in keys],
        partition_key=partition,
        run_config={"ops": dict(ops)} if ops else {},
    )
    on_one_machine = isinstance(context.instance.run_launcher, ForkingRunLauncher)
    if on_progress is None and (on_one_machine or job in RENDERING):
        return _here(request, context)
    with Queue(context) as queue:
        tell = on_progress or (lambda progress: None)
        (end,) = run_all([request], context, queue, jobs=1, on_progress=tell)
    return end.error


def _here(request: dg.RunRequest, context: Context) -> str | None:
    with alive(context.data) as lock:
        result = context.repository.get_job(str(request.job_name)).execute_in_process(
            asset_selection=request.asset_selection,
            instance=context.instance,
            partition_key=request.partition_key,
            run_config={"loggers": QUIET, **request.run_config},
            tags={ALIVE: str(lock)},
            raise_on_error=False,
        )
    return None if result.success else reason(context.instance, result.dagster_run)
