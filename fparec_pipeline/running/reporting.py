"""What Dagster is told of finished trials that it did not run."""

import logging
from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from fparec_pipeline.config import Config
from fparec_pipeline.defs.training import data_version, places, trial_metadata
from fparec_pipeline.training.record import TrialCorrupt, TrialRecord, read_record

logger = logging.getLogger(__name__)

DATA_VERSION = "dagster/data_version"  # a materialization's tag


def report_missing(folders: Sequence[Path], config: Config, on: dg.DagsterInstance) -> int:
    """Record finished trials that Dagster does not know, such as those copied in from elsewhere.

    Returns:
        How many materializations were recorded.
    """
    return sum(_report(folder, config, on) for folder in folders)


def _report(folder: Path, config: Config, on: dg.DagsterInstance) -> int:
    try:
        record = read_record(folder)
    except TrialCorrupt as error:
        logger.warning("Not shown in Dagster: %s", error)
        return 0
    if record is None or not record.trained:
        return 0
    return sum(
        _report_at(key, partition, folder, record, config, on)
        for key, partition in places(config, record.id)
    )


def _report_at(
    key: dg.AssetKey,
    partition: dg.MultiPartitionKey,
    folder: Path,
    record: TrialRecord,
    config: Config,
    on: dg.DagsterInstance,
) -> bool:
    tags = {DATA_VERSION: data_version(record)}
    wanted = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[partition])
    known = [
        event.asset_materialization.tags or {}
        for event in on.fetch_materializations(wanted, limit=1).records
        if event.asset_materialization
    ]
    if known and known[0].get(DATA_VERSION) == tags[DATA_VERSION]:
        return False
    on.report_runless_asset_event(
        dg.AssetMaterialization(
            key,
            partition=partition,
            metadata=trial_metadata(folder, record, config.titles[record.arm]),
            tags=tags,
        )
    )
    return True
