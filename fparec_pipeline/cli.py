"""The `fparec` command: a thin skin over the same assets that `dagster dev` shows.

Heavy libraries are imported inside the commands, so that `--help` answers at once.
"""

import json
import shutil
import signal
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from fparec_pipeline.config import Config, ConfigError, Trial, known, load_config
from fparec_pipeline.paths import PUBLISHED, DataRoot
from fparec_pipeline.training.record import Progress as EpochProgress

if TYPE_CHECKING:
    from dagster import DagsterInstance

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Positional attention for sequential recommendation: data, training and honest tables.\n\n"
    "A trial is one (dataset, model, seed). Its finished folder under data/trials is the fact; "
    "the tables, Dagster's page and MLflow's runs are made from it. All commands reuse what is "
    "there.",
)
console = Console()

results = typer.Typer(
    no_args_is_help=True, help="Published results: bring them in, or make such a folder."
)
app.add_typer(results, name="results")

DEVICES = ("auto", "cpu", "cuda", "mps")
Names = Annotated[str | None, typer.Option(help="Comma-separated names.")]


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
    study: Annotated[str, typer.Option(help="Whose datasets, models and seeds.")] = "benchmark",
    jobs: Annotated[int, typer.Option(min=1, help="Trials side by side, a process each.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Train again what is already there.")
    ] = False,
) -> None:
    """Materialise whatever is missing, from raw file to result table.

    Downloads and splits the datasets, trains the trials that have no finished folder of today's
    configuration, evaluates the untrained references, and renders medians, leaderboard,
    tables and figures. A killed run resumes from its last checkpoints.

    Example: fparec run --datasets beauty --models fparec,sasrec --seeds 0 --jobs 2
    """
    from fparec_pipeline.materialize import (
        instance,
        materialize,
        report_missing,
        settle_dead_runs,
    )
    from fparec_pipeline.results.paper_figures import ARMS, is_drawable
    from fparec_pipeline.tracking import Tracker

    data = DataRoot.default()
    config = load_config(data)
    known(device.partition(":")[0], DEVICES, "device")
    trials = _chosen(config, study, datasets, models, seeds)
    names = list(dict.fromkeys(trial.dataset for trial in trials))
    Tracker(None, data).settle_interrupted()  # opens the store too, before anything runs beside it
    with instance(data) as on:
        settle_dead_runs(on)
        for dataset in names:
            _prepare(dataset, data, on)
        missing = _missing(trials, data, retrain)
        # An earlier command may have been killed when a trial was finished and not yet reported.
        done = [data.trial(t.dataset, t.model, t.seed) for t in trials if t not in missing]
        report_missing(done, config, on)
        failed = _train(missing, data, jobs, device, retrain)
        for dataset in names:
            with console.status(f"{dataset}: medians and leaderboard"):
                _stop_at(materialize(["medians", "leaderboard"], data, on, partition=dataset))
        with console.status("tables"):
            _stop_at(materialize(_tables_of(config, trials), data, on))
        with console.status("figures"):
            for name, dataset in product(ARMS, names):
                if is_drawable(name, dataset, config, data):
                    _stop_at(materialize([name], data, on, partition=dataset))
    for dataset in names:
        _print_leaderboard(config, data, dataset, "test/ndcg_at_10")
    _print_next_steps()
    if failed:
        raise typer.Exit(1)


@app.command()
def status(
    datasets: Names = None,
    models: Names = None,
    seeds: Names = None,
    study: Annotated[str, typer.Option(help="Whose models and seeds.")] = "benchmark",
) -> None:
    """Which trials are done, running, interrupted, stale or missing.

    Stale: finished, but today's configuration, training code or splits would give another trial.
    Stale trials stand in no table; `fparec run` trains them anew.
    """
    from fparec_pipeline.results.frame import trial_status

    data = DataRoot.default()
    config = load_config(data)
    trials = _chosen(config, study, datasets or ",".join(config.datasets), models, seeds)
    states = {
        (t.dataset, t.model, t.seed): trial_status(data.trial(t.dataset, t.model, t.seed), t, data)
        for t in trials
    }
    columns = sorted({t.seed for t in trials})
    table = Table("dataset", "model", *(f"seed {seed}" for seed in columns))
    for dataset, model in dict.fromkeys((t.dataset, t.model) for t in trials):
        cells = [states.get((dataset, model, seed), "") for seed in columns]
        if datasets or any(state != "missing" for state in cells):
            table.add_row(dataset, model, *(_coloured(state) for state in cells))
    console.print(table)
    console.print(
        f"{sum(state == 'done' for state in states.values())} of {len(states)} trials are done; "
        "rows where nothing was started are left out."
    )


