"""Trials that a command wants trained: as runs, and what became of each.

Here belongs what became of each trial of a run. How a run is queued and followed is
`submission.py`'s.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from fparec_pipeline.config import Trial
from fparec_pipeline.defs.reasons import reasons
from fparec_pipeline.defs.requests import training_requests
from fparec_pipeline.running.context import Context
from fparec_pipeline.running.queue import Queue
from fparec_pipeline.running.reporting import report_missing
from fparec_pipeline.running.submission import Ended, run_all
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

    Which run trains which is `defs/requests.py`'s.
    """
    requests = list(training_requests(trials, context.config, device=device, retrain=retrain))
    runs = [request for request, _ in requests]
    with Queue(context) as queue:
        for end in run_all(runs, context, queue, jobs=jobs, on_progress=on_progress):
            yield from _outcomes(requests[end.place][1], end, context)


def _outcomes(trials: Sequence[Trial], end: Ended, context: Context) -> Iterator[Outcome]:
    said = reasons(context.instance, end.run.run_id) if end.error else {}
    named = {trial: said[str(trial.id)] for trial in trials if str(trial.id) in said}
    for trial in trials:
        error = named.get(trial) if named else end.error
        if error is None:  # show it in the other studies that have this arm
            report_missing([context.data.trial(*trial.id)], context.config, context.instance)
        yield Outcome(trial, error)
