"""Results, made of the finished trials; `leaderboard` is the one-line way to them.

Example:
    from fparec_pipeline.results import leaderboard
    leaderboard("beauty").select("model", "seeds", "test/ndcg_at_10")

Here belongs the one function that a notebook needs; each module beside says what belongs in it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

    from fparec_pipeline.paths import DataRoot


def leaderboard(
    dataset: str, metric: str = "test/ndcg_at_10", data: "DataRoot | None" = None
) -> "pl.DataFrame":
    """The median over seeds of every model of a dataset, best first, read from the trial folders.

    Args:
        dataset: a configured one.
        metric: what to sort by, such as "test/hr_at_10" or "test_unseen/ndcg_at_10".
        data: whose trials; None: $FPAREC_DATA, else the checkout's `data/`.

    Returns:
        One row a model: dataset, model, trained, seeds, provisional (fewer than three seeds),
        capped, published, seconds, a column for each metric, and `<metric>/low` and
        `<metric>/high`, its 95 % interval over users, for the metrics that the tables show.

    Raises:
        ConfigError: no such dataset or metric.
    """
    from fparec_pipeline.config import known, load_config
    from fparec_pipeline.paths import DataRoot
    from fparec_pipeline.results import medians
    from fparec_pipeline.results.significance import UserRanks
    from fparec_pipeline.results.trials import METRICS, trials_frame

    data = data or DataRoot.default()
    config = load_config(data)
    known(dataset, config.datasets, "dataset")
    known(metric, METRICS, "metric")
    found = medians.available_medians(trials_frame(data, config, dataset))
    return medians.leaderboard(
        medians.with_intervals(found, UserRanks(config, data)), dataset, metric
    )
