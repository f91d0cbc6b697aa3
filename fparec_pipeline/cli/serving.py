"""From the leaderboard to recommendations: promote a champion, recommend, serve and export it.

Here belong the options and what is printed. Choosing, answering and packing belong to `serving/`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from fparec_pipeline.cli.shared import app, check_device, console, stop_at
from fparec_pipeline.config import known, load_config
from fparec_pipeline.paths import DataRoot

if TYPE_CHECKING:
    from fparec_pipeline.running.context import Context
    from fparec_pipeline.serving.batch import Wish
    from fparec_pipeline.serving.champion import Champion
    from fparec_pipeline.training.record import Progress

Dataset = Annotated[str, typer.Argument(help="A configured dataset.")]
Ids = Annotated[Path | None, typer.Option(exists=True, dir_okay=False)]
SHOWN = 3  # users whose recommendations are printed
LEFT_OUT = {  # key of the summary -> what is printed where it counts any
    "unmatched_users": "Ids of --users that the dataset and --history do not have",
    "unmatched_allow": "Ids of --allow that the champion does not know",
    "unmatched_block": "Ids of --block that the champion does not know",
    "unknown_interactions": "Interactions with items that the champion does not know, left out",
    "by_popularity": "Users without a known history, who get the most popular items",
}


@app.command()
def promote(
    dataset: Dataset,
    model: Annotated[
        str | None, typer.Option(help="The model to take; default: the best on validation.")
    ] = None,
    refit: Annotated[bool, typer.Option(help="Train it once more, on all interactions.")] = True,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Go back to the previous champion instead.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Choose the model that recommends on a dataset, its champion.

    The best validation median over seeds wins; the test set is not used. The champion is trained
    once more on all interactions and registered in MLflow with the alias `champion`; the one
    before it gets the alias `previous`.

    Example: fparec promote ml-latest-small
    """
    from fparec_pipeline.running.context import open_context
    from fparec_pipeline.running.materialization import materialize
    from fparec_pipeline.serving.champion import read_champion

    data = DataRoot.default().writable()
    config = load_config(data)
    known(dataset, config.datasets, "dataset")
    check_device(device)
    wanted = {"arm": model or "", "refit": refit, "roll_back": rollback, "device": device}
    with _bar(f"{dataset}: champion") as (bars, task), open_context(data, config) as context:

        def show(progress: "Progress") -> None:
            bars.update(
                task,
                completed=progress.epoch,
                total=progress.max_epochs,
                description=f"{progress.trial}: refit, {progress.words}",
            )

        error = materialize(
            ["champion"] if rollback else ["trials", "champion"],
            context,
            "promote",
            partition=dataset,
            ops={"champion": {"config": wanted}},
            on_progress=show if refit and not rollback else None,
        )
    stop_at(error)
    _print_champion(read_champion(dataset, data))


@app.command()
def recommend(
    dataset: Dataset,
    top: Annotated[int, typer.Option(min=1, max=1000, help="Items for each user.")] = 10,
    exclude_seen: Annotated[
        bool,
        typer.Option(
            "--exclude-seen/--include-seen", help="Leave out items that the user has had."
        ),
    ] = True,
    users: Annotated[
        Path | None,
        typer.Option(help="Only these users: .txt with one id per line, CSV or parquet."),
    ] = None,
    history: Annotated[
        Path | None,
        typer.Option(
            help="CSV or parquet with newer histories or new users: user, item, and time if known."
        ),
    ] = None,
    allow: Annotated[
        Path | None, typer.Option(help="Only these items: a file like that of --users.")
    ] = None,
    block: Annotated[
        Path | None, typer.Option(help="Not these items: a file like that of --users.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The parquet file; default: data/recommendations/<dataset>.parquet, with --users "
            "./recommendations-<dataset>.parquet."
        ),
    ] = None,
) -> None:
    """Write the champion's best items for every user of a dataset, as parquet.

    Columns: user, rank, item and score, with the ids of your own file. Without --out and --users,
    Dagster's asset `recommendations` is materialised, and checked against the histories.

    Example: fparec recommend ml-latest-small --top 10
    """
    from fparec_pipeline.serving.batch import Wish, samples

    data = DataRoot.default()
    config = load_config(data)
    known(dataset, config.datasets, "dataset")
    wish = Wish(top, exclude_seen, users, history, allow, block)
    if out is not None and out.is_dir():
        stop_at(
            f"{out} is a folder. Name a file: --out {out / f'recommendations-{dataset}.parquet'}"
        )
    if out is None and users is None:
        target = _materialized(dataset, wish, data.writable())
    else:
        target = _written(dataset, wish, out or Path(f"recommendations-{dataset}.parquet"), data)
    console.print(f"Recommendations: {target}", markup=False, highlight=False, soft_wrap=True)
    for user, items in samples(target, SHOWN):
        console.print(f"  {user}: {', '.join(items)}", markup=False, highlight=False)


