"""Materialises assets in this process, on the instance that `dagster dev` shows.

Short runs go this way: about a second each, against ten for a process of its own.
"""

from collections.abc import Callable, Sequence
from typing import Any

import dagster as dg

from fparec_pipeline.defs.resources import Workspace
from fparec_pipeline.paths import PACKAGE
from fparec_pipeline.running.context import Context
from fparec_pipeline.running.liveness import ALIVE, alive
from fparec_pipeline.training.record import Progress

FAILURE = f"{dg.Failure.__module__}.{dg.Failure.__name__}"  # of an error that `defs` explains
QUIET = {"console": {"config": {"log_level": "CRITICAL"}}}  # errors are returned, in one line


def materialize(
    keys: Sequence[str],
    context: Context,
    *,
    partition: str | None = None,
    device: str = "auto",
    listener: Callable[[Progress], None] | None = None,
    ops: dict[str, Any] | None = None,
) -> str | None:
    """Materialise assets in this process; the error's text when one fails."""
    definitions = context.definitions.assets or []
    assets = [asset for asset in definitions if isinstance(asset, dg.AssetsDefinition)]
    with alive(context.data) as lock:
        result = dg.materialize(
            assets,
            selection=[dg.AssetKey(key.split("/")) for key in keys],
            instance=context.instance,
            partition_key=partition,
            resources={
                "workspace": Workspace(data_root=str(context.data.root), device=device),
                "listener": listener or (lambda progress: None),
            },
            run_config={"loggers": QUIET, "ops": ops or {}},
            tags={ALIVE: str(lock)},
            raise_on_error=False,
        )
    return None if result.success else _reason(result)


def _reason(result: dg.ExecuteInProcessResult) -> str:
    """The messages of a failed run's checks, else of the error that ended it."""
    lines = [
        f"check {check.check_name} of {check.asset_key.to_user_string()} failed: "
        f"{check.metadata['message'].value}"
        for check in result.get_asset_check_evaluations()
        if not check.passed
    ]
    errors = [
        event.step_failure_data.error if event.is_step_failure else event.job_failure_data.error
        for event in result.all_events
        if event.is_step_failure or event.is_run_failure
    ]
    for error in errors:
        # Dagster's wrapping comes off; what our own errors were raised from says less than they.
        while error and error.cause and (error.cls_name or "").startswith("Dagster"):
            error = error.cause
        if error and not lines:
            lines.append(_plain(error.message))
    return "; ".join(lines) or "the run failed; see its page in Dagster"


def _plain(message: str) -> str:
    """An error's message, without the class where the error is one of ours."""
    kind, _, text = message.strip().partition(": ")
    ours = kind.startswith(PACKAGE.name + ".") or kind == FAILURE
    return text if ours and text else message.strip()
