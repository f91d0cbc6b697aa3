"""What runs by itself: jobs, the weekly benchmark, what keeps results current, and failures told.

* A tick of `weekly_benchmark` asks for runs that prepare each dataset. The sensor
  `benchmark_training` asks for the training of the datasets that could be prepared, and when that
  has ended, however it ended, writes what came of the tick to `results/last_tick.json` and asks for
  the report, which begins with it where something failed.
* KEEP_CURRENT renders trials, medians, leaderboard, tables and report after any training, whoever
  asked for it, once nothing that they are made of is still running.
* `failed_runs` calls the web hook that FAILURE_HOOK names, where it names one.

How a trial is trained does not belong here, nor how a result is made.
"""

import datetime
import json
import logging
import os
import urllib.request
from collections.abc import Iterator, Mapping, Sequence

import dagster as dg

from fparec_pipeline.config import Config
from fparec_pipeline.datasets.files import write_atomically
from fparec_pipeline.datasets.splits import statistics_on_disk
from fparec_pipeline.defs.private import AssetJob
from fparec_pipeline.defs.reasons import reason
from fparec_pipeline.defs.requests import (
    OTHER_ARMS,
    SCHEDULED,
    study_job_name,
    training_job,
    training_requests,
)
from fparec_pipeline.defs.resources import Workspace
from fparec_pipeline.defs.training import study_keys, training_keys
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.results.paper_figures import ARMS
from fparec_pipeline.results.tables import table_names
from fparec_pipeline.results.tick import tick_path
from fparec_pipeline.training.record import read_attempt, trial_folders

logger = logging.getLogger(__name__)

# Tags of the runs that one tick asks for. Hidden ones (`.dagster/…`) are lost where a tick is
# launched from its page.
TICK = "fparec/tick"  # its day
LAUNCH = "fparec/launch"  # the tick, or one launch of it by hand
STAGE = "fparec/stage"
COUNT = "fparec/count"  # how many runs the stage has
STAGES = ("prepare", "train")
REPORT_JOB = "render_tables"
ON_TIME = datetime.timedelta(hours=1)
FAILURE_HOOK = "FPAREC_FAILURE_HOOK"  # environment: an address that is sent every failure
HOOK_SECONDS = 10.0


def jobs(config: Config) -> dict[str, AssetJob]:
    """Prepare the data, train each study, and render medians, tables and the report."""
    made = [
        dg.define_asset_job(
            "prepare_data",
            selection=["raw", "splits", "references"],
            description="Fetches a dataset, splits it, checks the splits and ranks the untrained "
            "references. One run for each dataset.",
        ),
        dg.define_asset_job(
            "render_medians",
            selection=["trials", "medians", "leaderboard"],
            description="Collects the finished trials of a dataset, takes the medians and renders "
            "the leaderboard, without training. One run for each dataset.",
        ),
        dg.define_asset_job(
            REPORT_JOB,
            selection=[*table_names(config), "report"],
            description="Renders all tables and the report from the collected trials, without "
            "training.",
        ),
        dg.define_asset_job(
            "render_figures",
            selection=list(ARMS),
            description="Draws the paper's figures of a dataset's weights, without training.",
        ),
    ]
    for name, study in config.studies.items():
        made.append(
            dg.define_asset_job(
                study_job_name(name),
                selection=dg.AssetSelection.assets(*study_keys(config, name)),
                description=f"Trains the arms of: {study.title}. Finished trials are reused.",
            )
        )
    studied = {key for name in config.studies for key in study_keys(config, name)}
    if others := [key for key in training_keys(config) if key not in studied]:
        made.append(
            dg.define_asset_job(
                OTHER_ARMS,
                selection=dg.AssetSelection.assets(*others),
                description="Trains arms that are in no study. Finished trials are reused.",
            )
        )
    return {job.name: job for job in made}


def keep_current() -> dg.AutomationCondition:
    """Render again when something upstream was updated, and nothing upstream is running any more.

    Unlike `AutomationCondition.eager` it does not wait for partitions that are missing: a table of
    five datasets is of use while one of them has been trained.
    """
    condition = dg.AutomationCondition
    return (
        condition.any_deps_updated().since_last_handled()
        & ~condition.any_deps_in_progress()
        & ~condition.in_progress()
    ).with_label("keep current")


