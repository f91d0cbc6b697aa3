"""`fparec promote`: a champion as one run of Dagster's queue, which may train for long."""

from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg

from fparec_pipeline.running.context import Context
from fparec_pipeline.running.queue import Queue
from fparec_pipeline.running.submission import Request, run_all
from fparec_pipeline.training.record import Progress


def promote(
    dataset: str,
    context: Context,
    wanted: Mapping[str, Any],
    on_progress: Callable[[Progress], None],
) -> str | None:
    """Collect the dataset's trials and make the best its champion; the error's text if that fails.

    Args:
        dataset: a partition of both assets.
        context: whose instance has the queue.
        wanted: the configuration of the asset `champion`.
        on_progress: told of the refit's newest epoch now and then.
    """
    request = Request(
        job="promote",
        assets=(dg.AssetKey("trials"), dg.AssetKey("champion")),
        partitions=(dataset,),
        config={"ops": {"champion": {"config": dict(wanted)}}},
        tags={"dataset": dataset},
    )
    with Queue(context) as queue:
        ends = list(run_all([request], context, queue, jobs=1, on_progress=on_progress))
    return ends[0].error
