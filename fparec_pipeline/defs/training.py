"""Training assets: one an arm, one a study that has variants, and the untrained references.

An arm of models.toml is an asset of its own, partitioned dataset × seed. A study with variants is
one asset, partitioned dataset × `arm·seed`, over all its arms: those that it shares with other
studies too, which are trained once all the same, because a trial's folder is the fact.

torch and mlflow are imported inside functions, so that the code location loads fast.

Here belong the assets, where a trial is shown, and what is shown of it. Which run trains which
trials belongs to `requests.py`, how a run trains them to `seeds.py`.
"""

import base64
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from fparec_pipeline.config import REFERENCES, TRAINING_VERSION, Config, Trial, TrialId
from fparec_pipeline.datasets.splits import current_splits, statistics_on_disk
from fparec_pipeline.defs.failures import explained
from fparec_pipeline.defs.partitions import (
    arm_and_seed,
    dataset_partitions,
    multi_keys,
    study_partitions,
    trial_of,
    trial_partitions,
    trial_tags,
)
from fparec_pipeline.defs.reporter import Reporter, reporting
from fparec_pipeline.defs.resources import Workspace
from fparec_pipeline.defs.seeds import Manner, Results, raise_failures, seeds_a_run, train_trials
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.results.trials import is_stale
from fparec_pipeline.training.record import TrialRecord, read_record, view_trial

TRAINED = "trained"  # key prefix of the training assets
DATA_VERSION = "dagster/data_version"  # a materialization's tag
HEADLINE = ("hr_at_10", "ndcg_at_10")


class TrainConfig(dg.Config):
    """How a training asset is materialised."""

    retrain: bool = Field(
        default=False,
        description="Train again even if the trial is finished. Without it, a finished trial of "
        "the same configuration, code and data is reused, and the run ends in seconds.",
    )


def training_assets(config: Config) -> list[dg.AssetsDefinition]:
    """One asset for each arm of models.toml and for each study with variants."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # backfill policies are called that
        arms = [
            _training_asset(config, arm, _words_of_arm(config, arm), trial_partitions(config), arm)
            for arm in config.arms
            if arm not in config.variants
        ]
        studies = [
            _training_asset(
                config,
                _arms_of(name),
                _words_of_study(config, name),
                study_partitions(config, name),
                None,
            )
            for name in config.studies
            if _has_asset(config, name)
        ]
    return arms + studies


def _words_of_arm(config: Config, arm: str) -> str:
    return f"{config.titles[arm]}. {config.descriptions.get(arm, '')}".strip()


def _words_of_study(config: Config, study: str) -> str:
    arms = ", ".join(config.titles[arm] for arm in config.studies[study].arms)
    return f"All arms of the study `{study}` ({config.studies[study].title}): {arms}."


def _group(config: Config, arm: str | None) -> str:
    """The benchmark's arms apart from those of other studies, so that the graph can be read."""
    of_benchmark = "benchmark" in config.studies and arm in config.studies["benchmark"].arms
    return "benchmark_arms" if of_benchmark else "study_arms"


def _arms_of(study: str) -> str:
    """The name of a study's training asset: its table is called as the study itself."""
    return f"{study}_arms"


def _has_asset(config: Config, study: str) -> bool:
    return any(arm in config.variants for arm in config.studies[study].arms)


def training_keys(config: Config) -> list[dg.AssetKey]:
    """The keys of all `training_assets`."""
    names = [arm for arm in config.arms if arm not in config.variants]
    names += [_arms_of(study) for study in config.studies if _has_asset(config, study)]
    return [dg.AssetKey([TRAINED, name]) for name in names]


def study_keys(config: Config, study: str) -> list[dg.AssetKey]:
    """The assets that train a study's arms; they share one partitions definition."""
    names = [_arms_of(study)] if _has_asset(config, study) else config.studies[study].arms
    return [dg.AssetKey([TRAINED, name]) for name in names]


def places(config: Config, trial: TrialId) -> list[tuple[dg.AssetKey, dg.MultiPartitionKey]]:
    """Every (asset, partition) that shows the trial, the one that trains it first.

    Args:
        config: its studies say which arms there are.
        trial: under the name that it is trained as. One whose dataset the configuration does not
            know, or whose seed no study names, is shown nowhere.
    """
    dataset, _, seed = trial
    if dataset not in config.datasets or seed not in config.seeds:
        return []
    fitting = config.arms_on(dataset)
    names = [arm for arm in fitting if config.trained_as(dataset, arm) == trial.arm]
    own = [
        (
            dg.AssetKey([TRAINED, arm]),
            dg.MultiPartitionKey({"dataset": dataset, "seed": str(seed)}),
        )
        for arm in names
        if arm not in config.variants
    ]
    return own + [
        (
            dg.AssetKey([TRAINED, _arms_of(study)]),
            dg.MultiPartitionKey({"dataset": dataset, "trial": arm_and_seed(arm, seed)}),
        )
        for arm in names
        for study in config.studies
        if _has_asset(config, study) and arm in config.studies[study].arms
    ]


