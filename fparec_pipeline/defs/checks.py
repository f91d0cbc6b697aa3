"""Checks of results: each reads a frame and stops nothing; together, the benchmark's health.

The checks of splits stand in `datasets/checks.py`: those stop what is downstream.

Here belong checks of what the trials came to.
"""

from collections.abc import Callable, Mapping
from inspect import getdoc

import dagster as dg
import polars as pl

from fparec_pipeline.paths import DataRoot
from fparec_pipeline.results.trials import METRICS
from fparec_pipeline.training.record import HISTORY

HEADLINE = "test/ndcg_at_10"

# A frame and the data root -> what is wrong, in words; nothing where all is well.
Check = Callable[[pl.DataFrame, DataRoot], list[str]]


def epoch_cap_not_hit(trials: pl.DataFrame, data: DataRoot) -> list[str]:
    """No trial was stopped by its cap of epochs: it might have become better."""
    return _names(trials.filter(pl.col("hit_cap"), ~pl.col("stale")))


def not_stale(trials: pl.DataFrame, data: DataRoot) -> list[str]:
    """Every trial has today's configuration, training code and data."""
    return _names(trials.filter(pl.col("stale")))


def loss_is_finite(trials: pl.DataFrame, data: DataRoot) -> list[str]:
    """The loss of every epoch and every metric is a finite number."""
    wrong = trials.filter(pl.any_horizontal(~pl.col(METRICS).is_finite()))  # null is no answer
    found = set(_names(wrong))
    for row in trials.filter(pl.col("trained")).iter_rows(named=True):
        path = data.trial(row["dataset"], row["model"], row["seed"]) / HISTORY
        if path.exists() and not pl.read_parquet(path)["loss"].is_finite().all():
            found.add(f"{row['model']} seed {row['seed']}")
    return sorted(found)


def medians_complete(medians: pl.DataFrame, data: DataRoot) -> list[str]:
    """Every trained model has at least three seeds."""
    return medians.filter(pl.col("provisional"))["model"].to_list()


def better_than_popularity(medians: pl.DataFrame, data: DataRoot) -> list[str]:
    """Every trained model has a better NDCG@10 than the most popular items."""
    popular = medians.filter(pl.col("model") == "popularity")[HEADLINE]
    if popular.is_empty():
        return ["popularity itself has not been ranked"]
    worse = medians.filter(pl.col("trained"), pl.col(HEADLINE) <= popular.item())
    return worse["model"].to_list()


TRIAL_CHECKS: dict[str, Check] = {
    check.__name__: check for check in (epoch_cap_not_hit, not_stale, loss_is_finite)
}
MEDIAN_CHECKS: dict[str, Check] = {
    check.__name__: check for check in (medians_complete, better_than_popularity)
}


def check_specs(checks: Mapping[str, Check], asset: str) -> list[dg.AssetCheckSpec]:
    """What Dagster announces; none of them blocks."""
    return [
        dg.AssetCheckSpec(name, asset=asset, blocking=False, description=getdoc(check))
        for name, check in checks.items()
    ]


def check_results(
    checks: Mapping[str, Check], frame: pl.DataFrame, data: DataRoot
) -> list[dg.AssetCheckResult]:
    """What was found, as warnings."""
    found = {name: check(frame, data) for name, check in checks.items()}
    return [
        dg.AssetCheckResult(
            check_name=name,
            passed=not wrong,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"message": ", ".join(wrong) or "all is well"},
        )
        for name, wrong in found.items()
    ]


def column_schema(frame: pl.DataFrame) -> dg.TableSchemaMetadataValue:
    """The columns of a frame, for the page."""
    return dg.MetadataValue.table_schema(
        dg.TableSchema([dg.TableColumn(name, str(kind)) for name, kind in frame.schema.items()])
    )


def _names(trials: pl.DataFrame) -> list[str]:
    return [f"{model} seed {seed}" for model, seed in trials.select("model", "seed").iter_rows()]
