"""What the command families share: the typer app, the console, options, and how errors look.

A family is a module of this package that registers its commands on `app`. What only one family
needs belongs there; heavy libraries are imported inside the commands, so that `--help` answers at
once.
"""

from importlib.metadata import version
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from fparec_pipeline.config import Config, Trial, known

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Train and compare sequential recommenders, and use the best one.\n\n"
    "A trial is one model trained on one dataset with one seed. Its finished folder in data/trials "
    "is kept and reused: tables, Dagster's page and MLflow's runs are made from these folders.",
)
console = Console()


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fparec_pipeline {version('fparec_pipeline')}")
        raise typer.Exit


@app.callback()
def main(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


DEVICES = ("auto", "cpu", "cuda", "mps")
Names = Annotated[str | None, typer.Option(help="Comma-separated names.")]


def chosen(
    config: Config, study: str, datasets: str | None, models: str | None, seeds: str | None
) -> list[Trial]:
    """The trials that the options name."""
    base = config.studies[known(study, config.studies, "study")]
    wanted = split_names(datasets) or base.datasets
    arms = split_names(models) or base.arms
    numbers = [
        int(known(seed, map(str, config.seeds), "seed")) for seed in split_names(seeds)
    ] or base.seeds
    return config.trials(wanted, arms, numbers)


def check_device(device: str) -> None:
    """Raises ConfigError where no device is called so; cuda:1 is one of cuda."""
    known(device.partition(":")[0], DEVICES, "device")


def split_names(names: str | None) -> list[str]:
    """The names of a comma-separated option; none of them is empty."""
    return [name.strip() for name in names.split(",") if name.strip()] if names else []


def stop_at(error: str | None) -> None:
    """End the command with status 2 where there is an error, as Ctrl-C does where it was that."""
    stop_if_interrupted(error)
    if error:
        print_error(error)
        raise typer.Exit(2)


def stop_if_interrupted(error: str | None) -> None:
    """End the command where the error is what Dagster makes of Ctrl-C."""
    if error and "DagsterExecutionInterruptedError" in error:
        raise KeyboardInterrupt


def print_error(message: str) -> None:
    """One line on stderr."""
    # Not wrapped, so that paths and commands in it can be copied; [names] in it are no markup.
    text = f"[bold red]Error:[/] {escape(message)}"
    Console(stderr=True).print(text, highlight=False, soft_wrap=True)
