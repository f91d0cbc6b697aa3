"""One asset a model arm, partitioned dataset × seed, and the untrained references.

torch and mlflow are imported inside functions, so that the code location loads fast.
"""

import base64
from pathlib import Path

import dagster as dg

from fparec_pipeline.config import REFERENCES, TRAINING_VERSION, Config
from fparec_pipeline.datasets.splits import read_splits
from fparec_pipeline.defs.partitions import dataset_partitions, trial_partitions
from fparec_pipeline.defs.resources import ProgressListener, Workspace
from fparec_pipeline.training.record import Progress, TrialRecord, view_trial

TRAINED = "trained"  # key prefix of the training assets
HEADLINE = ("hr_at_10", "ndcg_at_10")


class TrainConfig(dg.Config):
    """How a training asset is materialised."""

    retrain: bool = False  # train again though an intact trial of the same fingerprint is there


class _Reporter:
    """Tells the listener of epochs and keeps MLflow's run equal to the folder."""

    def __init__(self, workspace: Workspace, listener: ProgressListener, run_id: str) -> None:
        from fparec_pipeline.tracking import Tracker

        self.tracker = Tracker(None, workspace.data)
        self.listener, self.tags = listener, {"dagster_run_id": run_id}

    def on_epoch(self, progress: Progress) -> None:
        self.listener(progress)

    def on_checkpoint(self, folder: Path) -> None:
        self.tracker.sync_trial(folder, self.tags)


def training_assets(config: Config) -> list[dg.AssetsDefinition]:
    """One asset for each configured arm."""
    return [_training_asset(config, model) for model in config.models]


def _training_asset(config: Config, model: str) -> dg.AssetsDefinition:
    title = config.titles[model]

    @dg.asset(
        key=[TRAINED, model],
        partitions_def=trial_partitions(config),
        deps=["splits"],
        group_name="training",
        pool="training",
        kinds={"pytorch"},
        owners=["team:research"],
        code_version=str(TRAINING_VERSION),
        description=f"{title}, trained with early stopping on validation NDCG@10 and ranked on "
        "all users against all items. One partition is one trial.",
    )
    def trained(
        context: dg.AssetExecutionContext,
        config: TrainConfig,
        workspace: Workspace,
        listener: dg.ResourceParam[ProgressListener],
    ) -> dg.MaterializeResult:
        from fparec_pipeline.training.trial import run_trial

        assert isinstance(context.partition_key, dg.MultiPartitionKey)  # noqa: S101
        keys = context.partition_key.keys_by_dimension
        dataset, seed, data = keys["dataset"], int(keys["seed"]), workspace.data
        reporter = _Reporter(workspace, listener, context.run.run_id)
        try:
            record = run_trial(
                workspace.config.trial(dataset, model, seed),
                read_splits(data.splits(dataset)),
                data,
                device=workspace.device,
                retrain=config.retrain,
                observer=reporter,
            )
        except BaseException:  # a run that was cancelled too: MLflow must not say RUNNING for ever
            reporter.tracker.settle_interrupted()
            raise
        return trial_result(data.trial(dataset, model, seed), record, reporter, title)

    return trained


def trial_result(
    folder: Path, record: TrialRecord, reporter: _Reporter, title: str
) -> dg.MaterializeResult:
    """What Dagster shows of a finished trial; brings its MLflow run up to date."""
    run_id = reporter.tracker.sync_trial(folder, reporter.tags)
    url = reporter.tracker.run_url(run_id) if run_id else None
    return dg.MaterializeResult(
        metadata=trial_metadata(folder, record, title)
        | ({"mlflow_run": dg.MetadataValue.url(url)} if url else {}),
        data_version=dg.DataVersion(data_version(record)),
    )


def trial_metadata(folder: Path, record: TrialRecord, title: str) -> dict[str, dg.MetadataValue]:
    """Metrics (which the UI plots over time), costs, provenance and the learning curve."""
    from fparec_pipeline.results.figures import learning_curve

    numbers = {
        f"{part}/{name}": record.metrics[f"{part}/{name}"]
        for part in ("test", "test_unseen", "valid")
        for name in HEADLINE
    }
    metadata: dict[str, dg.MetadataValue] = {
        **{name: dg.MetadataValue.float(value) for name, value in numbers.items()},
        "best_epoch": dg.MetadataValue.int(record.best_epoch),
        "epochs": dg.MetadataValue.int(record.epochs),
        "hit_epoch_cap": dg.MetadataValue.bool(record.hit_cap),
        "seconds": dg.MetadataValue.float(record.seconds),
        "fingerprint": dg.MetadataValue.text(record.fingerprint),
        "commit": dg.MetadataValue.text(record.commit),
        "folder": dg.MetadataValue.path(folder),
    }
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
        group_name="training",
        kinds={"numpy"},
        owners=["team:research"],
        code_version=str(TRAINING_VERSION),
        description="What no training at all achieves: popularity, the last ten items, first-order "
        "transitions.",
    )
    def references(
        context: dg.AssetExecutionContext,
        workspace: Workspace,
        listener: dg.ResourceParam[ProgressListener],
    ) -> dg.MaterializeResult:
        from fparec_pipeline.training.trial import run_reference

        dataset, data = context.partition_key, workspace.data
        splits = read_splits(data.splits(dataset))
        reporter = _Reporter(workspace, listener, context.run.run_id)
        metadata: dict[str, float] = {}
        for reference in REFERENCES:
            record = run_reference(dataset, reference, splits, data)
            reporter.on_checkpoint(data.trial(dataset, reference, 0))
            metadata |= {f"{reference}/{name}": record.metrics[f"test/{name}"] for name in HEADLINE}
        return dg.MaterializeResult(metadata=metadata)

    return references


def data_version(record: TrialRecord) -> str:
    """The data version under which a finished trial is materialised."""
    return f"{record.fingerprint}-{record.attempt[:8]}"
