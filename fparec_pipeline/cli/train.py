"""`fparec run`: materialise what is missing, with a bar for each trial that is being trained.

Here belong the order of the steps, the bars and the closing lines. Which runs there are belongs to
`defs/requests.py`, how they are followed to `running/`.
"""

from collections.abc import Iterable
from itertools import product
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from fparec_pipeline.cli.shared import app, check_device, chosen, console, stop_at
from fparec_pipeline.cli.show import print_leaderboard
from fparec_pipeline.config import Config, Trial, TrialId, load_config
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training.record import RECORD
from fparec_pipeline.training.record import Progress as EpochProgress

if TYPE_CHECKING:
    from fparec_pipeline.running.context import Context


@app.command()
def run(
    datasets: Annotated[
        str | None, typer.Option(help="Comma-separated datasets; default: those of the study.")
    ] = None,
    models: Annotated[
        str | None, typer.Option(help="Comma-separated models; default: those of the study.")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Comma-separated seeds; default: those of the study.")
    ] = None,
    study: Annotated[
        str, typer.Option(help="The study that says which datasets, models and seeds.")
    ] = "benchmark",
    jobs: Annotated[int, typer.Option(min=1, help="How many trials at a time.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Train finished trials again.")
    ] = False,
) -> None:
    """Train what is missing, from the raw file to the result tables.

    Downloads and splits the datasets, trains the trials that are missing or stale, evaluates the
    untrained references, and writes medians, leaderboard, tables and figures. After a kill, the
    same command resumes from the last checkpoints.

    Example: fparec run --datasets beauty --models fparec,sasrec --seeds 0 --jobs 2
    """
    from fparec_pipeline.results.paper_figures import ARMS, is_drawable
    from fparec_pipeline.running.context import open_context
    from fparec_pipeline.running.liveness import settle_dead_runs
    from fparec_pipeline.running.materialization import materialize
    from fparec_pipeline.running.queue import warm_up
    from fparec_pipeline.running.reporting import report_missing
    from fparec_pipeline.tracking import Tracker

    data = DataRoot.default().writable()
    config = load_config(data)
    check_device(device)
    trials = chosen(config, study, datasets, models, seeds)
    names = list(dict.fromkeys(trial.dataset for trial in trials))
    Tracker(None, data).settle_interrupted()  # opens the store too, before anything runs beside it
    with open_context(data, config) as context:
        settle_dead_runs(context.instance, data)
        if retrain or not all((data.trial(*t.id) / RECORD).exists() for t in trials):
            warm_up(context)  # while the data is prepared
        for dataset in names:
            _prepare(dataset, context)
        missing = _missing(trials, config, data, retrain)
        # An earlier command may have been killed when a trial was finished and not yet reported.
        done = [data.trial(*t.id) for t in trials if t not in missing]
        report_missing(done, config, context.instance)
        failed = _train(missing, context, jobs, device, retrain)
        for dataset in names:
            with console.status(f"{dataset}: medians and leaderboard"):
                keys = ["trials", "medians", "leaderboard"]
                stop_at(materialize(keys, context, "render_medians", partition=dataset))
        with console.status("tables"):
            stop_at(materialize(_tables_of(config, trials), context, "render_tables"))
        with console.status("figures"):
            for name, dataset in product(ARMS, names):
                if is_drawable(name, dataset, config, data):
                    stop_at(materialize([name], context, "render_figures", partition=dataset))
    for dataset in names:
        print_leaderboard(config, data, dataset, "test/ndcg_at_10")
        _print_notes(dataset, data)
    _print_next_steps()
    if failed:
        raise typer.Exit(1)


def _tables_of(config: Config, trials: Iterable[Trial]) -> list[str]:
    """The tables that show any of the trials, and those that need none."""
    from fparec_pipeline.results.tables import table_names

    trained = {(trial.dataset, trial.arm) for trial in trials}
    shown = {
        name: {(t.dataset, t.arm) for t in config.trials(study.datasets, study.arms, [0])}
        for name, study in config.studies.items()
    }
    return [n for n in table_names(config) if n not in shown or shown[n] & trained]


def _print_notes(dataset: str, data: DataRoot) -> None:
    """Rows that were set aside, and what makes the dataset's metrics too good."""
    from fparec_pipeline.datasets.notes import notes
    from fparec_pipeline.datasets.splits import statistics_on_disk

    stats = statistics_on_disk(data.splits(dataset)) or {}
    for note in notes(stats, data.raw(dataset) / "quarantine.parquet"):
        console.print(f"[yellow]Note:[/] {escape(note)}", highlight=False, soft_wrap=True)


def _prepare(dataset: str, context: "Context") -> None:
    from fparec_pipeline.defs.data import splits_are_current
    from fparec_pipeline.running.materialization import materialize

    if splits_are_current(dataset, context.config, context.data):
        with console.status(f"{dataset}: untrained references"):
            stop_at(materialize(["references"], context, "prepare_data", partition=dataset))
    else:
        console.print(f"{dataset}: raw file, splits and their checks, untrained references")
        keys = ["raw", "splits", "references"]
        stop_at(materialize(keys, context, "prepare_data", partition=dataset))


def _missing(trials: Iterable[Trial], config: Config, data: DataRoot, retrain: bool) -> list[Trial]:
    from fparec_pipeline.results.trials import trial_status

    return [trial for trial in trials if retrain or trial_status(trial, config, data) != "done"]


def _train(
    trials: list[Trial], context: "Context", jobs: int, device: str, retrain: bool
) -> list[Trial]:
    """Train with a bar for each running trial; returns those that failed."""
    from fparec_pipeline.running.queue import daemon_is_alive
    from fparec_pipeline.running.training import train

    if not trials:
        console.print("All trials are finished already.")
        return []
    if daemon_is_alive(context.instance):
        console.print("The runs go through the queue of `fparec dev`, with its limits.")
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[news]}"),
        TimeElapsedColumn(),
        console=console,
    )
    tasks: dict[TrialId, TaskID] = {}
    failed = []
    with bars:
        what = "1 trial" if len(trials) == 1 else f"{len(trials)} trials"
        whole = bars.add_task(what, total=len(trials), news="")

        def show(progress: EpochProgress) -> None:
            if progress.trial not in tasks:
                name = f"  {progress.trial}"
                tasks[progress.trial] = bars.add_task(name, total=progress.max_epochs, news="")
            bars.update(tasks[progress.trial], completed=progress.epoch, news=progress.words)

        ends = train(trials, context, jobs=jobs, device=device, retrain=retrain, on_progress=show)
        for outcome in ends:
            name = outcome.trial.id
            if (task := tasks.pop(name, None)) is not None:
                bars.remove_task(task)
            if outcome.error:
                failed.append(outcome.trial)
                bars.console.print(
                    f"[red]failed[/] {name}: {escape(outcome.error)}",
                    highlight=False,
                    soft_wrap=True,
                )
            else:
                bars.console.print(f"[green]done[/]   {name}")
            bars.advance(whole)
    return failed


def _print_next_steps() -> None:
    console.print(
        "\nAssets and runs: fparec dev, then http://127.0.0.1:3000 (Dagster) and\n"
        "                 http://127.0.0.1:5000 (MLflow)\n"
        "The report:      fparec report, one HTML file\n"
        "The paper's five datasets:  fparec run --datasets beauty,toys,sports,yelp,ml-1m --jobs 2",
        highlight=False,
    )
