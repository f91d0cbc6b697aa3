"""The Dagster code location: what `dagster dev` and the `fparec` command both load."""

import dagster as dg

from fparec_pipeline.config import load_config
from fparec_pipeline.defs.automation import (
    SCHEDULED,
    benchmark_schedule,
    jobs,
    render_sensor,
    study_job_name,
)
from fparec_pipeline.defs.data import data_assets
from fparec_pipeline.defs.resources import LogListener, Workspace
from fparec_pipeline.defs.results import result_assets
from fparec_pipeline.defs.training import reference_asset, training_assets
from fparec_pipeline.paths import DataRoot


def build_defs(data: DataRoot | None = None) -> dg.Definitions:
    """All definitions for the configuration of a data root (default: the environment's)."""
    config = load_config(data)
    made = jobs(config)
    return dg.Definitions(
        assets=[
            *data_assets(config),
            *training_assets(config),
            reference_asset(config),
            *result_assets(config),
        ],
        jobs=list(made.values()),
        schedules=[benchmark_schedule(config, made[study_job_name(SCHEDULED)])],
        sensors=[render_sensor(config, made["render_medians"], made["render_tables"])],
        resources={
            "workspace": Workspace(data_root=str(data.root) if data else ""),
            "listener": LogListener(),
        },
        # A run trains its arms one after the other: a trial has its own configured threads.
        executor=dg.in_process_executor,
    )


defs = build_defs()
