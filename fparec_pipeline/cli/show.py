"""How results look on the terminal; what several command families print."""

from collections.abc import Iterable

from rich.markdown import Markdown
from rich.markup import escape

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
    note_outdated([dataset], config, data)
    if licence := config.datasets[dataset].licence:
        console.print(f"Licence of the data: {licence}", markup=False, highlight=False)


def note_outdated(datasets: Iterable[str], config: Config, data: DataRoot) -> None:
    """A line for each dataset whose splits are not of today's raw file and entry."""
    from fparec_pipeline.datasets.splits import why_outdated

    for name in datasets:
        if reason := why_outdated(name, config.datasets[name], data):
            text = f"{name}: the splits are outdated: {reason}. `fparec run --datasets {name}`"
            text = f"[yellow]Note:[/] {escape(text)} makes them again and trains anew."
            console.print(text, highlight=False, soft_wrap=True)
