"""The trials of one run: one after the other, or the seeds of an arm as one stack on CUDA.

Here belongs how many a run trains, which of them are trained together, and what becomes of the
others when one fails. How a trial or a stack is trained belongs to `training/`.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import dagster as dg

from fparec_pipeline.config import Config, Trial
from fparec_pipeline.datasets.splits import Splits, current_splits
from fparec_pipeline.defs.failures import explained
from fparec_pipeline.defs.gpus import has_gpu, own_gpu
from fparec_pipeline.defs.reporter import Reporter
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training.record import TrialRecord

Results = dict[Trial, TrialRecord | Exception]
SEEDS_A_RUN = 3  # of an arm, where there is a GPU


@dataclass(frozen=True)
class Manner:
    """How the trials of a run are trained, and who is told."""

    data: DataRoot
    device: str
    retrain: bool
    reporter: Reporter


def seeds_a_run(device: str = "auto") -> int:
    """How many seeds of an arm one run trains: on a GPU several, which are one stack there."""
    on_gpu = device.startswith("cuda") or (device == "auto" and has_gpu())
    return SEEDS_A_RUN if on_gpu else 1


def train_trials(trials: Sequence[Trial], settings: Config, manner: Manner) -> Results:
    """Train the trials of a run; one that fails does not stop the others.

    Returns:
        Each trial's record, or what it failed with.
    """
    results: Results = {}
    if not trials:
        return results
    device = manner.device
    with nullcontext() if device in ("cpu", "mps") or ":" in device else own_gpu():
        for group in together(trials, device):
            results |= _train_group(group, settings, manner)
    return results


def _train_group(trials: Sequence[Trial], settings: Config, manner: Manner) -> Results:
    name = trials[0].dataset
    splits = current_splits(name, settings.datasets[name], manner.data)
    if len(trials) > 1 and _train_stack(trials, splits, manner):
        manner = replace(manner, retrain=False)  # what the stack has just trained is there
    return {trial: _train_one(trial, splits, manner) for trial in trials}


def raise_failures(results: Results) -> None:
    """Fail the run when a trial failed; its page then shows why before any frame of code.

    Raises:
        dagster.Failure: of several trials; its metadata have the reason of each that failed.
        Exception: of one trial, what it failed with.
    """
    failed = {trial: error for trial, error in results.items() if isinstance(error, Exception)}
    if failed and len(results) == 1:
        explained(_raise)(next(iter(failed.values())))
    if failed:
        reasons = {str(trial.id): str(error) for trial, error in failed.items()}
        text = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        first = next(iter(failed.values()))
        raise dg.Failure(text, metadata=reasons, allow_retries=False) from first


def _raise(error: Exception) -> None:
    raise error


def together(trials: Sequence[Trial], device: str) -> list[list[Trial]]:
    """The trials that are trained as one: on CUDA the seeds of an arm, else each alone."""
    if not _is_cuda(device):
        return [[trial] for trial in trials]
    from fparec_pipeline.training.stacked import is_stackable

    groups: dict[object, list[Trial]] = {}
    for trial in trials:
        alone = None if is_stackable(trial.hyperparameters) else trial.seed
        key = (trial.dataset, trial.arm, alone)
        groups.setdefault(key, []).append(trial)
    return list(groups.values())


def _is_cuda(device: str) -> bool:
    if device != "auto":
        return device.startswith("cuda")
    import torch

    return torch.cuda.is_available()


def _train_stack(trials: Sequence[Trial], splits: Splits, manner: Manner) -> bool:
    """Whether the seeds of an arm could be trained as one."""
    from fparec_pipeline.training.stacked import run_stacked

    observers = {trial.seed: manner.reporter for trial in trials}
    try:
        run_stacked(
            trials,
            splits,
            manner.data,
            device=manner.device,
            retrain=manner.retrain,
            observers=observers,
        )
    except Exception as error:
        manner.reporter.log.warning("Seed by seed, because the stack failed: %s", error)
        return False
    return True


def _train_one(trial: Trial, splits: Splits, manner: Manner) -> TrialRecord | Exception:
    from fparec_pipeline.training.trial import run_trial

    try:
        return run_trial(
            trial,
            splits,
            manner.data,
            device=manner.device,
            retrain=manner.retrain,
            observer=manner.reporter,
        )
    except Exception as error:
        return error
