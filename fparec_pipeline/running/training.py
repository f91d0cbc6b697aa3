"""Trials that a command wants trained: as runs, and what became of each.

Here belongs which run trains which trials. How a run is queued and followed is `submission.py`'s.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from fparec_pipeline.config import Config, Trial
from fparec_pipeline.defs.automation import training_job
from fparec_pipeline.defs.seeds import together
from fparec_pipeline.defs.training import places
from fparec_pipeline.running.context import Context
from fparec_pipeline.running.queue import Queue
from fparec_pipeline.running.reasons import reasons
from fparec_pipeline.running.reporting import report_missing
from fparec_pipeline.running.submission import Ended, Request, run_all
from fparec_pipeline.training.record import Progress


@dataclass(frozen=True)
class Outcome:
    """How the training of a trial ended."""

    trial: Trial
    error: str | None


def train(
    trials: Sequence[Trial],
    context: Context,
    *,
    jobs: int,
    device: str,
    retrain: bool,
    on_progress: Callable[[Progress], None],
) -> Iterator[Outcome]:
    """Train trials in Dagster's queue, `jobs` runs at once; yields each trial as its run ends.

    A run trains one trial; on CUDA the seeds of an arm, as one stack.
    """
    groups = {
        _request(group, context.config, device, retrain): group
        for group in together(trials, device)
    }
    with Queue(context) as queue:
        for end in run_all(list(groups), context, queue, jobs=jobs, on_progress=on_progress):
            yield from _outcomes(groups[end.request], end, context)


def _request(trials: Sequence[Trial], config: Config, device: str, retrain: bool) -> Request:
    shown = [places(config, t.id)[0] for t in trials]
    asset, partitions = shown[0][0], tuple(str(partition) for _, partition in shown)
    step = {"config": {"retrain": retrain}}
    return Request(
        job=training_job(config, asset),
        assets=(asset,),
        partitions=partitions,
        config={
            "ops": {"__".join(asset.path): step},
            "resources": {"workspace": {"config": {"device": device}}},
        },
        tags={
            "dataset": trials[0].dataset,
            "arm": trials[0].arm,
            "seed": ", ".join(str(trial.seed) for trial in trials),
        },
    )


def _outcomes(trials: Sequence[Trial], end: Ended, context: Context) -> Iterator[Outcome]:
    said = reasons(context.instance, end.run.run_id) if end.error else {}
    named = {trial: said[str(trial.id)] for trial in trials if str(trial.id) in said}
    for trial in trials:
        error = named.get(trial) if named else end.error
        if error is None:  # show it in the other studies that have this arm
            report_missing([trial.id.folder(context.data)], context.config, context.instance)
        yield Outcome(trial, error)
