"""Whether splits are of today's raw files and entries, as Dagster's page shows it.

What belongs here: a check of the asset `splits`, and a sensor that keeps its answer up to date
without a run. What does not: how it is told (`datasets.staleness`).
"""

import dagster as dg

from fparec_pipeline.config import Config, ConfigError, load_config
from fparec_pipeline.datasets.preprocess import SplitsError
from fparec_pipeline.datasets.splits import why_outdated
from fparec_pipeline.defs.resources import Workspace
from fparec_pipeline.paths import DataRoot

CHECK = "of_todays_inputs"
SPLITS = dg.AssetKey("splits")
EVERY_SECONDS = 60


def outdated_splits(config: Config, data: DataRoot) -> dict[str, str]:
    """Dataset -> why its splits are not of today's raw file and entry; current ones left out."""
    found = {}
    for name, dataset in config.datasets.items():
        try:
            reason = why_outdated(name, dataset, data)
        except SplitsError as error:
            reason = str(error)
        if reason:
            found[name] = reason
    return found


def currency_check() -> dg.AssetChecksDefinition:
    """The check, for who runs it by hand."""

    @dg.asset_check(
        asset=SPLITS,
        name=CHECK,
        description="The splits are of today's raw files and of today's datasets.toml. The sensor "
        "`splits_are_current` keeps the answer up to date. If it fails: materialize `raw` and "
        "`splits` of the dataset; trials of the old splits are stale.",
    )
    def of_todays_inputs(workspace: Workspace) -> dg.AssetCheckResult:
        found = outdated_splits(load_config(workspace.data), workspace.data)
        return dg.AssetCheckResult(passed=not found, severity=dg.AssetCheckSeverity.WARN,
                                   metadata=dict(found))  # fmt: skip

    return of_todays_inputs


def currency_sensor() -> dg.SensorDefinition:
    """Reports the check whenever its answer has changed; starts no run."""

    @dg.sensor(
        name="splits_are_current",
        minimum_interval_seconds=EVERY_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Looks every minute whether raw files or datasets.toml have changed since the "
        "splits were made, and says so at the asset `splits`.",
    )
    def splits_are_current(
        context: dg.SensorEvaluationContext, workspace: Workspace
    ) -> dg.SkipReason:
        try:
            found = outdated_splits(load_config(workspace.data), workspace.data)
        except ConfigError as error:
            return dg.SkipReason(str(error))
        answer = "; ".join(f"{name}: {reason}" for name, reason in found.items()) or "all current"
        if answer != context.cursor:
            evaluation = dg.AssetCheckEvaluation(
                asset_key=SPLITS,
                check_name=CHECK,
                passed=not found,
                severity=dg.AssetCheckSeverity.WARN,
                metadata={name: dg.MetadataValue.text(reason) for name, reason in found.items()},
            )
            context.instance.report_runless_asset_event(evaluation)
            context.update_cursor(answer)
        return dg.SkipReason(answer)

    return splits_are_current