@app.command()
def leaderboard(
    dataset: Annotated[str, typer.Option(help="The dataset.")],
    metric: Annotated[
        str, typer.Option(help="What to sort by, under its MLflow name.")
    ] = "test/ndcg_at_10",
    as_json: Annotated[
        bool, typer.Option("--json", help="A list of objects, one a model.")
    ] = False,
) -> None:
    """Medians of the finished trials of a dataset, best model first.

    Metrics are named part/metric: test, test_unseen (history removed from the candidates), valid,
    valid_unseen; hr_at_k and ndcg_at_k for k in 1, 5, 10, 20, 50, and mrr.
    """
    data = DataRoot.default()
    config = load_config(data)
    known(dataset, config.datasets, "dataset")
    if as_json:
        typer.echo(json.dumps(_leaderboard(config, data, dataset, metric), indent=2))
    else:
        _print_leaderboard(config, data, dataset, metric)


@app.command()
def table(
    name: Annotated[
        str, typer.Argument(help="1 to 6, as in the paper, or a study such as sequence_length.")
    ],
) -> None:
    """A table of the paper or of a study, ours beside what was printed, as markdown."""
    from fparec_pipeline.results.studies import render, table_names

    data = DataRoot.default()
    config = load_config(data)
    names = {name.removeprefix("table_"): name for name in table_names(config)}
    typer.echo(render(names[known(name.removeprefix("table_"), names, "table")], config, data)[0])


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

    data = DataRoot.default()
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
    from fparec_pipeline.tracking import Tracker

    data = DataRoot.default()
    tracker = Tracker(None, data)
    tracker.log_report(write_report(data, load_config(data), tracker.trial_urls()))
    typer.echo(path_of(data))


@app.command()
def sync() -> None:
    """Bring MLflow and Dagster up to date with the trial folders.

    Idempotent. Completes what was trained while MLflow could not be reached, shows trials that
    were copied in from elsewhere, and settles runs whose process died.
    """
    data = DataRoot.default()
    if not _sync(data, load_config(data)):
        raise typer.Exit(1)


@results.command("import")
def import_(
    source: Annotated[
        Path, typer.Option("--from", help="The folder of published results.")
    ] = PUBLISHED,
) -> None:
    """Bring published trials into the trial store, MLflow and Dagster, marked as published.

    Leaderboards and tables then answer as if the trials had been trained here. A trial that is
    there already is left as it is. The weights are not published.
    """
    from fparec_pipeline.results.published import import_results

    data = DataRoot.default()
    with console.status("published trials"):
        done = import_results(source, data)
    console.print(
        f"{len(done.added)} published trials are brought in; {len(done.kept)} were there already."
    )
    _sync(data, load_config(data))


@results.command()
def export(
    datasets: Annotated[str | None, typer.Option(help="Comma-separated; default: all.")] = None,
    target: Annotated[Path, typer.Option("--to", help="Replaced.")] = PUBLISHED,
) -> None:
    """Write all finished trials that are not stale, but their weights, as published results."""
    from fparec_pipeline.results.published import export_results

    data = DataRoot.default()
    config = load_config(data)
    names = [known(name, config.datasets, "dataset") for name in _split(datasets)]
    written = export_results(data, config, target, names or None)
    console.print(f"{len(written)} trials are published in {target}", highlight=False)


