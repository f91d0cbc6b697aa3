"""The dimensions of the benchmark: datasets, seeds, and a study's arms with their seeds.

Here belongs how trials are named for Dagster, as partitions and as tags of runs, and back.
"""

from collections.abc import Iterable

import dagster as dg

from fparec_pipeline.config import Config, Trial, TrialId


def dataset_partitions(config: Config) -> dg.StaticPartitionsDefinition:
    """One partition a dataset."""
    return dg.StaticPartitionsDefinition(list(config.datasets))


def trial_partitions(config: Config) -> dg.MultiPartitionsDefinition:
    """Dataset × seed; the seeds are those that the studies name."""
    seeds = dg.StaticPartitionsDefinition([str(seed) for seed in config.seeds])
    return dg.MultiPartitionsDefinition({"dataset": dataset_partitions(config), "seed": seeds})


def study_partitions(config: Config, study: str) -> dg.MultiPartitionsDefinition:
    """Dataset × `arm·seed`, since Dagster takes exactly two dimensions."""
    arms = config.studies[study].arms
    trials = [arm_and_seed(arm, seed) for arm in arms for seed in config.seeds]
    return dg.MultiPartitionsDefinition(
        {"dataset": dataset_partitions(config), "trial": dg.StaticPartitionsDefinition(trials)}
    )


def arm_and_seed(arm: str, seed: int) -> str:
    """The key of a trial in the second dimension of `study_partitions`."""
    return f"{arm}·{seed}"


def multi_keys(context: dg.AssetExecutionContext) -> list[dg.MultiPartitionKey]:
    """The partitions of a run in two dimensions, one or several."""
    definition = context.assets_def.partitions_def
    assert isinstance(definition, dg.MultiPartitionsDefinition)  # noqa: S101
    return [definition.get_partition_key_from_str(str(key)) for key in context.partition_keys]


def trial_of(key: dg.MultiPartitionKey, arm: str | None) -> TrialId:
    """The trial of a partition: the arm's own asset (`arm`), or a study's (None)."""
    keys = key.keys_by_dimension
    if arm is None:
        arm, _, seed = keys["trial"].rpartition("·")
        return TrialId(keys["dataset"], arm, int(seed))
    return TrialId(keys["dataset"], arm, int(keys["seed"]))


def trial_tags(trials: Iterable[Trial]) -> dict[str, str]:
    """The tags that tell a person which trials a run trains: dataset, arm and seed."""
    names = [trial.id._asdict() for trial in trials]
    return {
        tag: ", ".join(dict.fromkeys(str(name[tag]) for name in names))
        for tag in ("dataset", "arm", "seed")
    }