def _training_asset(
    settings: Config,
    name: str,
    title: str,
    partitions: dg.MultiPartitionsDefinition,
    arm: str | None,
) -> dg.AssetsDefinition:
    seeds = seeds_a_run()

    @dg.asset(
        key=[TRAINED, name],
        partitions_def=partitions,
        deps=["splits"],
        group_name=_group(settings, arm),
        pool="training",
        kinds={"pytorch"},
        owners=["team:research"],
        code_version=str(TRAINING_VERSION),
        backfill_policy=dg.BackfillPolicy.multi_run(seeds) if seeds > 1 else None,
        output_required=False,  # a run of several trials tells of each by itself
        description=f"{title}\n\nOne partition is one trial: trained with early stopping on "
        "validation NDCG@10, then every user's target is ranked against all items. A finished "
        "trial is reused; `retrain` trains it again.",
    )
    def trained(
        context: dg.AssetExecutionContext, config: TrainConfig, workspace: Workspace
    ) -> Iterator[dg.MaterializeResult]:
        wanted = {key: settings.trial(*trial_of(key, arm)) for key in multi_keys(context)}
        data, trials = workspace.data, list(dict.fromkeys(wanted.values()))
        _tag(context, trials)
        before = {} if config.retrain else _records(trials, data)
        with reporting(data, context.run.run_id, context.log) as reporter:
            manner = Manner(data, workspace.device, config.retrain, reporter)
            results = _results(trials, before, settings, manner)
        for key, trial in wanted.items():
            record = results[trial]
            if not isinstance(record, TrialRecord):
                continue
            was = before.get(trial)
            reused = was is not None and was.attempt == record.attempt
            if reused:
                context.log.info(_reuse_note(record))
            title = settings.titles_on(trial.dataset)[trial.arm]
            shown = trial_result(data.trial(*trial.id), record, reporter, title, reused)
            if len(wanted) == 1:
                yield shown
            else:
                context.log_event(_materialization(context.asset_key, key, shown))
        raise_failures(results)

    return trained


def _tag(context: dg.AssetExecutionContext, trials: Sequence[Trial]) -> None:
    """Give the run the tags that one of the command has from the start.

    A run of the page has none, and may have several training assets: each adds its own.
    """
    run = context.instance.get_run_by_id(context.run.run_id)
    tags = {}
    for tag, text in trial_tags(trials).items():
        before = run.tags.get(tag, "").split(", ") if run else []
        tags[tag] = ", ".join(dict.fromkeys(filter(None, [*before, *text.split(", ")])))
    context.instance.add_run_tags(context.run.run_id, tags)


@explained
def _records(trials: Sequence[Trial], data: DataRoot) -> dict[Trial, TrialRecord]:
    """The finished trials among them, whatever they were made from."""
    found = {trial: read_record(data.trial(*trial.id)) for trial in trials}
    return {trial: record for trial, record in found.items() if record}


@explained
def _results(
    trials: Sequence[Trial], before: Mapping[Trial, TrialRecord], settings: Config, manner: Manner
) -> Results:
    """Of each trial: what was there and needs no splits to be known as current, else trained."""
    kept = {t: r for t, r in before.items() if _came_without_splits(r, settings, manner.data)}
    missing = [trial for trial in trials if trial not in kept]
    return kept | train_trials(missing, settings, manner)


def _materialization(
    asset: dg.AssetKey, partition: str, shown: dg.MaterializeResult
) -> dg.AssetMaterialization:
    """Of one trial of several: a run that returns a result gives all its partitions one version."""
    version = shown.data_version.value if shown.data_version else ""
    tags = {DATA_VERSION: version}
    return dg.AssetMaterialization(asset, partition=partition, metadata=shown.metadata, tags=tags)


