"""Commands that show results: leaderboard, tables, figures and the report.

Here belong the options and formats. What several families print stands in `show.py`; how a result
is made belongs to `results/`.
"""

import json
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from fparec_pipeline.cli.shared import app, console
from fparec_pipeline.cli.show import (
    block_table,
    leaderboard_rows,
    number,
    print_leaderboard,
)
from fparec_pipeline.config import known, load_config
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training.metrics import METRICS, RANKINGS

FORMATS = ("md", "csv", "json")
LEADERBOARD = f"""Print the medians of a dataset's finished trials, best model first.

Metrics are named ranking/metric, as in test/ndcg_at_10. Rankings: {", ".join(RANKINGS)} \
("unseen" removes the history from the candidates). Metrics: {", ".join(METRICS)}.
"""


@app.command(help=LEADERBOARD)
def leaderboard(
    dataset: Annotated[str, typer.Option(help="The dataset.")],
    metric: Annotated[str, typer.Option(help="What to sort by.")] = "test/ndcg_at_10",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: a list with one object for each model.")
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
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="md, csv or json; default: a table for the terminal, md in a pipe or file.",
        ),
    ] = "",
) -> None:
    """Print a table of the paper or of a study, with the paper's numbers beside ours.

    In a pipe or a file it is markdown, with intervals; `--format csv` and `--format json` have a
    row for each dataset, model and metric.
    """
    import polars as pl

    from fparec_pipeline.results.tables import render, rendered_study, table_names
    from fparec_pipeline.results.trials import trials_frame

    data = DataRoot.default()
    config = load_config(data)
    names = {name.removeprefix("table_"): name for name in table_names(config)}
    chosen = names[known(name.removeprefix("table_"), names, "table")]
    known(form or "md", FORMATS, "format")
    trials = trials_frame(data, config)
    if not form and console.is_terminal and chosen in config.studies:
        shown = rendered_study(chosen, trials, config, data)
        console.print(Text(shown.title, style="bold"))
        for block in shown.blocks:
            console.print(block_table(block))
        absent = set(config.studies[chosen].datasets) - {block.dataset for block in shown.blocks}
        for dataset in sorted(absent):
            command = f"fparec run --study {chosen} --datasets {dataset}"
            console.print(f"Not run: {dataset} ({command})", markup=False, highlight=False)
        return
    markdown, rows = render(chosen, trials, config, data)
    if form == "json":
        typer.echo(json.dumps(rows, indent=2))
    elif form == "csv":
        flat = [
            {k: v for k, v in row.items() if k != "interval"}
            | dict(zip(("low", "high"), row.get("interval") or (None, None), strict=True))
            for row in rows
        ]
        typer.echo(pl.DataFrame(flat, infer_schema_length=None).write_csv(), nl=False)
    else:
        typer.echo(markdown)


@app.command()
def compare(
    dataset: Annotated[str, typer.Argument(help="A dataset with finished trials.")],
) -> None:
    """Say which model wins on a dataset, whether that is sure, what it cost, what to try next.

    Example: fparec compare beauty
    """
    from fparec_pipeline.results.medians import available_medians
    from fparec_pipeline.results.medians import leaderboard as ranked
    from fparec_pipeline.results.significance import UserRanks
    from fparec_pipeline.results.trials import trials_frame
    from fparec_pipeline.results.winner import seconds_beside, sentence, winner

    data = DataRoot.default()
    config = load_config(data)
    known(dataset, config.datasets, "dataset")
    trials = trials_frame(data, config, dataset)
    frame = ranked(available_medians(trials), dataset)
    found = winner(frame, dataset, UserRanks(config, data))
    if found is None:
        console.print(
            f"No model has been trained on {dataset}: `fparec run --datasets {dataset}` trains the "
            "benchmark's.",
            highlight=False,
        )
        return
    titles = config.titles_on(dataset)
    console.print(sentence(found, titles), markup=False, highlight=False)
    seconds = seconds_beside(found, trials)
    table = Table("against", "NDCG@10", "mean difference", "p (Holm)", "seconds a trial", box=None)
    for rival in found.rivals:
        table.add_row(
            Text(titles.get(rival.arm, rival.arm)),
            number(rival.median),
            "—" if rival.difference is None else f"{rival.difference:+.4f}",
            "—" if rival.p_holm is None else f"{rival.p_holm:.2g}",
            f"{seconds[rival.arm]:,.0f}" if rival.arm in seconds else "—",
        )
    console.print(table)
    console.print(f"A trial of the winner took {seconds[found.arm]:,.0f} s.", highlight=False)
    if any(rival.arm not in seconds for rival in found.rivals):
        console.print(
            "— seconds: trained on other hardware or another device than the winner.",
            highlight=False,
        )
    few = [row["model"] for row in frame.to_dicts() if row["provisional"]]
    absent = [a for a in config.studies["benchmark"].arms if a not in frame["model"]]
    if few or absent:
        names = ",".join(dict.fromkeys(few + absent))
        advice = f"fparec run --datasets {dataset} --models {names}"
    elif found.sure:
        advice = "nothing: it is ahead of all"
    else:
        advice = f"other windows, with fparec run --study sequence_length --datasets {dataset}"
    console.print(f"To try next: {advice}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def figure(
    number: Annotated[str, typer.Argument(help="1, 3 or 4, as in the paper.")],
    dataset: Annotated[
        str | None,
        typer.Option(help="The dataset of Figures 1 and 3; default: one that has trials."),
    ] = None,
) -> None:
    """Draw a figure of the paper as PNG and SVG, and print the paths.

    Figures 1 and 3 need the weights of finished trials; the message says how to train what is
    missing.

    Example: fparec figure 3 --dataset ml-latest-small
    """
    from fparec_pipeline.results.paper_figures import ARMS, FIGURES, draw, is_drawable, write

    data = DataRoot.default().writable()
    config = load_config(data)
    name = f"figure_{known(number, [n.removeprefix('figure_') for n in FIGURES], 'figure')}"
    if dataset is None:
        there = (d for d in config.datasets if name in ARMS and is_drawable(name, d, config, data))
        dataset = next(there, "ml-1m")
    known(dataset, config.datasets, "dataset")
    drawn = draw(name, dataset, config, data)
    for note in drawn.notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    for path in write(drawn, data):
        typer.echo(path)


@app.command()
def report() -> None:
    """Write the report (one HTML file) and print its path.

    It shows who wins, the paper's claims with their verdicts, tables, figures, learning curves, and
    how each number was made. Missing trials are gaps that name the command to train them.
    """
    from fparec_pipeline.results.report import path_of, write_report
    from fparec_pipeline.results.trials import trials_frame
    from fparec_pipeline.tracking import Tracker

    data = DataRoot.default().writable()
    config, tracker = load_config(data), Tracker(None, data)
    trials = trials_frame(data, config)
    written = write_report(trials, data, config, tracker.trial_urls())
    tracker.log_report(written.html, written.numbers)
    typer.echo(path_of(data))
