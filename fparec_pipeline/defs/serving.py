"""The champion of a dataset, its recommendations, and the job that renews both on newer data.

Choosing, refitting and recommending are `serving`'s; the registry is `tracking`'s. Here belong the
assets, their checks and what Dagster's page shows of them.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from fparec_pipeline.config import Config
from fparec_pipeline.datasets.files import DatasetError
from fparec_pipeline.datasets.sources import is_downloaded
from fparec_pipeline.datasets.splits import read_splits, statistics_on_disk
from fparec_pipeline.defs.automation import in_progress
from fparec_pipeline.defs.data import splits_are_current
from fparec_pipeline.defs.failures import explained
from fparec_pipeline.defs.news import News
from fparec_pipeline.defs.partitions import dataset_partitions
from fparec_pipeline.defs.private import AssetJob
from fparec_pipeline.defs.reporter import LOG_SECONDS, reporting, uninterrupted
from fparec_pipeline.defs.resources import Workspace
from fparec_pipeline.defs.training import (
    DATA_VERSION,
    data_version,
    places,
    trial_metadata,
)
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.results.trials import read_trials, trials_frame
from fparec_pipeline.training.record import Progress

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from fparec_pipeline.serving.champion import Champion
    from fparec_pipeline.serving.choice import Choice
    from fparec_pipeline.serving.refit import OnEpoch

REFRESH = "refresh"  # the job, and its schedule


class ChampionConfig(dg.Config):
    """How the champion is made."""

    arm: str = ""  # the one to take; empty: the best validation median
    refit: bool = True  # train it on all interactions
    roll_back: bool = False  # go back to the previous champion instead
    device: str = ""  # of the refit; empty: the workspace's
    refresh: bool = False  # train its arm on today's splits first; promote only when not worse


class RecommendConfig(dg.Config):
    """What is recommended; paths of files as `fparec recommend` takes them."""

    k: int = 10
    exclude_seen: bool = True
    history: str = ""
    allow: str = ""
    block: str = ""
    as_before: bool = False  # as the file that is there was made; nothing above counts then


def _by_dataset(config: Config, **own: Any) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """`dg.asset` with what both assets have in common."""
    return dg.asset(
        partitions_def=dataset_partitions(config),
        group_name="serving",
        owners=["team:research"],
        code_version="1",
        **own,
    )


def serving_assets(config: Config) -> list[dg.AssetsDefinition]:
    """`champion` and `recommendations`, by dataset."""
    return [_champion_asset(config), _recommendations_asset(config)]


def _champion_asset(config: Config) -> dg.AssetsDefinition:
    @_by_dataset(
        config,
        deps=["trials", "splits", "references"],
        kinds={"pytorch", "mlflow"},
        check_specs=[
            dg.AssetCheckSpec(
                "stands_out",
                asset="champion",
                description="The champion is significantly better on validation than the "
                "runner-up and the untrained rows. A warning says what the simpler choice costs.",
            ),
            dg.AssetCheckSpec(
                "not_worse",
                asset="champion",
                description="A refreshed champion is not significantly worse on today's "
                "validation than the one before. Where it is, the one before stays.",
            ),
        ],
        description="The arm with the best validation median: its best seed, trained once more on "
        "all interactions and registered in MLflow as `fparec-<dataset>`.",
    )
    @explained
    def champion(
        context: dg.AssetExecutionContext,
        config: ChampionConfig,
        workspace: Workspace,
    ) -> dg.MaterializeResult:
        from fparec_pipeline.serving.champion import promote, read_champion, refuse, roll_back

        dataset, data = context.partition_key, workspace.data
        if config.roll_back:
            made, kept = roll_back(dataset, data), None
        else:
            choice = _choice(dataset, config, settings, workspace, context)
            kept = _reason_to_stay(choice, data) if config.refresh else None
            splits = read_splits(data.splits(dataset))
            if kept:
                refuse(dataset, data, splits.stats["data_hash"])
                made = read_champion(dataset, data)
            else:
                with _telling(context, data) as tell:
                    made = promote(
                        choice,
                        splits,
                        settings,
                        data,
                        with_refit=config.refit,
                        device=config.device or workspace.device,
                        on_epoch=tell,
                    )
        return _champion_result(made, kept, data)

    settings = config  # the asset's own `config` is the run's
    return champion


def _choice(
    dataset: str,
    wanted: ChampionConfig,
    config: Config,
    workspace: Workspace,
    context: dg.AssetExecutionContext,
) -> "Choice":
    from fparec_pipeline.serving.champion import read_champion
    from fparec_pipeline.serving.choice import choose

    data = workspace.data
    if not wanted.refresh:
        return choose(read_trials(data, dataset), dataset, config, data, wanted.arm or None)
    arm = wanted.arm or read_champion(dataset, data).arm
    _train(dataset, arm, config, workspace, context)
    return choose(trials_frame(data, config, dataset), dataset, config, data, arm)


def _train(
    dataset: str,
    arm: str,
    config: Config,
    workspace: Workspace,
    context: dg.AssetExecutionContext,
) -> None:
    """The arm's trials on today's splits, each shown at its own asset."""
    from fparec_pipeline.training.trial import run_trial

    data = workspace.data
    splits = read_splits(data.splits(dataset))
    titles = config.titles_on(dataset)
    with reporting(data, context.run.run_id, context.log) as reporter:
        for seed in config.seeds:
            trial = config.trial(dataset, arm, seed)
            record = run_trial(trial, splits, data, device=workspace.device, observer=reporter)
            metadata = trial_metadata(data.trial(*trial.id), record, titles[trial.arm])
            for key, partition in places(config, trial.id):
                tags = {DATA_VERSION: data_version(record)}
                context.log_event(
                    dg.AssetMaterialization(key, partition=partition, metadata=metadata, tags=tags)
                )


def _reason_to_stay(choice: "Choice", data: DataRoot) -> str | None:
    """Why the champion of before stays; None where the challenger may take its place."""
    from fparec_pipeline.serving.champion import read_champion
    from fparec_pipeline.serving.refresh import compare_with_champion

    champion = read_champion(choice.dataset, data)
    splits = read_splits(data.splits(choice.dataset))
    compared = compare_with_champion(choice, champion, splits, data)
    if compared is None:
        return (
            "The champion's folder lacks the weights that validation saw, so that no challenger "
            f"can be compared with it. `fparec promote {choice.dataset}` replaces it."
        )
    return compared.sentence if compared.worse else None


@contextmanager
def _telling(context: dg.AssetExecutionContext, data: DataRoot) -> Iterator["OnEpoch"]:
    """Tells who follows the run of a refit's epochs, and Dagster's log every LOG_SECONDS."""
    news, last = News(data, context.run.run_id), time.monotonic()

    def tell(progress: Progress) -> None:
        nonlocal last
        news.tell(progress)
        if time.monotonic() - last > LOG_SECONDS:
            last = time.monotonic()
            context.log.info(f"refit: {progress.words} of {progress.max_epochs}")

    try:
        yield tell
    finally:
        news.remove()


def _champion_result(made: "Champion", kept: str | None, data: DataRoot) -> dg.MaterializeResult:
    from fparec_pipeline.serving.champion import facts_of
    from fparec_pipeline.tracking import Tracker
    from fparec_pipeline.tracking.registry import Registry

    registry = Registry(Tracker(None, data))
    with uninterrupted():
        version = registry.sync(made.dataset)
    page = dg.MetadataValue.url(registry.url(made.dataset))
    doubts = made.choice.doubts
    return dg.MaterializeResult(
        metadata={
            **facts_of(made),
            "folder": dg.MetadataValue.path(data.champions(made.dataset) / made.fingerprint),
            **({"kept": kept} if kept else {}),
            **({"mlflow_version": version, "model": page} if version else {}),
        },
        data_version=dg.DataVersion(made.fingerprint),
        check_results=[
            _warning("stands_out", not doubts, " ".join(doubts) or "It stands out."),
            _warning("not_worse", kept is None, kept or "Nothing was kept back."),
        ],
    )


def _warning(name: str, passed: bool, message: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=name,
        passed=passed,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"message": message},
    )


def _recommendations_asset(config: Config) -> dg.AssetsDefinition:
    settings = config

    @_by_dataset(
        config,
        deps=["champion", "splits"],
        kinds={"pytorch", "parquet"},
        check_specs=[
            dg.AssetCheckSpec(
                "sound",
                asset="recommendations",
                description="Every user has k distinct items, in ranks from 1, and none that is "
                "excluded.",
            )
        ],
        description="The champion's k best items for every user of the dataset, as parquet.",
    )
    @explained
    def recommendations(
        context: dg.AssetExecutionContext, config: RecommendConfig, workspace: Workspace
    ) -> dg.MaterializeResult:
        from fparec_pipeline.serving.batch import (
            Wish,
            as_metadata,
            columns_of,
            prepare,
            problems,
            wish_before,
            write_recommendations,
        )
        from fparec_pipeline.serving.champion import load_champion

        dataset, data = context.partition_key, workspace.data
        wish = Wish(
            config.k,
            config.exclude_seen,
            history=_path(config.history),
            allow=_path(config.allow),
            block=_path(config.block),
        )
        target = data.recommendations(dataset)
        if config.as_before:
            wish = wish_before(target)
        model = load_champion(dataset, data)
        columns = columns_of(settings.datasets[dataset].active_source)
        prepared = prepare(model, data.splits(dataset), wish, columns)
        summary = write_recommendations(model, prepared, wish, target)
        found = problems(target, model, prepared, wish)
        metadata: dict[str, Any] = {
            **as_metadata(summary),
            "dagster/row_count": summary.rows,
            "path": dg.MetadataValue.path(target),
            "champion": model.facts["fingerprint"],
        }
        return dg.MaterializeResult(
            metadata=metadata,
            check_results=[
                dg.AssetCheckResult(
                    check_name="sound",
                    passed=not found,
                    metadata={"message": "; ".join(found) or "All users are as they should be."},
                )
            ],
        )

    return recommendations


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def serving_jobs() -> list[AssetJob]:
    """What `fparec promote` and `fparec recommend` materialise."""
    return [
        dg.define_asset_job(
            "promote",
            selection=["trials", "champion"],
            description="Collects a dataset's trials and makes the best of them its champion.",
        ),
        dg.define_asset_job(
            "recommend",
            selection=["recommendations"],
            description="The champion's best items for every user of a dataset.",
        ),
    ]


def refresh_job() -> AssetJob:
    """Newer data, from the raw file to recommendations: one run a dataset."""
    return dg.define_asset_job(
        REFRESH,
        selection=["raw", "splits", "references", "champion", "recommendations"],
        config={
            "ops": {
                "champion": {"config": {"refresh": True}},
                "recommendations": {"config": {"as_before": True}},
            }
        },
        description="Makes the splits again from newer data, trains the champion's arm on them, "
        "promotes it unless it is significantly worse on the new validation, and recommends.",
    )


def refresh_schedule(config: Config, job: AssetJob) -> dg.ScheduleDefinition:
    """Every night at four, each dataset whose champion is older than its data. Off by default."""

    @dg.schedule(
        job=job,
        cron_schedule="0 4 * * *",
        name=REFRESH,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Renews champion and recommendations of every dataset of your own that has a "
        "champion and whose file has changed since its splits were made, or whose splits are newer "
        "than the champion because a run before failed.",
    )
    def refresh(
        context: dg.ScheduleEvaluationContext, workspace: Workspace
    ) -> Iterator[dg.RunRequest | dg.SkipReason]:
        changed = changed_datasets(config, workspace.data)
        if not changed:
            yield dg.SkipReason("No dataset with a champion has newer data.")
        going = context.instance.get_runs(dg.RunsFilter(job_name=REFRESH, statuses=in_progress()))
        busy = {run.tags.get("dagster/partition") for run in going}  # since the night before
        for dataset in (name for name in changed if name not in busy):
            tick = context.scheduled_execution_time.isoformat()
            yield dg.RunRequest(run_key=f"{tick}/{dataset}", partition_key=dataset)

    return refresh


def changed_datasets(config: Config, data: DataRoot) -> list[str]:
    """The datasets of the user's own whose champion is older than the file or the splits.

    Splits that no challenger may come from (`serving.champion.refuse`) count as old.
    """
    from fparec_pipeline.serving.champion import read_pointer

    found = []
    for name, dataset in config.datasets.items():
        try:
            if is_downloaded(dataset.active_source) or read_pointer(name, data) is None:
                continue
            if not splits_are_current(name, config, data) or _is_behind(name, data):
                found.append(name)
        except DatasetError as error:  # the file is not there just now, or the champion is damaged
            logger.warning("%s is not refreshed: %s", name, error)
    return found


def _is_behind(dataset: str, data: DataRoot) -> bool:
    """Whether a run that failed has left splits that are newer than the champion."""
    from fparec_pipeline.serving.champion import names_hash, read_champion, read_pointer

    pointer, champion = read_pointer(dataset, data), read_champion(dataset, data)
    stats = statistics_on_disk(data.splits(dataset))
    if stats is None or (pointer and stats["data_hash"] == pointer.refused):
        return False
    if stats["data_hash"] != champion.data_hash:
        return True
    names = names_hash(pl.read_parquet(data.splits(dataset) / "items.parquet"))
    return champion.names not in ("", names)
