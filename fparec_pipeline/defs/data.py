"""Assets `raw` and `splits`, by dataset.

Here belongs what Dagster's page shows of data. How they are made belongs to `datasets/`.
"""

from inspect import getdoc
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from fparec_pipeline.config import Config, masked
from fparec_pipeline.datasets.audit import sentences
from fparec_pipeline.datasets.checks import CHECKS, check_splits
from fparec_pipeline.datasets.preprocess import SplitsError
from fparec_pipeline.datasets.sources import fetch_raw, is_downloaded, raw_files
from fparec_pipeline.datasets.splits import TABLES, make_splits, read_splits
from fparec_pipeline.datasets.staleness import is_recorded, outdated
from fparec_pipeline.defs.failures import explained
from fparec_pipeline.defs.partitions import dataset_partitions
from fparec_pipeline.defs.resources import Workspace
from fparec_pipeline.paths import DataRoot

SEVERITIES = {"error": dg.AssetCheckSeverity.ERROR, "warning": dg.AssetCheckSeverity.WARN}


def data_assets(config: Config) -> list[dg.AssetsDefinition]:
    """`raw` and `splits` for the configured datasets."""
    partitions = dataset_partitions(config)

    @dg.asset(
        partitions_def=partitions,
        group_name="data",
        kinds={"file"},
        owners=["team:data"],
        code_version="1",
        description="The dataset's file as published: downloaded, checked, kept.",
    )
    @explained
    def raw(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        name = context.partition_key
        dataset = config.datasets[name]
        source = dataset.active_source
        path = fetch_raw(name, dataset, workspace.data)
        return dg.MaterializeResult(
            metadata={
                "path": dg.MetadataValue.path(path),
                "bytes": sum(file.path.stat().st_size for file in raw_files(path)),
                "source": dataset.source_name,
                "address": masked(getattr(source, "address", source.reader)),
                "licence": dataset.licence or "see the publisher",
            }
        )

    @dg.asset(
        partitions_def=partitions,
        deps=[raw],
        group_name="data",
        kinds={"polars", "parquet"},
        owners=["team:data"],
        code_version="1",
        check_specs=[
            dg.AssetCheckSpec(name, asset="splits", blocking=True, description=getdoc(check))
            for name, check in CHECKS.items()
        ],
        description="Training, validation and test items by the dataset's protocol, with ids "
        "from 1 and statistics.",
    )
    @explained
    def splits(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        from fparec_pipeline.training.sequential import keep_audit  # needs torch

        name, data = context.partition_key, workspace.data
        dataset = config.datasets[name]
        made = make_splits(name, dataset, fetch_raw(name, dataset, data), data)
        folder = data.splits(name)
        results = check_splits(folder, dataset)
        audit = keep_audit(folder)
        return dg.MaterializeResult(
            metadata={
                **{k: v for k, v in made.stats.items() if isinstance(v, int | float | str)},
                "length_quantiles": dg.MetadataValue.json(made.stats["length_quantiles"]),
                "audit": dg.MetadataValue.md(
                    "\n".join(f"* **{label}**: {text}" for label, text in sentences(audit))
                ),
                "audit_values": dg.MetadataValue.json(audit),
                "dagster/row_count": made.stats["interactions"],
                "dagster/column_schema": _columns(folder / "train.parquet"),
                "path": dg.MetadataValue.path(folder),
                "tables": dg.MetadataValue.json([f"{table}.parquet" for table in TABLES]),
            },
            data_version=dg.DataVersion(made.stats["data_hash"]),
            check_results=[
                dg.AssetCheckResult(
                    check_name=result.name,
                    passed=result.passed,
                    severity=SEVERITIES[result.severity],
                    metadata={"message": result.message, **_plain(result.details)},
                )
                for result in results
            ],
        )

    return [raw, splits]


def splits_are_current(name: str, config: Config, data: DataRoot) -> bool:
    """Whether the splits on disk are intact, pass their checks, and are of today's file and entry.

    Raises:
        RawDataError: the dataset is a user's own and its file is not there.
    """
    dataset, folder = config.datasets[name], data.splits(name)
    try:
        stats = read_splits(folder).stats
        results = check_splits(folder, dataset)
    except SplitsError:
        return False
    if not is_downloaded(dataset.active_source):
        fetch_raw(name, dataset, data)
    return (
        is_recorded(stats)
        and outdated(name, dataset, data, stats) is None
        and all(result.passed or result.severity == "warning" for result in results)
    )


def _columns(parquet: Path) -> dg.TableSchemaMetadataValue:
    schema = pl.scan_parquet(parquet).collect_schema()
    return dg.MetadataValue.table_schema(
        dg.TableSchema([dg.TableColumn(name, str(dtype)) for name, dtype in schema.items()])
    )


def _plain(details: dict[str, Any]) -> dict[str, Any]:
    return {"details": dg.MetadataValue.json(details)} if details else {}
