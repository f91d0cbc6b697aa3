"""Which run trains which trials: what the command and the weekly schedule ask Dagster for.

Here belongs a training run before there is one: its job, asset, partitions, configuration and
tags. What Dagster's page asks for is made by Dagster itself; the assets' backfill policy and the
tags that a run gives itself (`training.py`) are what makes its runs the same.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from fparec_pipeline.config import Config, Trial
from fparec_pipeline.defs.partitions import trial_tags
from fparec_pipeline.defs.seeds import seeds_a_run
from fparec_pipeline.defs.training import places, study_keys

SCHEDULED = "benchmark"  # the study that the weekly schedule trains
RANGE = "dagster/asset_partition_range_{}"  # tags of a run of several partitions: start, end
OTHER_ARMS = "train_arms_of_no_study"  # a job; there only where there are such arms


def study_job_name(study: str) -> str:
    """The job that trains a study's arms."""
    return f"train_{study}"


def training_job(config: Config, asset: dg.AssetKey) -> str:
    """The job that trains the asset: the benchmark's if it has it, else another study's."""
    studies = sorted(config.studies, key=lambda study: study != SCHEDULED)
    named = (study_job_name(study) for study in studies if asset in study_keys(config, study))
    return next(named, OTHER_ARMS)


def training_requests(
    trials: Sequence[Trial], config: Config, *, device: str = "auto", retrain: bool = False
) -> Iterator[tuple[dg.RunRequest, list[Trial]]]:
    """The runs that train the trials, each with those that it trains.

    Args:
        trials: each of a dataset and a seed of the configuration.
        config: says which assets train them.
        device: what they are trained on.
        retrain: whether those that are there are trained again.
    """
    for group in _groups(trials, config, seeds_a_run(device)):
        yield _request(group, config, device, retrain), group


def _groups(trials: Sequence[Trial], config: Config, size: int) -> Iterator[list[Trial]]:
    """At most `size` trials of an arm whose seeds follow one another: a range of partitions."""
    if size == 1:
        yield from ([trial] for trial in trials)
        return
    place = {seed: number for number, seed in enumerate(config.seeds)}
    arms: dict[tuple[str, str], list[Trial]] = {}
    for trial in sorted(trials, key=lambda trial: place[trial.seed]):
        arms.setdefault((trial.dataset, trial.arm), []).append(trial)
    for of_arm in arms.values():
        group: list[Trial] = []
        for trial in of_arm:
            gap = group and place[trial.seed] > place[group[-1].seed] + 1
            if gap or len(group) == size:
                yield group
                group = []
            group.append(trial)
        yield group


def _request(trials: Sequence[Trial], config: Config, device: str, retrain: bool) -> dg.RunRequest:
    shown = [places(config, trial.id)[0] for trial in trials]
    asset, partitions = shown[0][0], [str(partition) for _, partition in shown]
    run_config: dict[str, Any] = {}
    if retrain:
        run_config["ops"] = {"__".join(asset.path): {"config": {"retrain": True}}}
    if device != "auto":
        run_config["resources"] = {"workspace": {"config": {"device": device}}}
    tags = trial_tags(trials)
    if len(partitions) > 1:
        tags |= {RANGE.format("start"): partitions[0], RANGE.format("end"): partitions[-1]}
    return dg.RunRequest(
        job_name=training_job(config, asset),
        asset_selection=[asset],
        partition_key=None if len(partitions) > 1 else partitions[0],
        run_config=run_config,
        tags=tags,
    )