def keep_current_sensor() -> dg.AutomationConditionSensorDefinition:
    """Looks every half minute for results that have to be rendered again."""
    return dg.AutomationConditionSensorDefinition(
        "keep_results_current",
        target=dg.AssetSelection.all(),
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=30,
        description="Renders trials, medians, leaderboard, tables and report again after any "
        "training.",
    )


def benchmark_schedule(config: Config, job: AssetJob) -> dg.ScheduleDefinition:
    """Every Sunday at three: train the benchmark's arms again. Off until somebody starts it."""

    @dg.schedule(
        job=job,
        cron_schedule="0 3 * * 0",
        name="weekly_benchmark",
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"Trains the arms and seeds of the study {SCHEDULED} again, on every dataset "
        "that has been prepared or trained in this data root. First each dataset is prepared "
        "anew; the sensor benchmark_training then asks for the training.",
    )
    def weekly_benchmark(
        context: dg.ScheduleEvaluationContext, workspace: Workspace
    ) -> Iterator[dg.RunRequest | dg.SkipReason]:
        going = dg.RunsFilter(tags={STAGE: list(STAGES)}, statuses=in_progress())
        if context.instance.get_runs_count(going):
            yield dg.SkipReason("The last tick's runs have not all ended yet.")
            return
        datasets = present_datasets(config, workspace.data)
        if not datasets:
            yield dg.SkipReason(
                "No dataset has been prepared or trained in this data root, so that there is "
                "nothing to train again. The job `prepare_data` prepares one."
            )
            return
        scheduled = context.scheduled_execution_time
        launch = name_of_launch(scheduled, datetime.datetime.now(datetime.UTC))
        for dataset in datasets:
            yield dg.RunRequest(
                run_key=f"{launch}/prepare/{dataset}",
                partition_key=dataset,
                tags={
                    TICK: scheduled.date().isoformat(),
                    LAUNCH: launch,
                    STAGE: "prepare",
                    COUNT: str(len(datasets)),
                },
            )

    return weekly_benchmark


def launch_of(run: dg.DagsterRun) -> str:
    """Which launch of a tick the run belongs to."""
    return run.tags.get(LAUNCH, run.tags[TICK])


def name_of_launch(scheduled: datetime.datetime, now: datetime.datetime) -> str:
    """The tick's day; where somebody launches it by hand also when, so that each trains anew."""
    day = scheduled.date().isoformat()
    on_time = datetime.timedelta() <= now - scheduled < ON_TIME
    return day if on_time else f"{day} {now.isoformat(timespec='seconds')}"


def present_datasets(config: Config, data: DataRoot) -> list[str]:
    """The configured datasets that have splits here, or a trial that was trained here."""
    trained = {
        attempt.dataset
        for folder in trial_folders(data)
        if (attempt := read_attempt(folder)) and attempt.trained and not attempt.published
    }
    return [
        dataset
        for dataset in config.datasets
        if dataset in trained or statistics_on_disk(data.splits(dataset)) is not None
    ]


def in_progress() -> list[dg.DagsterRunStatus]:
    """The statuses of a run that has not ended."""
    ended = {
        dg.DagsterRunStatus.SUCCESS,
        dg.DagsterRunStatus.FAILURE,
        dg.DagsterRunStatus.CANCELED,
    }
    return [status for status in dg.DagsterRunStatus if status not in ended]


def training_sensor(config: Config, made: Mapping[str, AssetJob]) -> dg.SensorDefinition:
    """Asks for a tick's training when its datasets are prepared, and for the report at its end.

    Its runs are those of `fparec run --retrain`: one a trial, or one for the seeds of an arm.
    """
    training = {training_job(config, key) for key in training_keys(config)}

    @dg.sensor(
        jobs=[job for name, job in made.items() if name in training | {REPORT_JOB}],
        name="benchmark_training",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Trains the datasets that a tick of weekly_benchmark has prepared, and writes "
        "the report at its end.",
    )
    def benchmark_training(
        context: dg.SensorEvaluationContext, workspace: Workspace
    ) -> Iterator[dg.RunRequest | dg.SkipReason]:
        of_ticks = dg.RunsFilter(tags={STAGE: list(STAGES)})
        runs = context.instance.get_runs(of_ticks, limit=1000)  # the newest first
        newest = next((run for run in runs if run.tags[STAGE] == "prepare"), None)
        of_tick = [run for run in runs if newest and launch_of(run) == launch_of(newest)]
        prepared, trained = (
            [run for run in of_tick if run.tags[STAGE] == stage] for stage in STAGES
        )
        if newest and has_ended(prepared) and not trained:
            ready = [str(r.tags["dagster/partition"]) for r in prepared if r.is_success]
            if ready:
                yield from training_of_tick(config, newest, ready)
                return
        at_end = newest and has_ended(prepared) and (has_ended(trained) or not trained)
        if at_end and write_tick(workspace.data, of_tick, context.instance):
            # Where nothing could be trained, no new result has the report written again.
            yield dg.RunRequest(job_name=REPORT_JOB)
            return
        yield dg.SkipReason("No tick of the benchmark waits for its training.")

    return benchmark_training


