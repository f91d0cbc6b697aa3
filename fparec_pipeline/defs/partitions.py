"""The two dimensions of the benchmark: datasets and seeds."""

import dagster as dg

from fparec_pipeline.config import Config


def dataset_partitions(config: Config) -> dg.StaticPartitionsDefinition:
    """One partition a dataset."""
    return dg.StaticPartitionsDefinition(list(config.datasets))


def trial_partitions(config: Config) -> dg.MultiPartitionsDefinition:
    """Dataset × seed; the seeds are those that the studies name."""
    seeds = dg.StaticPartitionsDefinition([str(seed) for seed in config.seeds])
    return dg.MultiPartitionsDefinition({"dataset": dataset_partitions(config), "seed": seeds})
