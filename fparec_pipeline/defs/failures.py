"""Known errors as Dagster shows them best: what happened, and what to do on this page.

Dagster prints the description of a `dg.Failure` first; of any other exception it prints ten frames
of its own code first. Errors that are not the project's own are left as they are: their frames are
what is needed to mend them.

Here belong the advice and how an error is raised. Why a run has failed is read by `reasons.py`.
"""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import dagster as dg

from fparec_pipeline.config import PACKAGE

P = ParamSpec("P")
T = TypeVar("T")

# By the error's class: what somebody can do who has only the page before them.
ADVICE = {
    "SplitsError": "Materialise `raw` and `splits` of this dataset (the job `prepare_data` does "
    "both), then this partition again.",
    "RawDataError": "Mend the source as the message says, then materialise `raw` again.",
    "DatasetError": "Mend the dataset's entry or its file as the message says, press *Reload "
    "definitions* under Deployment, then materialise this partition again.",
    "ConfigError": "Mend the configuration file as the message says, press *Reload definitions* "
    "under Deployment, then materialise this partition again.",
    "TrialLocked": "Another run trains this trial: see *Runs*. Wait for it or terminate it, then "
    "materialise this partition again.",
    "TrialCorrupt": "Remove the damaged folder or bring an intact copy back, then materialise "
    "this partition again.",
    "TrainingDiverged": "Lower the learning rate of this arm for the dataset, reload the "
    "definitions, then materialise this partition again.",
    "OutOfMemory": "Let fewer trials run at once, then materialise this partition again: it goes "
    "on from its last checkpoint.",
    "FigureMissing": "Materialise the training assets that the message names for this dataset, "
    "then this figure again.",
    "CannotWrite": "Make room on the disk, then re-execute the run from its failure.",
    "TrialsMissing": "Materialise `trials` of this dataset, then this asset again.",
}
OTHERWISE = "Mend what the message says, then re-execute the run from its failure."


def explained(function: Callable[P, T]) -> Callable[P, T]:
    """Raise the project's own errors, and those of the operating system, as `dg.Failure`."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            if not _is_known(error):
                raise
            raise failure(error) from error

    return wrapped


def failure(error: Exception) -> dg.Failure:
    """The error's message as the description, its kind and the advice as metadata."""
    names = [kind.__name__ for kind in type(error).__mro__]
    advice = next((ADVICE[name] for name in names if name in ADVICE), OTHERWISE)
    return dg.Failure(
        description=str(error),
        metadata={
            "what_to_do": dg.MetadataValue.md(advice),
            "kind": dg.MetadataValue.text(type(error).__name__),
        },
        allow_retries=False,
    )


def _is_known(error: Exception) -> bool:
    own = type(error).__module__.startswith(f"{PACKAGE.name}.")
    return own or isinstance(error, OSError)
