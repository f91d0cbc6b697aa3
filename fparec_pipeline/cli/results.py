"""Commands that show results: leaderboard, tables, figures and the report."""

import json
from typing import Annotated

import typer

from fparec_pipeline.cli.shared import app, console
from fparec_pipeline.cli.show import leaderboard_rows, print_leaderboard
from fparec_pipeline.config import known, load_config
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training.metrics import METRICS, RANKINGS

LEADERBOARD = f"""Medians of the finished trials of a dataset, best model first.

Metrics are named ranking/metric, as in test/ndcg_at_10. Rankings: {", ".join(RANKINGS)} \
("unseen" removes the history from the candidates). Metrics: {", ".join(METRICS)}.
"""


@app.command(help=LEADERBOARD)
def leaderboard(
    dataset: Annotated[str, typer.Option(help="The dataset.")],
    metric: Annotated[
        str, typer.Option(help="What to sort by, under its MLflow name.")
    ] = "test/ndcg_at_10",
    as_json: Annotated[
        bool, typer.Option("--json", help="A list of objects, one a model.")
    ] = False,
) -> None:
    """Print the leaderboard as a table or as JSON."""
    data = DataRoot.default()
    config = load_config(data)
    known(dataset, config.datasets, "dataset")
    if as_json:
        typer.echo(json.dumps(leaderboard_rows(config, data, dataset, metric), indent=2))
    else:
        print_leaderboard(config, data, dataset, metric)


@app.command()
def table(
    name: Annotated[
        str, typer.Argument(help="1 to 6, as in the paper, or a study such as sequence_length.")
    ],
) -> None:
    """A table of the paper or of a study, ours beside what was printed, as markdown."""
    from fparec_pipeline.results.tables import render, table_names
    from fparec_pipeline.results.trials import trials_frame

    data = DataRoot.default()
    config = load_config(data)
    names = {name.removeprefix("table_"): name for name in table_names(config)}
    chosen = names[known(name.removeprefix("table_"), names, "table")]
    typer.echo(render(chosen, trials_frame(data, config), config, data)[0])


@app.command()
def figure(
    number: Annotated[str, typer.Argument(help="1, 3 or 4, as in the paper.")],
    dataset: Annotated[
        str, typer.Option(help="Whose trials Figures 1 and 3 show (seed 0 of each).")
    ] = "ml-1m",
) -> None:
    """Draw a figure of the paper as PNG and SVG, and print the paths.

    Figures 1 and 3 need the weights of finished trials; the message says how to train what is
    missing.

    Example: fparec figure 3 --dataset ml-latest-small
    """
    from fparec_pipeline.results.paper_figures import FIGURES, draw, write

    data = DataRoot.default().writable()
    config = load_config(data)
    known(dataset, config.datasets, "dataset")
    name = f"figure_{known(number, [n.removeprefix('figure_') for n in FIGURES], 'figure')}"
    drawn = draw(name, dataset, config, data)
    for note in drawn.notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    for path in write(drawn, data):
        typer.echo(path)


@app.command()
def report() -> None:
    """Write the report, one HTML file, and print its path.

    It shows what is there: claims with their verdicts, tables, figures, learning curves, and how
    each number was made. What has not been trained is a gap with its reason.
    """
    from fparec_pipeline.results.report import path_of, write_report
    from fparec_pipeline.results.trials import trials_frame
    from fparec_pipeline.tracking import Tracker

    data = DataRoot.default().writable()
    config, tracker = load_config(data), Tracker(None, data)
    trials = trials_frame(data, config)
    tracker.log_report(write_report(trials, data, config, tracker.trial_urls()))
    typer.echo(path_of(data))
