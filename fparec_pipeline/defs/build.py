"""Puts assets, jobs, automation and resources together.

Here belongs the wiring. An asset, job or sensor belongs to the module of its subject.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from fparec_pipeline.config import Config
from fparec_pipeline.defs.automation import (
    benchmark_schedule,
    failure_sensor,
    jobs,
    keep_current_sensor,
    training_sensor,
)
from fparec_pipeline.defs.currency import currency_checks, currency_sensors
from fparec_pipeline.defs.data import data_assets
from fparec_pipeline.defs.resources import Workspace
from fparec_pipeline.defs.results import result_assets
from fparec_pipeline.defs.serving import (
    refresh_job,
    refresh_schedule,
    serving_assets,
    serving_jobs,
)
from fparec_pipeline.defs.training import reference_asset, training_assets


def build_defs(config: Config, resources: Mapping[str, Any] | None = None) -> dg.Definitions:
    """All definitions of a configuration: the only place where they are put together.

    Args:
        config: the datasets, arms and studies that there are assets for.
        resources: in the place of those of the same name.
    """
    made, refresh = jobs(config), refresh_job()
    return dg.Definitions(
        assets=[
            *data_assets(config),
            *training_assets(config),
            reference_asset(config),
            *result_assets(config),
            *serving_assets(config),
        ],
        jobs=[*made.values(), *serving_jobs(), refresh],
        schedules=[
            benchmark_schedule(config, made["prepare_data"]),
            refresh_schedule(config, refresh),
        ],
        asset_checks=currency_checks(),
        sensors=[
            training_sensor(config, made),
            keep_current_sensor(),
            failure_sensor(),
            *currency_sensors(),
        ],
        resources={"workspace": Workspace(), **(resources or {})},
        # A run trains its arms one after the other: a trial has its own configured threads.
        executor=dg.in_process_executor,
    )
