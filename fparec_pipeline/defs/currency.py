"""Whether splits and report are of today's inputs, as Dagster's page shows it.

What belongs here: a check of the asset `splits` and one of `report`, each with a sensor that keeps
its answer up to date without a run. What does not: how it is told (`datasets.staleness`,
`results.shown`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import dagster as dg

from fparec_pipeline.config import Config, ConfigError, load_config
from fparec_pipeline.datasets.preprocess import SplitsError
from fparec_pipeline.datasets.splits import why_outdated
from fparec_pipeline.defs.resources import Workspace
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.results.shown import outdated_report
from fparec_pipeline.results.trials import trials_frame

EVERY_SECONDS = 60


@dataclass(frozen=True)
class Currency:
    """An asset that may be outdated without having been materialised."""

    asset: str
    check: str
    sensor: str
    outdated: Callable[[Config, DataRoot], dict[str, str]]  # dataset -> why, of each that is
    words: str  # of the check
    looks_at: str  # what the sensor looks at


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


def trials_not_in_report(config: Config, data: DataRoot) -> dict[str, str]:
    """Dataset -> why the report does not show its finished trials as they are."""
    return outdated_report(trials_frame(data, config), data)


SPLITS = Currency(
    "splits",
    "of_todays_inputs",
    "splits_are_current",
    outdated_splits,
    "The splits are of today's raw files and of today's datasets.toml. If it fails: materialize "
    "`raw` and `splits` of the dataset; trials of the old splits are stale.",
    "whether raw files or datasets.toml have changed since the splits were made",
)
REPORT = Currency(
    "report",
    "of_todays_trials",
    "report_is_current",
    trials_not_in_report,
    "The report shows every finished trial, and knows which are stale. If it fails for more than a "
    "few minutes: materialize `trials` of the dataset, then `report`, or run `fparec sync`.",
    "whether trials have finished, gone or become stale since the report was written",
)
ALL = (SPLITS, REPORT)


def currency_checks() -> list[dg.AssetChecksDefinition]:
    """The checks, for who runs them by hand."""
    return [_check(each) for each in ALL]


def currency_sensors() -> list[dg.SensorDefinition]:
    """Each reports its check whenever the answer has changed, and starts no run."""
    return [_sensor(each) for each in ALL]


def _check(of: Currency) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=of.asset,
        name=of.check,
        description=f"{of.words} The sensor `{of.sensor}` keeps the answer up to date.",
    )
    def check(workspace: Workspace) -> dg.AssetCheckResult:
        found = of.outdated(load_config(workspace.data), workspace.data)
        return dg.AssetCheckResult(passed=not found, severity=dg.AssetCheckSeverity.WARN,
                                   metadata=dict(found))  # fmt: skip

    return check


def _sensor(of: Currency) -> dg.SensorDefinition:
    @dg.sensor(
        name=of.sensor,
        minimum_interval_seconds=EVERY_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Looks every minute {of.looks_at}, and says so at the asset {of.asset}.",
    )
    def sensor(context: dg.SensorEvaluationContext, workspace: Workspace) -> dg.SkipReason:
        try:
            found = of.outdated(load_config(workspace.data), workspace.data)
        except ConfigError as error:
            return dg.SkipReason(str(error))
        answer = "; ".join(f"{name}: {reason}" for name, reason in found.items()) or "all current"
        if answer != context.cursor:
            evaluation = dg.AssetCheckEvaluation(
                asset_key=dg.AssetKey(of.asset),
                check_name=of.check,
                passed=not found,
                severity=dg.AssetCheckSeverity.WARN,
                metadata={name: dg.MetadataValue.text(reason) for name, reason in found.items()},
            )
            context.instance.report_runless_asset_event(evaluation)
            context.update_cursor(answer)
        return dg.SkipReason(answer)

    return sensor