def _sync(data: DataRoot, config: Config) -> bool:
    """Bring MLflow and Dagster up to date; False when MLflow cannot be reached."""
    from fparec_pipeline.materialize import instance, report_missing, settle_dead_runs
    from fparec_pipeline.tracking import Tracker
    from fparec_pipeline.training.record import trial_folders

    folders = trial_folders(data)
    with console.status(f"{len(folders)} trials"), instance(data) as on:
        synced = Tracker(None, data).sync_all(folders)
        reported = report_missing(folders, config, on)
        settled = settle_dead_runs(on)
    console.print(
        f"MLflow: {synced} trials are up to date."
        if synced is not None
        else "MLflow cannot be reached; run `fparec sync` again when it can."
    )
    console.print(
        f"Dagster: {reported} materializations were missing and are now recorded; "
        f"{settled} runs whose process had died are marked as failed."
    )
    return synced is not None


@app.command()
def clean(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete interrupted trials with their checkpoints, and stale trials, after asking.

    Nothing that stands in a table is touched, and nothing that is running.
    """
    from fparec_pipeline.results.frame import disposable

    data = DataRoot.default()
    folders = disposable(data, load_config(data))
    if not folders:
        console.print("There is nothing to delete.")
        return
    for folder, reason in folders:
        size = sum(path.stat().st_size for path in folder.iterdir())
        console.print(f"{reason:12} {folder.relative_to(data.root)}  {size / 1e6:.1f} MB")
    if yes or typer.confirm(f"Delete these {len(folders)} folders?"):
        for folder, _ in folders:
            shutil.rmtree(folder)


@app.command()
def dev(
    dagster_port: Annotated[int, typer.Option(help="Dagster's page.")] = 3000,
    mlflow_port: Annotated[int, typer.Option(help="MLflow's page.")] = 5000,
) -> None:
    """Serve Dagster and MLflow on this machine until Ctrl-C, which ends both.

    Both listen on 127.0.0.1 only: neither asks who is there, so whoever reaches the ports can
    start runs and read all results.
    """
    from fparec_pipeline.serve import serve

    raise typer.Exit(serve(DataRoot.default(), dagster_port, mlflow_port))


def main() -> None:
    """The console script: errors that a user can mend are printed without a traceback.

    Ctrl-C and `kill` end it, also where a script has started it in the background: there SIGINT is
    ignored, and Dagster has SIGTERM do what SIGINT does.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from fparec_pipeline.datasets.files import DatasetError
    from fparec_pipeline.results.paper_figures import FigureMissing
    from fparec_pipeline.training.record import PublishedError, TrialCorrupt, TrialLocked

    try:
        app()
    except (
        ConfigError,
        DatasetError,
        FigureMissing,
        OSError,
        PublishedError,
        TrialCorrupt,
        TrialLocked,
    ) as error:
        _print_error(str(error))
        raise SystemExit(2) from None


def _chosen(
    config: Config, study: str, datasets: str | None, models: str | None, seeds: str | None
) -> list[Trial]:
    """The trials that the options name."""
    base = config.studies[known(study, config.studies, "study")]
    wanted = _split(datasets) or base.datasets
    arms = _split(models) or base.models
    numbers = [
        int(known(seed, map(str, config.seeds), "seed")) for seed in _split(seeds)
    ] or base.seeds
    return config.trials(wanted, arms, numbers)


def _tables_of(config: Config, trials: Iterable[Trial]) -> list[str]:
    """The tables that show any of the trials, and those that need none."""
    from fparec_pipeline.results.studies import table_names

    trained = {(trial.dataset, trial.model) for trial in trials}
    shown = {
        name: {(t.dataset, t.model) for t in config.trials(study.datasets, study.models, [0])}
        for name, study in config.studies.items()
    }
    return [n for n in table_names(config) if n not in shown or shown[n] & trained]


def _split(names: str | None) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()] if names else []


def _prepare(dataset: str, data: DataRoot, on: "DagsterInstance") -> None:
    from fparec_pipeline.defs.data import splits_are_current
    from fparec_pipeline.defs.resources import Workspace
    from fparec_pipeline.materialize import materialize

    if not splits_are_current(dataset, Workspace(data_root=str(data.root))):
        console.print(f"{dataset}: raw file, splits and their checks")
        _stop_at(materialize(["raw", "splits"], data, on, partition=dataset))
    with console.status(f"{dataset}: untrained references"):
        _stop_at(materialize(["references"], data, on, partition=dataset))


