"""Targets that a user has had before, apart from new ones: what decides the order on some datasets.

What belongs here: the table of `fparec results repeats`, from ranks and splits. It needs no list of
recommendations, so that trials published before lists were kept have it too.
"""

import numpy as np
import polars as pl

from fparec_pipeline.config import REFERENCES, Config
from fparec_pipeline.datasets.splits import Splits
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.results.medians import available_medians, median_key
from fparec_pipeline.results.significance import UserRanks
from fparec_pipeline.results.study_table import DASH, escaped, markdown_table
from fparec_pipeline.training.beyond import target_facts
from fparec_pipeline.training.metrics import per_target

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

    A model with a damaged trial is left out, with a warning; a dash stands where no target is of
    the kind, and where a value has no meaning.

    Args:
        splits: the dataset's.
        trials: `trials_frame`.
        config: for titles.
        data: where the ranks are.
    """
    repeated = target_facts(splits)["repeated"].to_numpy()
    medians, users = available_medians(trials), UserRanks(config, data)
    found = []
    for row in medians.filter(pl.col("dataset") == splits.name).iter_rows(named=True):
        tested = users.read(*median_key(row))
        if tested is None:
            continue
        ranks = zip(tested.ranks["test"], tested.ranks["test_unseen"], strict=True)
        values = np.median([repeat_values(*of_seed, repeated) for of_seed in ranks], axis=0)
        if row["model"] == "last_ten":  # what is removed is all that it recommends
            values[2:] = np.nan
        found.append((row["model"], values))
    found.sort(key=lambda row: (row[0] in REFERENCES, -row[1][0]))
    titles = config.titles_on(splits.name)
    lines = [
        [
            escaped(titles.get(arm, arm)),
            *(DASH if np.isnan(value) else f"{value:.4f}" for value in values),
        ]
        for arm, values in found
    ]
    share = f"{repeated.mean():.2%} of {len(repeated):,} test targets are repeated."
    return f"{share}\n\n" + markdown_table(["model", *COLUMNS], lines, text_columns=1)
