"""Commands about the trial store: what is in it, and Dagster and MLflow brought up to date.

Here belong the options and what is printed. A trial's state belongs to `results/trials.py`, the
views to `tracking/` and `running/`.
"""

import shutil
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track
from rich.table import Table

from fparec_pipeline.cli.shared import (
    Names,
    app,
    chosen,
    console,
    print_error,
    split_names,
    stop_if_interrupted,
)
from fparec_pipeline.cli.show import note_outdated
from fparec_pipeline.config import Config, Trial, TrialId, known, load_config
from fparec_pipeline.paths import DataRoot


@app.command()
def status(
    datasets: Names = None,
    models: Names = None,
    seeds: Names = None,
    study: Annotated[
        str, typer.Option(help="The study that says which models and seeds.")
    ] = "benchmark",
    everything: Annotated[bool, typer.Option("--all", help="Trials of all studies.")] = False,
) -> None:
    """Show which trials are done, running, interrupted, stale or missing.

    Stale: finished, but the configuration, the training code or the data has changed since. Tables
    leave stale trials out; `fparec run` trains them again.
    """
    from fparec_pipeline.results.trials import trial_status

    data = DataRoot.default()
    config = load_config(data)
    trials = _asked_for(
        config, list(config.studies) if everything else [study], datasets, models, seeds
    )
    states = {trial.id: trial_status(trial, config, data) for trial in trials}
    columns = sorted({t.seed for t in trials})
    shown = 0
    table = Table("dataset", "model", *(f"seed {seed}" for seed in columns))
    for dataset, arm in dict.fromkeys((t.dataset, t.arm) for t in trials):
        cells = [states.get(TrialId(dataset, arm, seed), "") for seed in columns]
        if datasets or any(state not in ("", "missing") for state in cells):
            table.add_row(dataset, arm, *(_coloured(state) for state in cells))
            shown += sum(state != "" for state in cells)
    console.print(table)
    console.print(
        f"{sum(state == 'done' for state in states.values())} of these {shown} trials are done; "
        "rows without a started trial are shown with --datasets only."
    )
    note_outdated(dict.fromkeys(t.dataset for t in trials), config, data)


@app.command()
def sync() -> None:
    """Update MLflow, Dagster and the rendered results from the folders in the data root.

    Use it after MLflow was out of reach, or after copying trials or champions from another
    machine. Runs whose process died are marked as failed. Calling it twice does no harm.
    """
    data = DataRoot.default().writable()
    if not bring_up_to_date(data, load_config(data)):
        raise typer.Exit(1)


@app.command()
def clean(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete interrupted and stale trials, after asking.

    Trials that are running or shown in tables are never deleted; whether they are is asked again
    just before each is deleted.
    """
    from fparec_pipeline.results.trials import disposable

    data = DataRoot.default()
    config = load_config(data)
    folders = disposable(data, config)
    if not folders:
        console.print("There is nothing to delete.")
        return
    for folder, reason in folders:
        size = sum(path.stat().st_size for path in folder.iterdir())
        console.print(f"{reason:12} {folder.relative_to(data.root)}  {size / 1e6:.1f} MB")
    if yes or typer.confirm(f"Delete these {len(folders)} folders?"):
        for folder, _ in folders:
            _delete(folder, data, config)


def _delete(folder: Path, data: DataRoot, config: Config) -> None:
    """Delete a trial's folder under its lock, unless it was resumed or finished meanwhile."""
    from fparec_pipeline.results.trials import why_disposable
    from fparec_pipeline.training.record import TrialLocked, lock_trial

    if not folder.exists():
        return
    try:
        with lock_trial(folder):
            if why_disposable(folder, data, config):
                shutil.rmtree(folder)
                return
    except TrialLocked:
        pass
    name = folder.relative_to(data.root)
    console.print(f"Kept: {name} was trained meanwhile.", markup=False, highlight=False)


def bring_up_to_date(data: DataRoot, config: Config) -> bool:
    """Bring MLflow, Dagster and the rendered results up to date.

    Returns:
        False when MLflow cannot be reached, or a result cannot be rendered.
    """
    from fparec_pipeline.running.context import open_context
    from fparec_pipeline.running.liveness import settle_dead_runs
    from fparec_pipeline.running.rendering import outdated, render
    from fparec_pipeline.running.reporting import report_missing
    from fparec_pipeline.tracking import Medians, Tracker
    from fparec_pipeline.tracking.registry import Registry
    from fparec_pipeline.training.record import trial_folders

    folders, tracker = trial_folders(data), Tracker(None, data)
    with open_context(data, config) as context:
        synced = tracker.sync_all(track(folders, "MLflow's runs", console=console))
        registered = None if synced is None else Registry(tracker).sync_all()
        links = tracker.trial_urls()
        shown = track(folders, "Dagster's materializations", console=console)
        reported = report_missing(shown, config, context.instance, links)
        settled = settle_dead_runs(context.instance, data)
        in_mlflow = None if synced is None else Medians(tracker).datasets()
        datasets = outdated(context, in_mlflow)
        steps = track(render(datasets, context), "results", len(datasets) + 1, console=console)
        failed = []
        for name, error in steps if datasets else ():
            stop_if_interrupted(error)
            failed += [f"{name}: {error}"] if error else []
    console.print(
        f"MLflow: {synced} trials are up to date."
        if synced is not None
        else "MLflow cannot be reached; run `fparec sync` again when it can."
    )
    if registered:
        console.print(f"MLflow's registry: {registered} datasets' champions are up to date.")
    console.print(
        f"Dagster: {reported} materializations were missing and are now recorded; "
        f"{settled} runs whose process had died are marked as failed."
    )
    if datasets:
        console.print(f"Rendered: {', '.join(datasets)}, the tables and the report.")
    for problem in failed:
        print_error(problem)
    return synced is not None and registered is not None and not failed


def _asked_for(
    config: Config, studies: list[str], datasets: str | None, models: str | None, seeds: str | None
) -> list[Trial]:
    """The studies' trials on the named datasets, each once; on all datasets, those that fit there.

    A study's variant has to fit the study's own datasets only (`Config.arms_on`).
    """
    named = [known(arm, config.arms, "model") for arm in split_names(models)]
    found = []
    for dataset in split_names(datasets) or config.datasets:
        fitting = config.arms if datasets else config.arms_on(dataset)
        for study in studies:
            arms = named or config.studies[known(study, config.studies, "study")].arms
            names = ",".join(arm for arm in arms if arm in fitting)
            found += chosen(config, study, dataset, names, seeds) if names else []
    return list(dict.fromkeys(found))


def _coloured(state: str) -> str:
    colours = {"done": "green", "running": "cyan", "stale": "yellow", "interrupted": "yellow"}
    return f"[{colours[state]}]{state}[/]" if state in colours else state
