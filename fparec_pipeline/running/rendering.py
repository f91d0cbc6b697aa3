"""Renders the results of trials that came in without Dagster: copied by hand, or imported.

Here belongs which results are outdated. How one is rendered belongs to its asset.
"""

from collections.abc import Collection, Iterator

from fparec_pipeline.results.tables import table_names
from fparec_pipeline.results.trials import read_trials, trials_frame, trials_path
from fparec_pipeline.running.context import Context
from fparec_pipeline.running.materialization import materialize
from fparec_pipeline.training.record import trial_folders

BY_DATASET = ("trials", "medians", "leaderboard")


def outdated(context: Context, in_mlflow: Collection[str] | None = None) -> list[str]:
    """The configured datasets whose finished trials are others than the results show.

    Args:
        context: whose trials and results.
        in_mlflow: the datasets whose medians MLflow has: the others count as outdated, such as all
            of them after its store was deleted. None: it is not looked at.
    """
    with_trials = {folder.parts[-3] for folder in trial_folders(context.data)}
    absent = with_trials - set(with_trials if in_mlflow is None else in_mlflow)
    return [
        name
        for name in context.config.datasets
        if name in with_trials and (name in absent or _is_new(name, context))
    ]


def _is_new(dataset: str, context: Context) -> bool:
    if not trials_path(context.data, dataset).exists():
        return True
    found = trials_frame(context.data, context.config, dataset)
    return not found.equals(read_trials(context.data, dataset))


def render(datasets: list[str], context: Context) -> Iterator[tuple[str, str | None]]:
    """Materialise trials, medians and leaderboard of each dataset, then all tables and the report.

    Yields:
        What was rendered, and the error's text where it failed.
    """
    for dataset in datasets:
        yield dataset, materialize(BY_DATASET, context, "render_medians", partition=dataset)
    if datasets:
        yield (
            "tables and report",
            materialize([*table_names(context.config), "report"], context, "render_tables"),
        )
