"""Medians over seeds: the strict ones of a study's table, and those of what is there.

Here belongs whatever is a median, and which metrics tables show. Tables belong to `study_table.py`,
tests to `significance.py`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from fparec_pipeline.config import REFERENCES, Study, known
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.results.significance import UserRanks
from fparec_pipeline.results.trials import METRICS

# What tables show: metric -> heading. The paper keeps the history; with it removed there is nothing
# to compare.
COLUMNS = {
    "test/hr_at_10": "HR@10",
    "test/ndcg_at_10": "NDCG@10",
    "test_unseen/hr_at_10": "HR@10, history removed",
    "test_unseen/ndcg_at_10": "NDCG@10, history removed",
}
# With fewer seeds a median says little.
ENOUGH_SEEDS = 3

# Which trials a median is of, as `UserRanks` reads them: dataset, name of the trials' folders,
# seeds, `arm_fingerprint`.
MedianKey = tuple[str, str, tuple[int, ...], str | None]


def study_medians(trials: pl.DataFrame, study: Study) -> pl.DataFrame:
    """One row per (dataset, model) of the study, then per (dataset, reference).

    Args:
        trials: `trials_frame`.
        study: a median is over exactly its seeds; a reference row has seed 0 only.

    Returns:
        Columns dataset, model, trained, arm_fingerprint (which trials these are), capped (a trial
        hit its epoch cap), gap and METRICS.
        `gap` is null, or the reason why all metrics are null: a seed that has not finished, is
        stale, or was trained under another configuration than the others.
    """
    wanted = _wanted(study)
    stale, missing = pl.col("stale"), pl.col("attempt").is_null()
    gap = (
        pl.when(missing.any())
        .then(pl.format("no finished trial of seed {}", _listed(missing)))
        .when(stale.any())
        .then(pl.format("stale: seed {}", _listed(stale)))
        .when(pl.col("arm_fingerprint").n_unique() > 1)
        .then(pl.lit("seeds trained under different configurations"))
    )
    return (
        wanted.join(
            trials.drop("trained"),
            on=["dataset", "model", "seed"],
            how="left",
            maintain_order="left",
        )
        .group_by("dataset", "model", "trained", maintain_order=True)
        .agg(
            pl.col("arm_fingerprint").first(),
            pl.col("hit_cap").any().alias("capped"),
            gap.alias("gap"),
            *_medians(),
        )
        .with_columns(pl.when(pl.col("gap").is_null()).then(pl.col(METRICS)).name.keep())
    )


def available_medians(trials: pl.DataFrame) -> pl.DataFrame:
    """One row per (dataset, model) that has a finished trial which is not stale.

    Args:
        trials: `trials_frame`.

    Returns:
        Columns dataset, model, trained, arm_fingerprint (which trials these are), seeds (a sorted
        list), provisional (a trained model with fewer than three seeds), capped, published (every
        one of its trials is), seconds (of training, all seeds together), and the median of each of
        METRICS (null where it has no meaning).
    """
    few = pl.col("seeds").list.len() < ENOUGH_SEEDS
    return (
        # In a frame that an older version wrote, trials on unlike data may both count as fresh:
        # take the larger lot.
        trials.filter(~pl.col("stale"))
        .group_by("dataset", "model", "trained", "arm_fingerprint")
        .agg(
            pl.col("seed").sort().alias("seeds"),
            pl.col("hit_cap").any().alias("capped"),
            pl.col("published").all(),
            pl.col("seconds").sum(),
            pl.col("finished").max(),
            *_medians(),
        )
        .sort(pl.col("seeds").list.len(), "finished", descending=True)
        .unique(["dataset", "model"], keep="first", maintain_order=True)
        .sort("dataset", "model")
        .select(
            "dataset",
            "model",
            "trained",
            "arm_fingerprint",
            "seeds",
            (pl.col("trained") & few).alias("provisional"),
            "capped",
            "published",
            "seconds",
            *METRICS,
        )
    )


def median_key(row: Mapping[str, Any]) -> MedianKey:
    """What `UserRanks` reads a row of `available_medians` by: dataset, model, seeds, fingerprint.

    The fingerprint is None in a row that was written before it was a column.
    """
    return row["dataset"], row["model"], tuple(row["seeds"]), row.get("arm_fingerprint")


def medians_path(data: DataRoot, dataset: str) -> Path:
    """Where the medians of a dataset lie: the asset `medians` writes them."""
    return data.results / "medians" / f"{dataset}.parquet"


def with_intervals(medians: pl.DataFrame, users: UserRanks) -> pl.DataFrame:
    """The medians with `<metric>/low` and `<metric>/high` for each metric that the tables show.

    Args:
        medians: `available_medians`.
        users: gives the 95 % intervals over users; null where a trial's ranks are damaged, where
            its folder holds another trial by now, and where the median itself is null.
    """
    columns: dict[str, list[float | None]] = {
        f"{metric}/{end}": [] for metric in COLUMNS for end in ("low", "high")
    }
    for row in medians.iter_rows(named=True):
        for metric in COLUMNS:
            found = None
            if row[metric] is not None:
                found = users.interval(*median_key(row), metric)
            low, high = found or (None, None)
            columns[f"{metric}/low"].append(low)
            columns[f"{metric}/high"].append(high)
    return medians.with_columns(
        pl.Series(name, values, dtype=pl.Float64) for name, values in columns.items()
    )


def leaderboard(
    medians: pl.DataFrame, dataset: str | None = None, metric: str = "test/ndcg_at_10"
) -> pl.DataFrame:
    """The medians, best model first.

    Args:
        medians: `available_medians`, perhaps with intervals.
        dataset: only this one; None means all, one after the other.
        metric: what to sort by, one of METRICS.

    Raises:
        ConfigError: no such metric.
    """
    known(metric, METRICS, "metric")
    wanted = pl.lit(True) if dataset is None else pl.col("dataset") == dataset
    return medians.filter(wanted).sort(
        "dataset", metric, "model", descending=[False, True, False], nulls_last=True
    )


def _wanted(study: Study) -> pl.DataFrame:
    """The (dataset, model, seed) that the study's medians need, in the order of printing."""
    datasets = pl.DataFrame({"dataset": study.datasets}, schema={"dataset": pl.String})
    models = pl.DataFrame({"model": study.arms}, schema={"model": pl.String})
    seeds = pl.DataFrame({"seed": study.seeds}, schema={"seed": pl.Int64})
    trained = models.join(seeds, how="cross").with_columns(trained=True)
    references = pl.DataFrame({"model": list(REFERENCES)}).with_columns(
        seed=pl.lit(0, dtype=pl.Int64), trained=False
    )
    return datasets.join(pl.concat([trained, references]), how="cross", maintain_order="left_right")


def _medians() -> list[pl.Expr]:
    """The median of each metric; null where a trial has no value of it."""
    return [
        pl.when(pl.col(name).is_not_null().all()).then(pl.col(name).median()).alias(name)
        for name in METRICS
    ]


def _listed(which: pl.Expr) -> pl.Expr:
    """The seeds of a group for which `which` holds, as "0, 2"."""
    return pl.col("seed").filter(which).cast(pl.String).str.join(", ")