@app.command()
def serve(
    dataset: Dataset,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5001,
) -> None:
    """Answer HTTP requests for recommendations with the champion, until Ctrl-C.

    The server binds to 127.0.0.1 and has no authentication. It keeps the champion that it was
    started with: restart it after a promotion.

    Example: curl http://127.0.0.1:5001/invocations -H 'Content-Type: application/json' -d
    '{"dataframe_records": [{"history": ["296", "318"]}], "params": {"k": 5}}'
    """
    from fparec_pipeline.running.model_server import serve_model
    from fparec_pipeline.tracking import Tracker
    from fparec_pipeline.tracking.registry import Registry

    data = DataRoot.default().writable()
    known(dataset, load_config(data).datasets, "dataset")
    with console.status(f"{dataset}: the champion in MLflow's registry"):
        version = Registry(Tracker(None, data)).sync(dataset)
    if version is None:
        stop_at("MLflow cannot be reached, and the model is served from its registry.")
    raise typer.Exit(serve_model(data, dataset, port))


@app.command("export")
def export_model(
    dataset: Dataset,
    to: Annotated[
        Path, typer.Option(help="The ONNX file. A table of its items is written beside it.")
    ],
) -> None:
    """Write the champion as an ONNX file, to serve it elsewhere.

    Needs `pip install 'fparec_pipeline[onnx]'`. The graph maps item numbers (batch × length,
    right-aligned, 0 as padding) to the scores of all items. A table beside the file says which
    column is which item.

    Example: fparec export ml-latest-small --to champion.onnx
    """
    from fparec_pipeline.serving.champion import load_champion
    from fparec_pipeline.serving.onnx import export_onnx

    data = DataRoot.default()
    known(dataset, load_config(data).datasets, "dataset")
    with console.status("ONNX"):
        for path in export_onnx(load_champion(dataset, data), to):
            typer.echo(path)


def _materialized(dataset: str, wish: "Wish", data: DataRoot) -> Path:
    from fparec_pipeline.running.context import open_context
    from fparec_pipeline.running.materialization import materialize

    files = {
        name: str(path.resolve())
        for name in ("history", "allow", "block")
        if (path := getattr(wish, name))
    }
    wanted = {"k": wish.k, "exclude_seen": wish.exclude_seen, **files}
    with console.status(f"{dataset}: recommendations"), open_context(data) as context:
        ops = {"recommendations": {"config": wanted}}
        stop_at(materialize(["recommendations"], context, "recommend", partition=dataset, ops=ops))
        summary = _latest_metadata(context, dataset)
    _print_left_out(summary)
    return data.recommendations(dataset)


def _latest_metadata(context: "Context", dataset: str) -> dict[str, Any]:
    """What Dagster was told of the newest recommendations of the dataset."""
    import dagster as dg

    wanted = dg.AssetRecordsFilter(dg.AssetKey("recommendations"), asset_partitions=[dataset])
    for event in context.instance.fetch_materializations(wanted, limit=1).records:
        if made := event.asset_materialization:
            return {key: value.value for key, value in made.metadata.items()}
    return {}


def _written(dataset: str, wish: "Wish", target: Path, data: DataRoot) -> Path:
    from fparec_pipeline.serving.batch import (
        as_metadata,
        columns_of,
        prepare,
        problems,
        write_recommendations,
    )
    from fparec_pipeline.serving.champion import load_champion

    model = load_champion(dataset, data)
    columns = columns_of(load_config(data).datasets[dataset].active_source)
    prepared = prepare(model, data.splits(dataset), wish, columns)
    with _bar(f"{dataset}: users") as (bars, task):
        summary = write_recommendations(
            model,
            prepared,
            wish,
            target,
            lambda done, users: bars.update(task, completed=done, total=users),
        )
    if found := problems(target, model, prepared, wish):
        stop_at(f"{target}: {'; '.join(found)}")
    _print_left_out(as_metadata(summary))
    return target


def _print_left_out(summary: Mapping[str, Any]) -> None:
    """What of the request had no effect; nothing where all of it had."""
    for key, words in LEFT_OUT.items():
        if summary.get(key):
            console.print(f"{words}: {summary[key]:,}", markup=False)


def _print_champion(champion: "Champion") -> None:
    choice = champion.choice
    seeds = "1 seed" if len(choice.seeds) == 1 else f"{len(choice.seeds)} seeds"
    lines = [
        f"Champion of {champion.dataset}: {champion.title}, seed {champion.seed} "
        f"(validation NDCG@10 {choice.median:.4f}, median of {seeds})",
        champion.note,
        *choice.doubts,
        f"Recommend:  fparec recommend {champion.dataset}",
        f"Serve:      fparec serve {champion.dataset}",
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False)


class _bar:  # noqa: N801  a context manager that reads as one
    """A progress bar of one task."""

    def __init__(self, words: str) -> None:
        self.bars = Bars(
            TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console
        )
        self.words = words

    def __enter__(self) -> tuple[Bars, Any]:
        self.bars.start()
        return self.bars, self.bars.add_task(self.words, total=None)

    def __exit__(self, *error: object) -> None:
        self.bars.stop()