def trial_result(
    folder: Path, record: TrialRecord, reporter: Reporter, title: str, reused: bool
) -> dg.MaterializeResult:
    """What Dagster shows of a finished trial; brings its MLflow run up to date."""
    note = {"reused": dg.MetadataValue.md(_reuse_note(record))} if reused else {}
    run_id = reporter.sync(folder)
    url = reporter.tracker.run_url(run_id) if run_id else None
    return dg.MaterializeResult(
        metadata=note
        | trial_metadata(folder, record, title)
        | ({"mlflow_run": dg.MetadataValue.url(url)} if url else {}),
        data_version=dg.DataVersion(data_version(record)),
    )


def _reuse_note(record: TrialRecord) -> str:
    where = "imported, published" if record.published else "trained"
    return (
        f"Nothing was trained: the trial of {record.finished[:10]} ({where}) has today's "
        "configuration, code and data, and is reused. To train it again, materialise it with "
        "`retrain: true` in the launchpad (shift-click *Materialize*)."
    )


def _came_without_splits(record: TrialRecord, settings: Config, data: DataRoot) -> bool:
    """Whether the trial can be reused although its dataset has no splits here (an import)."""
    no_splits = statistics_on_disk(data.splits(record.dataset)) is None
    return no_splits and not is_stale(record, settings, None)


def trial_metadata(folder: Path, record: TrialRecord, title: str) -> dict[str, dg.MetadataValue]:
    """Metrics (which the UI plots over time), costs, provenance and the learning curve."""
    from fparec_pipeline.results.plots import learning_curve

    numbers = {
        f"{part}/{name}": record.metrics[f"{part}/{name}"]
        for part in ("test", "test_unseen", "valid")
        for name in HEADLINE
    }
    metadata: dict[str, dg.MetadataValue] = {
        **{name: dg.MetadataValue.float(value) for name, value in numbers.items()},
        "best_epoch": dg.MetadataValue.int(record.best_epoch),
        "epochs": dg.MetadataValue.int(record.epochs),
        "published": dg.MetadataValue.bool(record.published),
        "hit_epoch_cap": dg.MetadataValue.bool(record.hit_cap),
        "seconds": dg.MetadataValue.float(record.seconds),
        "fingerprint": dg.MetadataValue.text(record.fingerprint),
        "commit": dg.MetadataValue.text(record.commit),
        "folder": dg.MetadataValue.path(folder),
    }
    if record.resumed:
        metadata["resumed"] = dg.MetadataValue.text(record.resumed_words)
    if record.targets_per_second:
        metadata["targets_per_second"] = dg.MetadataValue.float(record.targets_per_second)
    view = view_trial(folder)
    if view and view.history.height:
        picture = learning_curve(view.history, f"{title} on {record.dataset}, seed {record.seed}")
        code = base64.b64encode(picture).decode()
        metadata["learning_curve"] = dg.MetadataValue.md(f"![](data:image/png;base64,{code})")
    return metadata


def reference_asset(config: Config) -> dg.AssetsDefinition:
    """The untrained reference rows of a dataset."""

    @dg.asset(
        partitions_def=dataset_partitions(config),
        deps=["splits"],
        group_name="benchmark_arms",
        kinds={"numpy"},
        owners=["team:research"],
        code_version=str(TRAINING_VERSION),
        description="What is achieved without training: popularity, the last ten items, "
        "first-order transitions.",
    )
    @explained
    def references(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        from fparec_pipeline.training.trial import run_reference

        dataset, data = context.partition_key, workspace.data
        reporter = Reporter(data, context.run.run_id, context.log)
        there = [read_record(data.trial(dataset, reference, 0)) for reference in REFERENCES]
        found = [r for r in there if r and _came_without_splits(r, config, data)]
        if len(found) < len(REFERENCES):
            splits = current_splits(dataset, config.datasets[dataset], data)
            found = [run_reference(dataset, reference, splits, data) for reference in REFERENCES]
        for reference in REFERENCES:
            reporter.on_checkpoint(data.trial(dataset, reference, 0))
        return dg.MaterializeResult(metadata=reference_metadata(found))

    return references


def reference_metadata(records: Sequence[TrialRecord]) -> dict[str, Any]:
    """The headline metrics of the untrained references of one dataset."""
    return {
        f"{record.arm}/{name}": dg.MetadataValue.float(record.metrics[f"test/{name}"])
        for record in records
        for name in HEADLINE
    } | {"published": dg.MetadataValue.bool(all(record.published for record in records))}


def data_version(record: TrialRecord) -> str:
    """The data version under which a finished trial is materialised."""
    return f"{record.fingerprint}-{record.attempt[:8]}"
