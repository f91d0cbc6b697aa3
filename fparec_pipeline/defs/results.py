"""Medians and leaderboard by dataset, and the studies' result tables."""

import dagster as dg
import polars as pl

from fparec_pipeline.config import Config, Study
from fparec_pipeline.defs.partitions import dataset_partitions
from fparec_pipeline.defs.resources import Workspace
from fparec_pipeline.defs.training import TRAINED
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.results.frame import trials_frame
from fparec_pipeline.results.medians import leaderboard as leaderboard_rows
from fparec_pipeline.results.medians import study_medians
from fparec_pipeline.results.tables import (
    Table,
    leaderboard_markdown,
    study_table,
    to_markdown,
    to_rows,
)
from fparec_pipeline.training.record import write_atomically, write_parquet

TABLES = ("table_3",)  # studies that are a table of the paper


def result_assets(config: Config) -> list[dg.AssetsDefinition]:
    """`medians`, `leaderboard` and one asset for each result table."""
    partitions = dataset_partitions(config)
    trials = [dg.AssetKey([TRAINED, model]) for model in config.models]

    @dg.asset(
        partitions_def=partitions,
        deps=[*trials, "references"],
        group_name="results",
        kinds={"polars"},
        owners=["team:research"],
        code_version="1",
        description="Median of the study's seeds for every arm; a gap where one is missing.",
    )
    def medians(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        config, data, dataset = workspace.config, workspace.data, context.partition_key
        study = Study(
            title="medians",
            models=tuple(config.models),
            datasets=(dataset,),
            seeds=config.seeds,
        )
        frame = study_medians(trials_frame(data, config), study)
        path = data.results / "medians" / f"{dataset}.parquet"
        write_parquet(path, frame)
        return dg.MaterializeResult(
            metadata={
                "complete": frame["gap"].null_count(),
                "gaps": frame.height - frame["gap"].null_count(),
                "path": dg.MetadataValue.path(path),
            }
        )

    @dg.asset(
        partitions_def=partitions,
        deps=[medians],
        group_name="results",
        kinds={"polars", "mlflow"},
        owners=["team:research"],
        code_version="1",
        description="All models of a dataset, best first; provisional with fewer than three seeds.",
    )
    def leaderboard(
        context: dg.AssetExecutionContext, workspace: Workspace
    ) -> dg.MaterializeResult:
        config, dataset = workspace.config, context.partition_key
        rows = leaderboard_rows(trials_frame(workspace.data, config), dataset)
        markdown = leaderboard_markdown(rows, config)
        return _publish(workspace.data, f"leaderboard_{dataset}", markdown, rows)

    return [medians, leaderboard, *(_table_asset(config, name) for name in TABLES)]


def _table_asset(config: Config, name: str) -> dg.AssetsDefinition:
    study = config.studies[name]

    @dg.asset(
        name=name,
        deps=["medians"],
        group_name="results",
        kinds={"polars", "mlflow"},
        owners=["team:research"],
        code_version="1",
        description=f"{study.title}, ours beside the paper's.",
    )
    def table(workspace: Workspace) -> dg.MaterializeResult:
        made = render_table(name, workspace.config, workspace.data)
        return _publish(workspace.data, name, to_markdown(made), to_rows(made))

    return table


def render_table(name: str, config: Config, data: DataRoot) -> Table:
    """A study's table as the trial folders give it now, without datasets that have no trial."""
    study = config.studies[name]
    trials = trials_frame(data, config)
    begun = trials.filter(pl.col("trained"))["dataset"].unique().to_list()
    datasets = tuple(dataset for dataset in study.datasets if dataset in begun)
    study = study.model_copy(update={"datasets": datasets or study.datasets})
    return study_table(name, study, study_medians(trials, study), config)


def _publish(data: DataRoot, name: str, markdown: str, rows: list[dict]) -> dg.MaterializeResult:
    """To a file, to MLflow, and to Dagster's page."""
    from fparec_pipeline.tracking import Tracker

    path = data.results / f"{name}.md"
    with write_atomically(path) as part:
        part.write_text(markdown, encoding="utf-8")
    tracker = Tracker(None, data)
    run_id = tracker.log_table(name, markdown, rows)
    url = tracker.run_url(run_id) if run_id else None
    return dg.MaterializeResult(
        metadata={
            "table": dg.MetadataValue.md(markdown),
            "path": dg.MetadataValue.path(path),
            **({"mlflow_run": dg.MetadataValue.url(url)} if url else {}),
        }
    )
