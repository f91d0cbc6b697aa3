"""Targets that a user has had before, apart from new ones: what decides the order on some datasets.

What belongs here: the table of `fparec results repeats`, from ranks and splits. It needs no list of
recommendations, so that trials published before lists were kept have it too.
"""

import numpy as np
import polars as pl

from fparec_pipeline.config import REFERENCES, Config
from fparec_pipeline.datasets.splits import Splits
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.results.study_table import escaped, markdown_table
from fparec_pipeline.training.beyond import target_facts
from fparec_pipeline.training.metrics import per_target
from fparec_pipeline.training.record import RANKS

HR, NDCG = "hr_at_10", "ndcg_at_10"
COLUMNS = (
    "HR@10, repeated",
    "HR@10, new",
    "HR@10, repeated, history removed",
    "HR@10, new, history removed",
    "HR@10, repeats are misses",
    "NDCG@10, repeats are misses",
)


def repeat_values(kept: np.ndarray, unseen: np.ndarray, repeated: np.ndarray) -> list[float]:
    """The values of COLUMNS for one trial; NaN where no target is of the kind.

    "Repeats are misses" is what code descended from S3Rec reports: the whole history is removed
    from the candidates, the target with it, so that a repeated target cannot be found.

    Args:
        kept: (targets,) ranks with the history among the candidates.
        unseen: (targets,) ranks without it; the target itself always stays a candidate.
        repeated: (targets,) bool, whether the target is in the history.
    """
    hits, hits_unseen = per_target(kept, HR), per_target(unseen, HR)
    return [
        *(
            _mean(values[which])
            for values in (hits, hits_unseen)
            for which in (repeated, ~repeated)
        ),
        *(_mean(per_target(unseen, metric) * ~repeated) for metric in (HR, NDCG)),
    ]


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def repeats_table(splits: Splits, trials: pl.DataFrame, config: Config, data: DataRoot) -> str:
    """A row a model of the dataset, medians over its seeds, as markdown.

    Args:
        splits: the dataset's.
        trials: `trials_frame`.
        config: for titles.
        data: where the ranks are.
    """
    repeated = target_facts(splits)["repeated"].to_numpy()
    current = trials.filter((pl.col("dataset") == splits.name) & ~pl.col("stale"))
    found = []
    for (arm,), rows in current.group_by("model", maintain_order=True):
        values = []
        for seed in rows["seed"]:
            ranks = pl.read_parquet(data.trial(splits.name, str(arm), seed) / RANKS)
            values.append(
                repeat_values(ranks["test"].to_numpy(), ranks["test_unseen"].to_numpy(), repeated)
            )
        found.append((str(arm), np.median(values, axis=0)))
    found.sort(key=lambda row: (row[0] in REFERENCES, -row[1][0]))
    titles = config.titles_on(splits.name)
    lines = [
        [escaped(titles.get(arm, arm)), *(f"{value:.4f}" for value in values)]
        for arm, values in found
    ]
    share = f"{repeated.mean():.2%} of {len(repeated):,} test targets are repeated."
    return f"{share}\n\n" + markdown_table(["model", *COLUMNS], lines, text_columns=1)
