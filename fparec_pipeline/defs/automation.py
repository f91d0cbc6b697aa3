"""Jobs, and the weekly schedule that retrains the benchmark, then renders tables and report once.

A tick asks for one training run a partition (dataset × seed, all arms one after the other). The
sensor `render_benchmark` waits until every run of the tick has ended, however it ended, asks for
the medians of each dataset, and when those have ended for tables and report: once, gaps included.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import dagster as dg

from fparec_pipeline.config import Config
from fparec_pipeline.defs.training import study_keys, study_partition_keys
from fparec_pipeline.results.tables import table_names

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import (
        UnresolvedAssetJobDefinition as AssetJob,
    )

TICK = "fparec/tick"  # tags of the runs that one tick of the schedule asks for
STAGE = "fparec/stage"
STAGES = ("train", "medians", "tables")
SCHEDULED = "benchmark"  # the study


def study_job_name(study: str) -> str:
    return f"train_{study}"


def jobs(config: Config) -> dict[str, "AssetJob"]:
    """Prepare the data, train each study, render medians, then tables and the report."""
    prepare = dg.define_asset_job("prepare_data", selection=["raw", "splits", "references"])
    medians = dg.define_asset_job("render_medians", selection=["trials", "medians", "leaderboard"])
    tables = dg.define_asset_job("render_tables", selection=[*table_names(config), "report"])
    made = [prepare, medians, tables]
    for name, study in config.studies.items():
        made.append(
            dg.define_asset_job(
                study_job_name(name),
                selection=dg.AssetSelection.assets(*study_keys(config, name)),
                description=f"Train the arms of: {study.title}",
            )
        )
    return {job.name: job for job in made}


def benchmark_schedule(config: Config, job: "AssetJob") -> dg.ScheduleDefinition:
    """Every Sunday at three: retrain the benchmark's trials. Off until somebody starts it."""
    keys = study_keys(config, SCHEDULED)

    @dg.schedule(
        job=job,
        cron_schedule="0 3 * * 0",
        name="weekly_benchmark",
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Retrains every trial of the benchmark; its datasets are those of the study "
        f"`{SCHEDULED}` in data/studies.toml.",
    )
    def weekly_benchmark(
        context: dg.ScheduleEvaluationContext,
    ) -> Iterator[dg.RunRequest | dg.SkipReason]:
        going = dg.RunsFilter(tags={STAGE: list(STAGES)}, statuses=in_progress())
        if context.instance.get_runs_count(going):
            yield dg.SkipReason("The last tick's runs have not all ended yet.")
            return
        tick = context.scheduled_execution_time.date().isoformat()
        retrain = {"ops": {"__".join(key.path): {"config": {"retrain": True}} for key in keys}}
        for partition in study_partition_keys(config, SCHEDULED):
            yield dg.RunRequest(
                run_key=f"{tick}/{partition.replace('|', '/')}",
                partition_key=partition,
                run_config=retrain,
                tags={TICK: tick, STAGE: "train"},
            )

    return weekly_benchmark


def in_progress() -> list[dg.DagsterRunStatus]:
    """The statuses of a run that has not ended."""
    ended = {
        dg.DagsterRunStatus.SUCCESS,
        dg.DagsterRunStatus.FAILURE,
        dg.DagsterRunStatus.CANCELED,
    }
    return [status for status in dg.DagsterRunStatus if status not in ended]


def render_sensor(
    config: Config,
    medians: "AssetJob",
    tables: "AssetJob",
) -> dg.SensorDefinition:
    """Asks for medians, then tables, when the last tick's runs have ended."""
    study = config.studies[SCHEDULED]
    expected = {
        "train": len(study_partition_keys(config, SCHEDULED)),
        "medians": len(study.datasets),
    }

    @dg.sensor(
        jobs=[medians, tables],
        name="render_benchmark",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Renders tables and report once, when a tick's runs have all ended.",
    )
    def render_benchmark(
        context: dg.SensorEvaluationContext,
    ) -> Iterator[dg.RunRequest | dg.SkipReason]:
        runs = context.instance.get_runs(dg.RunsFilter(tags={STAGE: list(STAGES)}), limit=1000)
        tick = max((run.tags[TICK] for run in runs), default=None)
        stage = None
        if tick:
            stages: dict[str, list[dg.DagsterRun]] = {name: [] for name in STAGES}
            for run in runs:
                if run.tags[TICK] == tick:
                    stages[run.tags[STAGE]].append(run)
            stage = due_stage(stages, expected)
        if tick is None or stage is None:
            yield dg.SkipReason("No tick of the benchmark waits for its tables.")
            return
        tags = {TICK: tick, STAGE: stage}
        if stage == "tables":
            yield dg.RunRequest(run_key=f"{tick}/tables", job_name="render_tables", tags=tags)
            return
        for dataset in study.datasets:
            yield dg.RunRequest(
                run_key=f"{tick}/medians/{dataset}",
                job_name="render_medians",
                partition_key=dataset,
                tags=tags,
            )

    return render_benchmark


def due_stage(stages: dict[str, list[dg.DagsterRun]], expected: dict[str, int]) -> str | None:
    """The stage to ask for now: the one before it is complete and ended, and it was not asked for.

    Args:
        stages: the tick's runs, by stage.
        expected: how many runs the stages before the last have.
    """
    for before, stage in pairwise(STAGES):
        runs = stages[before]
        ended = len(runs) >= expected[before] and all(run.is_finished for run in runs)
        if not ended:
            return None
        if not stages[stage]:
            return stage
    return None
