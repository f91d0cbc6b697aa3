"""Why a run failed, in one line for a person.

Here belongs what reads the events of a run that has ended. What went wrong is said by whoever
raised it.
"""

from collections.abc import Iterable
from typing import Any

import dagster as dg

from fparec_pipeline.paths import PACKAGE


def reasons(instance: dg.DagsterInstance, run_id: str) -> dict[str, str]:
    """Of a run of several trials: what each that failed failed with, by the trial's name."""
    return {
        name: str(value.value)
        for event in _events(instance, run_id, dg.DagsterEventType.STEP_FAILURE)
        if event.step_failure_data.user_failure_data
        for name, value in event.step_failure_data.user_failure_data.metadata.items()
    }


def reason(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    """The messages of a failed run's checks, else of the error that ended it."""
    if run.status == dg.DagsterRunStatus.CANCELED:
        return "the run was cancelled"
    checks = _events(instance, run.run_id, dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    lines = [
        f"check {check.check_name} of {check.asset_key.to_user_string()} failed: "
        f"{check.metadata['message'].value}"
        for check in (event.asset_check_evaluation_data for event in checks)
        if not check.passed and check.severity is dg.AssetCheckSeverity.ERROR
    ]
    if lines:
        return "; ".join(lines)
    for event in _events(instance, run.run_id, dg.DagsterEventType.STEP_FAILURE):
        failure = event.step_failure_data
        if failure.user_failure_data and failure.user_failure_data.description:
            return failure.user_failure_data.description
        return _message(failure.error)
    for event in _events(instance, run.run_id, dg.DagsterEventType.RUN_FAILURE):
        failure = event.job_failure_data
        return _message(failure.error) if failure and failure.error else event.message or ""
    return "the run failed; see its page in Dagster"


def _events(instance: dg.DagsterInstance, run_id: str, kind: dg.DagsterEventType) -> Iterable[Any]:
    return [entry.dagster_event for entry in instance.all_logs(run_id, of_type=kind)]


def _message(error: Any) -> str:
    """Without Dagster's wrapping; what our own errors were raised from says less than they."""
    while error.cause and (error.cls_name or "").startswith("Dagster"):
        error = error.cause
    kind, _, text = error.message.strip().partition(": ")
    return text if kind.startswith(PACKAGE.name + ".") and text else error.message.strip()
