"""How results look on the terminal; what several command families print."""

from rich.markdown import Markdown

from fparec_pipeline.cli.shared import console
from fparec_pipeline.config import Config
from fparec_pipeline.paths import DataRoot


def leaderboard_rows(config: Config, data: DataRoot, dataset: str, metric: str) -> list[dict]:
    """The leaderboard of the finished trials, best model first."""
    from fparec_pipeline.results.medians import available_medians, leaderboard
    from fparec_pipeline.results.trials import trials_frame

    medians = available_medians(trials_frame(data, config, dataset))
    return leaderboard(medians, dataset, metric).to_dicts()


def print_leaderboard(config: Config, data: DataRoot, dataset: str, metric: str) -> None:
    """The leaderboard as a table, with the licence of the data."""
    from fparec_pipeline.results.study_table import escaped, leaderboard_markdown

    rows = leaderboard_rows(config, data, dataset, metric)
    title = config.datasets[dataset].title or dataset
    console.print(Markdown(f"# {escaped(title)}\n\n{leaderboard_markdown(rows, config)}"))
    if licence := config.datasets[dataset].licence:
        console.print(f"Licence of the data: {licence}", markup=False, highlight=False)