def _missing(trials: Iterable[Trial], data: DataRoot, retrain: bool) -> list[Trial]:
    from fparec_pipeline.results.frame import trial_status

    return [
        trial
        for trial in trials
        if retrain
        or trial_status(data.trial(trial.dataset, trial.model, trial.seed), trial, data) != "done"
    ]


def _train(
    trials: list[Trial], data: DataRoot, jobs: int, device: str, retrain: bool
) -> list[Trial]:
    """Train with a bar for each running trial; returns those that failed."""
    from fparec_pipeline.materialize import Options, train

    if not trials:
        console.print("All trials are there already.")
        return []
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[news]}"),
        TimeElapsedColumn(),
        console=console,
    )
    tasks: dict[tuple[str, str, int], TaskID] = {}
    failed = []
    with bars:
        whole = bars.add_task(f"{len(trials)} trials", total=len(trials), news="")

        def show(progress: EpochProgress) -> None:
            key = (progress.dataset, progress.model, progress.seed)
            if key not in tasks:
                name = f"  {progress.dataset} {progress.model} seed {progress.seed}"
                tasks[key] = bars.add_task(name, total=progress.max_epochs, news="")
            news = f"epoch {progress.epoch} NDCG@10 {progress.valid_ndcg_at_10:.4f}"
            bars.update(tasks[key], completed=progress.epoch, news=news)

        for outcome in train(trials, Options(str(data.root), device, retrain), jobs, show):
            trial = outcome.trial
            name = f"{trial.dataset} {trial.model} seed {trial.seed}"
            if (task := tasks.pop((trial.dataset, trial.model, trial.seed), None)) is not None:
                bars.remove_task(task)
            if outcome.error:
                failed.append(trial)
                bars.console.print(
                    f"[red]failed[/] {name}: {escape(outcome.error)}",
                    highlight=False,
                    soft_wrap=True,
                )
            else:
                bars.console.print(f"[green]done[/]   {name}")
            bars.advance(whole)
    return failed


def _stop_at(error: str | None) -> None:
    if error:
        _print_error(error)
        raise typer.Exit(2)


def _print_error(message: str) -> None:
    # Not wrapped, so that paths and commands in it can be copied; [names] in it are no markup.
    text = f"[bold red]Error:[/] {escape(message)}"
    Console(stderr=True).print(text, highlight=False, soft_wrap=True)


def _leaderboard(config: Config, data: DataRoot, dataset: str, metric: str) -> list[dict]:
    from fparec_pipeline.results.frame import trials_frame
    from fparec_pipeline.results.medians import leaderboard as rows

    return rows(trials_frame(data, config), dataset, metric)


def _print_leaderboard(config: Config, data: DataRoot, dataset: str, metric: str) -> None:
    from fparec_pipeline.results.tables import escaped, leaderboard_markdown

    rows = _leaderboard(config, data, dataset, metric)
    title = config.datasets[dataset].title or dataset
    console.print(Markdown(f"# {escaped(title)}\n\n{leaderboard_markdown(rows, config)}"))
    if licence := config.datasets[dataset].licence:
        console.print(f"Licence of the data: {licence}", markup=False, highlight=False)


def _print_next_steps() -> None:
    console.print(
        "\nSee the assets:  make dev, then http://127.0.0.1:3000 (Dagster)\n"
        "See the runs:    make dev, then http://127.0.0.1:5000 (MLflow)\n"
        "The report:      fparec report, one HTML file\n"
        "The paper's five datasets:  fparec run --datasets beauty,toys,sports,yelp,ml-1m --jobs 2",
        highlight=False,
    )


def _coloured(state: str) -> str:
    colours = {"done": "green", "running": "cyan", "stale": "yellow", "interrupted": "yellow"}
    return f"[{colours[state]}]{state}[/]" if state in colours else state
