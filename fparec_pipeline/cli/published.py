"""`fparec results`: published results in and out of the trial store, and their tables.

Here belong the options and what is printed. What is published, and how it is read, belongs to
`results/`.
"""

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from fparec_pipeline.cli.shared import app, console, split_names
from fparec_pipeline.cli.store import bring_up_to_date
from fparec_pipeline.config import known, load_config
from fparec_pipeline.paths import PUBLISHED, DataRoot

published = typer.Typer(
    no_args_is_help=True, help="Published results: import them, export yours, print their tables."
)
app.add_typer(published, name="results")


@published.command("import")
def import_(
    source: Annotated[
        Path, typer.Option("--from", help="The folder of published results.")
    ] = PUBLISHED,
) -> None:
    """Import published trials, so that tables show them without training.

    They are marked as published. Trials that you have already are not touched. Only a few come with
    weights, for the paper's figures: `promote --no-refit` needs a trial that was trained here.
    """
    from fparec_pipeline.results.published import import_results

    data = DataRoot.default().writable()
    with Progress(console=console) as bars:
        bar = bars.add_task("published trials", total=None)

        def show(done: int, total: int) -> None:
            bars.update(bar, completed=done, total=total)

        done = import_results(source, data, show)
    console.print(
        f"{len(done.added)} published trials were imported; {len(done.kept)} were there already."
    )
    bring_up_to_date(data, load_config(data))


@published.command()
def export(
    datasets: Annotated[str | None, typer.Option(help="Comma-separated; default: all.")] = None,
    target: Annotated[
        Path, typer.Option("--to", help="The folder, which is replaced.")
    ] = PUBLISHED,
) -> None:
    """Write the finished trials as published results; of weights only what the figures show."""
    from fparec_pipeline.results.published import export_results

    data = DataRoot.default()
    config = load_config(data)
    names = [known(name, config.datasets, "dataset") for name in split_names(datasets)]
    written = export_results(data, config, target, names or None)
    console.print(f"{len(written)} trials were written to {target}", highlight=False)


@published.command()
def tables(
    source: Annotated[
        Path, typer.Option("--from", help="The folder of published results.")
    ] = PUBLISHED,
) -> None:
    """Print the tables of the README and of docs/results.md.

    They are computed from the published trials alone, in a folder that is removed afterwards.
    """
    from fparec_pipeline.results.published import import_results
    from fparec_pipeline.results.published_tables import published_tables, readme_table

    with tempfile.TemporaryDirectory() as folder:
        data = DataRoot(Path(folder))
        import_results(source, data)
        config = load_config(data)
        typer.echo("\n\n".join([readme_table(data, config), *published_tables(data, config)]))


@published.command()
def repeats(
    dataset: Annotated[str, typer.Option(help="A dataset whose splits are in the data root.")],
) -> None:
    """Print how often each model finds repeated and new targets: medians over seeds.

    A repeated target is an item that the user has had before. Code descended from S3Rec counts
    these as misses; the last two columns do the same.
    """
    from fparec_pipeline.datasets.splits import read_splits
    from fparec_pipeline.results.repeats import repeats_table
    from fparec_pipeline.results.trials import trials_frame

    data = DataRoot.default()
    config = load_config(data)
    splits = read_splits(data.splits(known(dataset, config.datasets, "dataset")))
    typer.echo(repeats_table(splits, trials_frame(data, config), config, data))
