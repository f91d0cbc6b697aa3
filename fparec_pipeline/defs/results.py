"""Trials, medians and leaderboard by dataset, the result tables, the figures and the report.

Here belongs what Dagster's page shows of results. How one is made belongs to `results/`.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dagster as dg
import polars as pl

from fparec_pipeline.config import Config
from fparec_pipeline.datasets.files import write_atomically
from fparec_pipeline.defs.automation import keep_current
from fparec_pipeline.defs.checks import (
    MEDIAN_CHECKS,
    TRIAL_CHECKS,
    check_results,
    check_specs,
    column_schema,
)
from fparec_pipeline.defs.failures import explained
from fparec_pipeline.defs.partitions import dataset_partitions
from fparec_pipeline.defs.resources import Workspace
from fparec_pipeline.defs.training import training_keys
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.results.medians import available_medians, medians_path, with_intervals
from fparec_pipeline.results.medians import leaderboard as ranked
from fparec_pipeline.results.paper_figures import ARMS, FIGURES, draw, write
from fparec_pipeline.results.shown import digests
from fparec_pipeline.results.significance import UserRanks
from fparec_pipeline.results.study_table import escaped, leaderboard_markdown
from fparec_pipeline.results.tables import render, table_names
from fparec_pipeline.results.trials import known_trials, read_trials, trials_path, write_trials
from fparec_pipeline.results.winner import Winner, sentence, winner
from fparec_pipeline.training.record import write_parquet

# Of the two tables that are no study's.
TITLES = {
    "table_1": "Table 1: parameters of one attention layer",
    "table_2": "Table 2: statistics of the datasets",
}
UPSTREAM = {"table_1": [], "table_2": ["splits"]}


def result_assets(config: Config) -> list[dg.AssetsDefinition]:
    """`trials`, `medians` and `leaderboard` by dataset, and each table, figure and the report."""
    tables = [_table_asset(config, name) for name in table_names(config)]
    figures = [_figure_asset(config, name) for name in FIGURES]
    return [
        _trials_asset(config),
        _medians_asset(config),
        _leaderboard_asset(config),
        *tables,
        *figures,
        _report_asset(config),
    ]


def _by_dataset(config: Config, **own: Any) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """`dg.asset` of a result of each dataset, rendered again whenever its trials change."""
    return _result(partitions_def=dataset_partitions(config), group_name="results", **own)


def _result(
    *, code_version: str = "1", **own: Any
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """`dg.asset` of a result that is rendered again whenever what it is made of changes."""
    return dg.asset(
        owners=["team:research"],
        code_version=code_version,
        automation_condition=keep_current(),
        **own,
    )


def _trials_asset(config: Config) -> dg.AssetsDefinition:
    @_by_dataset(
        config,
        deps=[*training_keys(config), "references"],
        kinds={"polars"},
        check_specs=check_specs(TRIAL_CHECKS, "trials"),
        description="All finished trials of a dataset as one frame, one row for each, read from "
        "their folders. Every result is made from it.",
    )
    @explained
    def trials(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        dataset, data = context.partition_key, workspace.data
        frame = write_trials(data, config, dataset)
        return dg.MaterializeResult(
            # Collected again with nothing new, it makes nothing downstream look out of date.
            data_version=dg.DataVersion(digests(frame).get(dataset, "none")),
            check_results=check_results(TRIAL_CHECKS, frame, data),
            metadata={
                "dagster/column_schema": column_schema(frame),
                "trained": int(frame["trained"].sum()),
                "untrained": int((~frame["trained"]).sum()),
                "stale": int(frame["stale"].sum()),
                "published": int(frame["published"].sum()),
                "dagster/row_count": frame.height,
                "path": dg.MetadataValue.path(trials_path(data, dataset)),
            },
        )

    return trials


def _medians_asset(config: Config) -> dg.AssetsDefinition:
    @_by_dataset(
        config,
        deps=["trials"],
        kinds={"polars"},
        code_version="3",
        check_specs=check_specs(MEDIAN_CHECKS, "medians"),
        description="The median over seeds of every model of a dataset that has a trial, with "
        "95 % intervals over users. Provisional with fewer than three seeds.",
    )
    @explained
    def medians(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        data, dataset = workspace.data, context.partition_key
        frame = available_medians(read_trials(data, dataset))
        frame = with_intervals(frame, UserRanks(config, data))
        path = medians_path(data, dataset)
        write_parquet(path, frame)
        return dg.MaterializeResult(
            check_results=check_results(MEDIAN_CHECKS, frame, data),
            metadata={
                "dagster/column_schema": column_schema(frame),
                "models": int(frame["trained"].sum()),
                "provisional": int(frame["provisional"].sum()),
                "dagster/row_count": frame.height,
                "path": dg.MetadataValue.path(path),
            },
        )

    return medians


def _leaderboard_asset(config: Config) -> dg.AssetsDefinition:
    @_by_dataset(
        config,
        deps=["medians"],
        kinds={"polars", "mlflow"},
        code_version="2",
        description="All models of a dataset, best first; provisional with fewer than three seeds.",
    )
    @explained
    def leaderboard(
        context: dg.AssetExecutionContext, workspace: Workspace
    ) -> dg.MaterializeResult:
        from fparec_pipeline.tracking import Medians, Tracker

        data, dataset = workspace.data, context.partition_key
        frame = ranked(pl.read_parquet(medians_path(data, dataset)), dataset)
        found = winner(frame, dataset, UserRanks(config, data))
        markdown = leaderboard_markdown(frame.to_dicts(), config.titles_on(dataset), found)
        numbers = winner_metrics(found)
        published = _publish(data, f"leaderboard_{dataset}", markdown, frame.to_dicts(), numbers)
        medians = Medians(Tracker(None, data))
        logged = medians.log(dataset, frame.to_dicts())
        links = {"mlflow": dg.MetadataValue.url(medians.url(dataset))} if logged else {}
        return dg.MaterializeResult(metadata=winner_metadata(found, config) | links | published)

    return leaderboard


def _table_asset(config: Config, name: str) -> dg.AssetsDefinition:
    study = config.studies.get(name)
    title = study.title if study else TITLES[name]
    deps: list[str] = ["trials"] if study else UPSTREAM[name]

    @_result(
        name=name,
        deps=deps,
        group_name="tables",
        kinds={"polars", "mlflow"},
        description=f"{title} (with the paper's numbers, if it has any).",
    )
    @explained
    def table(workspace: Workspace) -> dg.MaterializeResult:
        data = workspace.data
        markdown, rows = render(name, known_trials(read_trials(data), config), config, data)
        metrics = table_metrics(rows)
        return dg.MaterializeResult(metadata=_publish(data, name, markdown, rows, metrics))

    return table


def _figure_asset(config: Config, name: str) -> dg.AssetsDefinition:
    """Figures 1 and 3 are by dataset, Figure 4 needs no trial."""

    @dg.asset(
        name=name,
        partitions_def=dataset_partitions(config) if name in ARMS else None,
        deps=["trials"] if name in ARMS else [],
        group_name="figures",
        kinds={"matplotlib"},
        owners=["team:research"],
        code_version="1",
        description=f"{FIGURES[name]}. A missing trial is a gap that names the command to run.",
    )
    @explained
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
    @_result(
        deps=["trials"],
        group_name="results",
        kinds={"html", "mlflow"},
        description="Everything in one HTML file: verdicts, tables, figures, provenance.",
    )
    @explained
    def report(workspace: Workspace) -> dg.MaterializeResult:
        from fparec_pipeline.results.report import path_of, write_report
        from fparec_pipeline.tracking import Tracker

        data = workspace.data
        tracker = Tracker(None, data)
        trials = known_trials(read_trials(data), config)
        written = write_report(trials, data, config, tracker.trial_urls())
        run_id = tracker.log_report(written.html, written.numbers)
        url = tracker.artifact_url(run_id, "report.html") if run_id else None
        return dg.MaterializeResult(
            metadata={
                **{name: dg.MetadataValue.int(int(n)) for name, n in written.numbers.items()},
                # A browser follows no link from Dagster's page to a file; MLflow serves it.
                **({"report": dg.MetadataValue.url(url)} if url else {}),
                "path": dg.MetadataValue.path(path_of(data).resolve()),
            }
        )

    return report


def winner_metadata(found: Winner | None, config: Config) -> dict[str, Any]:
    """The answer in words, and in numbers that the page plots over time."""
    if found is None:
        return {}
    titles = config.titles_on(found.dataset)
    numbers: dict[str, Any] = {
        "best_model": titles.get(found.arm, found.arm),
        "best_ndcg_at_10": dg.MetadataValue.float(found.median),
        "significantly_ahead_of_all": dg.MetadataValue.bool(found.sure),
        "models_not_told_from_the_best": dg.MetadataValue.int(len(found.level)),
        "published": dg.MetadataValue.bool(found.published),
    }
    if found.margin is not None:
        numbers["margin_ndcg_at_10"] = dg.MetadataValue.float(found.margin)
    return {"answer": sentence(found, titles)} | numbers


def winner_metrics(found: Winner | None) -> dict[str, float]:
    """The answer in numbers, as MLflow's run of the leaderboard has them."""
    if found is None:
        return {}
    numbers = {"best/ndcg_at_10": found.median, "best/not_ahead_of": len(found.not_ahead_of)}
    return numbers if found.margin is None else numbers | {"best/margin": found.margin}


def table_metrics(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The medians of a study's table as MLflow's run of it has them: dataset/arm/metric."""
    return {
        f"{row['dataset']}/{row['model']}/{row['metric'].removeprefix('test/')}": row["ours"]
        for row in rows
        if "metric" in row and row["ours"] is not None
    }


def _publish(
    data: DataRoot,
    name: str,
    markdown: str,
    rows: list[dict],
    metrics: dict[str, float] | None = None,
) -> dict[str, Any]:
    """To a file and to MLflow; returns what Dagster's page shows."""
    from fparec_pipeline.tracking import Tracker

    path = data.results / f"{name}.md"
    with write_atomically(path) as part:
        part.write_text(markdown, encoding="utf-8")
    tracker = Tracker(None, data)
    run_id = tracker.log_table(name, markdown, rows, metrics)
    url = tracker.run_url(run_id) if run_id else None
    return {
        "table": dg.MetadataValue.md(markdown),
        "path": dg.MetadataValue.path(path),
        **({"mlflow_run": dg.MetadataValue.url(url)} if url else {}),
    }
