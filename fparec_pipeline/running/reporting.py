"""What Dagster is told of finished trials that it did not run.

Here belong events without a run. What a run tells of itself belongs to `defs/`.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import dagster as dg

from fparec_pipeline.config import REFERENCES, Config
from fparec_pipeline.defs.training import (
    DATA_VERSION,
    data_version,
    places,
    reference_metadata,
    trial_metadata,
)
from fparec_pipeline.training.record import TrialCorrupt, TrialRecord, read_record

logger = logging.getLogger(__name__)


def report_missing(
    folders: Iterable[Path],
    config: Config,
    on: dg.DagsterInstance,
    links: Mapping[str, str] | None = None,
) -> int:
    """Record finished trials that Dagster does not know, such as those copied in from elsewhere.

    Args:
        folders: the trials'.
        config: says which assets show a trial.
        on: is told.
        links: attempt -> address of its run in MLflow; may lack any.

    Returns:
        How many materializations were recorded.
    """
    references: dict[str, list[TrialRecord]] = {}
    count = sum(_report(folder, config, on, links or {}, references) for folder in folders)
    return count + sum(
        _report_references(dataset, records, on)
        for dataset, records in references.items()
        if len(records) == len(REFERENCES) and dataset in config.datasets
    )


def _report(
    folder: Path,
    config: Config,
    on: dg.DagsterInstance,
    links: Mapping[str, str],
    references: dict[str, list[TrialRecord]],
) -> int:
    try:
        record = read_record(folder)
    except TrialCorrupt as error:
        logger.warning("Not shown in Dagster: %s", error)
        return 0
    if record is None:
        return 0
    if not record.trained:
        references.setdefault(record.dataset, []).append(record)
        return 0
    version = data_version(record)
    unknown = [
        (key, partition)
        for key, partition in places(config, record.id)
        if (_newest_tags(key, partition, on) or {}).get(DATA_VERSION) != version
    ]
    if unknown:
        metadata = trial_metadata(folder, record, config.titles_on(record.dataset)[record.arm])
        if link := links.get(record.attempt):
            metadata["mlflow_run"] = dg.MetadataValue.url(link)
        for key, partition in unknown:
            on.report_runless_asset_event(
                dg.AssetMaterialization(
                    key, partition=partition, metadata=metadata, tags={DATA_VERSION: version}
                )
            )
    return len(unknown)


def _report_references(
    dataset: str, records: Sequence[TrialRecord], on: dg.DagsterInstance
) -> bool:
    """Record the untrained references of a dataset where Dagster knows of none."""
    key = dg.AssetKey("references")
    if _newest_tags(key, dataset, on) is not None:
        return False
    on.report_runless_asset_event(
        dg.AssetMaterialization(key, partition=dataset, metadata=reference_metadata(records))
    )
    return True


def _newest_tags(
    key: dg.AssetKey, partition: str, on: dg.DagsterInstance
) -> Mapping[str, str] | None:
    """The tags of the partition's newest materialization, or None where there is none."""
    wanted = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[partition])
    for event in on.fetch_materializations(wanted, limit=1).records:
        if event.asset_materialization:
            return event.asset_materialization.tags or {}
    return None