def training_of_tick(
    config: Config, prepared: dg.DagsterRun, datasets: Sequence[str]
) -> list[dg.RunRequest]:
    """The runs that train the benchmark again on the datasets that a tick has prepared."""
    launch = launch_of(prepared)
    tags = {TICK: prepared.tags[TICK], LAUNCH: launch, STAGE: "train"}
    study = config.studies[SCHEDULED]
    trials = config.trials(datasets, study.arms, study.seeds)
    requests = list(training_requests(trials, config, retrain=True))
    return [
        request._replace(
            run_key=f"{launch}/train/{of[0].id}",
            tags={**request.tags, **tags, COUNT: str(len(requests))},
        )
        for request, of in requests
    ]


def has_ended(runs: Sequence[dg.DagsterRun]) -> bool:
    """Whether all runs of a stage were made, and have ended."""
    return bool(runs) and len(runs) >= int(runs[0].tags[COUNT]) and all(r.is_finished for r in runs)


def write_tick(data: DataRoot, runs: Sequence[dg.DagsterRun], on: dg.DagsterInstance) -> bool:
    """What came of a tick, for the report: its runs, and why those that failed did.

    Returns:
        Whether it is news.
    """
    content = {
        "tick": runs[0].tags[TICK],
        "runs": len(runs),
        "failed": [
            {
                "partition": subject(run),
                "stage": run.tags[STAGE],
                "run": run.run_id,
                "reason": reason(on, run).splitlines()[0],
            }
            for run in runs
            if not run.is_success
        ],
    }
    text = json.dumps(content, indent=2) + "\n"
    path = tick_path(data)
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    with write_atomically(path) as part:
        part.write_text(text, encoding="utf-8")
    return True


def subject(run: dg.DagsterRun) -> str:
    """What a run is about: the trials that it trains, else its partition; empty for none."""
    if all(tag in run.tags for tag in ("dataset", "arm", "seed")):
        return f"{run.tags['dataset']}/{run.tags['arm']}/seed={run.tags['seed']}"
    return run.tags.get("dagster/partition", "")


def failure_sensor() -> dg.SensorDefinition:
    """Tells the web hook of FAILURE_HOOK about every run that fails."""

    @dg.run_failure_sensor(
        name="failed_runs",
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=30,
        description=f"Sends every failure as JSON to the address in ${FAILURE_HOOK} (a chat's web "
        "hook, for instance). Without an address it sends nothing.",
    )
    def failed_runs(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
        address = os.environ.get(FAILURE_HOOK, "")
        if not address:
            return dg.SkipReason(f"${FAILURE_HOOK} names no address.")
        why = reason(context.instance, context.dagster_run).splitlines()[0]
        tell(address, context.dagster_run, why)
        return None

    return failed_runs


def tell(address: str, run: dg.DagsterRun, why: str) -> None:
    """POST the failure as JSON; `text` alone is what most chats show. An error is only logged."""
    partition = subject(run)
    content = {
        "text": f"{run.job_name} {partition} failed: {why}",
        "job": run.job_name,
        "partition": partition,
        "run": run.run_id,
        "reason": why,
    }
    if not address.startswith(("http://", "https://")):
        logger.warning("$%s is no http address; nothing was sent.", FAILURE_HOOK)
        return
    request = urllib.request.Request(  # noqa: S310
        address,
        data=json.dumps(content).encode(),
        headers={"Content-Type": "application/json"},
        method="POST",
    )
    try:
        with urllib.request.urlopen(request, timeout=HOOK_SECONDS):  # noqa: S310
            pass
    except OSError as error:
        logger.warning("The failure of run %s could not be sent: %s", run.run_id, error)
