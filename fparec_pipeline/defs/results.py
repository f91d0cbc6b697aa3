"""Medians and leaderboard by dataset, the result tables, and the paper's figures."""

import base64

import dagster as dg

from fparec_pipeline.config import Config, Study
from fparec_pipeline.datasets.files import write_atomically
from fparec_pipeline.defs.partitions import dataset_partitions
from fparec_pipeline.defs.resources import Workspace
from fparec_pipeline.defs.training import training_keys
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.results.medians import leaderboard as leaderboard_rows
from fparec_pipeline.results.medians import study_medians
from fparec_pipeline.results.paper_figures import ARMS, FIGURES, draw, write
from fparec_pipeline.results.study_table import escaped, leaderboard_markdown
from fparec_pipeline.results.tables import render, table_names
from fparec_pipeline.results.trials import trials_frame, under_arm_names
from fparec_pipeline.training.record import write_parquet

# Of the two tables that are no study's.
TITLES = {
    "table_1": "Table 1: parameters of one attention layer",
    "table_2": "Table 2: statistics of the datasets",
}
UPSTREAM = {"table_1": [], "table_2": ["splits"]}


def result_assets(config: Config) -> list[dg.AssetsDefinition]:
    """`medians`, `leaderboard` and one asset for each result table and figure."""
    partitions = dataset_partitions(config)
    trials = training_keys(config)

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
        data, dataset = workspace.data, context.partition_key
        study = Study(
            title="medians",
            models=tuple(config.arms_on(dataset)),
            datasets=(dataset,),
            seeds=config.seeds,
        )
        trials = under_arm_names(trials_frame(data, config), study, config)
        frame = study_medians(trials, study)
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
        dataset = context.partition_key
        rows = leaderboard_rows(trials_frame(workspace.data, config), dataset)
        markdown = leaderboard_markdown(rows, config)
        return _publish(workspace.data, f"leaderboard_{dataset}", markdown, rows)

    tables = [_table_asset(config, name) for name in table_names(config)]
    figures = [_figure_asset(config, name) for name in FIGURES]
    return [medians, leaderboard, *tables, *figures, _report_asset(config)]


def _table_asset(config: Config, name: str) -> dg.AssetsDefinition:
    study = config.studies.get(name)
    title = study.title if study else TITLES[name]
    deps: list[str] = ["medians"] if study else UPSTREAM[name]

    @dg.asset(
        name=name,
        deps=deps,
        group_name="results",
        kinds={"polars", "mlflow"},
        owners=["team:research"],
        code_version="1",
        description=f"{title}, ours beside the paper's.",
    )
    def table(workspace: Workspace) -> dg.MaterializeResult:
        return _publish(workspace.data, name, *render(name, config, workspace.data))

    return table


def _figure_asset(config: Config, name: str) -> dg.AssetsDefinition:
    """Figures 1 and 3 are by dataset, Figure 4 needs no trial."""

    @dg.asset(
        name=name,
        partitions_def=dataset_partitions(config) if name in ARMS else None,
        deps=training_keys(config) if name in ARMS else [],
        group_name="results",
        kinds={"matplotlib"},
        owners=["team:research"],
        code_version="1",
        description=f"{FIGURES[name]}. What has not been trained is a gap that says so.",
    )
    def figure(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        dataset = context.partition_key if name in ARMS else None
        drawn = draw(name, dataset, config, workspace.data)
        paths = write(drawn, workspace.data)
        code = base64.b64encode(drawn.png).decode()
        return dg.MaterializeResult(
            metadata={
                "figure": dg.MetadataValue.md(f"![](data:image/png;base64,{code})"),
                "notes": dg.MetadataValue.md(
                    "\n".join(f"* {escaped(note)}" for note in drawn.notes)
                ),
                **{path.suffix.lstrip("."): dg.MetadataValue.path(path) for path in paths},
            }
        )

    return figure


def _report_asset(config: Config) -> dg.AssetsDefinition:
    @dg.asset(
        deps=["medians", *table_names(config)],
        group_name="results",
        kinds={"html", "mlflow"},
        owners=["team:research"],
        code_version="1",
        description="Everything in one HTML file: verdicts, tables, figures, provenance.",
    )
    def report(workspace: Workspace) -> dg.MaterializeResult:
        from fparec_pipeline.results.report import path_of, write_report
        from fparec_pipeline.tracking import Tracker

        data = workspace.data
        tracker = Tracker(None, data)
        run_id = tracker.log_report(write_report(data, config, tracker.trial_urls()))
        url = tracker.artifact_url(run_id, "report.html") if run_id else None
        return dg.MaterializeResult(
            metadata={
                # A browser follows no link from Dagster's page to a file; MLflow serves it.
                **({"report": dg.MetadataValue.url(url)} if url else {}),
                "path": dg.MetadataValue.path(path_of(data).resolve()),
            }
        )

    return report


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
