"""Materialises assets in this process, on the instance that `dagster dev` shows.

Short runs go this way: see docs/scale.md for what they cost so, and in the queue.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from fparec_pipeline.running.context import Context
from fparec_pipeline.running.liveness import ALIVE, alive
from fparec_pipeline.running.reasons import reason

QUIET = {"console": {"config": {"log_level": "CRITICAL"}}}  # errors are returned, in one line


def materialize(
    keys: Sequence[str],
    context: Context,
    job: str,
    *,
    partition: str | None = None,
    ops: Mapping[str, Any] | None = None,
) -> str | None:
    """Materialise assets of a job in this process; the error's text when one fails.

    `ops` is the part of the run's configuration of that name: an asset's own.
    """
    with alive(context.data) as lock:
        result = context.repository.get_job(job).execute_in_process(
            asset_selection=[dg.AssetKey(key.split("/")) for key in keys],
            instance=context.instance,
            partition_key=partition,
            run_config={"loggers": QUIET, "ops": dict(ops or {})},
            tags={ALIVE: str(lock)},
            raise_on_error=False,
        )
    return None if result.success else reason(context.instance, result.dagster_run)
