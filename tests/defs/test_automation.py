"""The weekly benchmark: what a tick asks for, and when its tables are rendered."""

import datetime

import dagster as dg
import pytest
from data_roots import tiny_root

from fparec_pipeline.config import load_config
from fparec_pipeline.defs.automation import STAGE, STAGES, TICK, due_stage
from fparec_pipeline.defs.build import build_defs

# Dagster's own: the tags of a run of a partition are not what its cloud service allows.
pytestmark = pytest.mark.filterwarnings("ignore:Non-compliant tag keys")

SUNDAY = datetime.datetime(2024, 5, 5, 3, tzinfo=datetime.UTC)
LATER = SUNDAY + datetime.timedelta(days=7)
EXPECTED = {"train": 3, "medians": 1}  # runs of a tick: one dataset, three seeds

NOT_STARTED = dg.DagsterRunStatus.NOT_STARTED
STARTED = dg.DagsterRunStatus.STARTED
STARTING = dg.DagsterRunStatus.STARTING
SUCCESS = dg.DagsterRunStatus.SUCCESS
FAILURE = dg.DagsterRunStatus.FAILURE
CANCELED = dg.DagsterRunStatus.CANCELED


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_root(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def defs(data):
    return build_defs(load_config(data))


@pytest.fixture(scope="module")
def repository(defs):
    return defs.get_repository_def()


@pytest.fixture(scope="module")
def storage():
    with dg.instance_for_test() as temporary:  # a schedule's context takes no ephemeral one
        yield temporary


@pytest.fixture
def instance(storage):
    storage.wipe()
    return storage


def tick(repository, instance, at=SUNDAY):
    """What the schedule answers at that moment."""
    context = dg.build_schedule_context(
        instance, scheduled_execution_time=at, repository_def=repository
    )
    return repository.get_schedule_def("weekly_benchmark").evaluate_tick(context)


def look(repository, instance):
    """What the sensor answers now."""
    context = dg.build_sensor_context(instance, repository_def=repository)
    return repository.get_sensor_def("render_benchmark").evaluate_tick(context)


def run(stage, status, day=SUNDAY):
    tags = {TICK: day.date().isoformat(), STAGE: stage}
    return dg.DagsterRun(job_name="some_job", status=status, tags=tags)


def add(instance, stage, *statuses, day=SUNDAY):
    for status in statuses:
        instance.add_run(run(stage, status, day))


def test_the_schedule_is_off_until_somebody_starts_it(repository):
    schedule = repository.get_schedule_def("weekly_benchmark")
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED


def test_a_tick_asks_for_every_trial_of_the_configured_datasets(repository, instance):
    requests = tick(repository, instance).run_requests
    assert [request.run_key for request in requests] == [
        "2024-05-05/tiny/0",
        "2024-05-05/tiny/1",
        "2024-05-05/tiny/2",
    ]
    assert {request.partition_key for request in requests} == {"tiny|0", "tiny|1", "tiny|2"}
    assert all(request.tags[TICK] == "2024-05-05" for request in requests)


def test_another_day_makes_other_run_keys(repository, instance):
    first, second = (tick(repository, instance, at).run_requests for at in (SUNDAY, LATER))
    assert not {r.run_key for r in first} & {r.run_key for r in second}


def test_a_tick_retrains_every_arm_of_the_benchmark(repository, instance, defs, data):
    job = defs.resolve_job_def("train_benchmark")
    config = tick(repository, instance).run_requests[0].run_config
    dg.validate_run_config(job, config)
    assert set(config["ops"]) == {node.name for node in job.nodes}
    assert len(config["ops"]) == len(load_config(data).studies["benchmark"].models)
    assert all(op == {"config": {"retrain": True}} for op in config["ops"].values())


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("status", [NOT_STARTED, STARTING, STARTED])
def test_a_tick_is_skipped_while_the_last_ones_runs_go_on(repository, instance, stage, status):
    add(instance, "train", SUCCESS, FAILURE)
    add(instance, stage, status)
    skipped = tick(repository, instance, LATER)
    assert not skipped.run_requests
    assert "last tick" in skipped.skip_message


def test_runs_of_other_making_do_not_hold_a_tick_back(repository, instance):
    instance.add_run(dg.DagsterRun(job_name="by_hand", status=STARTED))
    add(instance, "train", SUCCESS, FAILURE, CANCELED)
    assert len(tick(repository, instance, LATER).run_requests) == 3


def test_nothing_is_rendered_before_any_tick(repository, instance):
    assert not look(repository, instance).run_requests


def test_nothing_is_rendered_while_a_trial_goes_on(repository, instance):
    add(instance, "train", SUCCESS, SUCCESS, STARTED)
    assert not look(repository, instance).run_requests


def test_nothing_is_rendered_before_every_trial_was_asked_for(repository, instance):
    add(instance, "train", SUCCESS, SUCCESS)
    assert not look(repository, instance).run_requests


def test_medians_are_asked_for_once_when_all_trials_ended_failed_ones_too(repository, instance):
    add(instance, "train", SUCCESS, FAILURE, CANCELED)
    (request,) = look(repository, instance).run_requests
    assert request.job_name == "render_medians"
    assert request.partition_key == "tiny"
    assert request.tags[STAGE] == "medians"
    add(instance, "medians", STARTED)
    assert not look(repository, instance).run_requests


def test_tables_are_asked_for_once_after_the_medians(repository, instance):
    add(instance, "train", SUCCESS, FAILURE, SUCCESS)
    add(instance, "medians", SUCCESS)
    (request,) = look(repository, instance).run_requests
    assert request.job_name == "render_tables"
    assert request.partition_key is None
    add(instance, "tables", SUCCESS)
    assert not look(repository, instance).run_requests


def test_a_new_tick_is_rendered_anew_under_new_run_keys(repository, instance):
    keys = []
    for day in (SUNDAY, LATER):
        add(instance, "train", SUCCESS, SUCCESS, SUCCESS, day=day)
        (request,) = look(repository, instance).run_requests
        keys.append(request.run_key)
        add(instance, "medians", SUCCESS, day=day)
        (request,) = look(repository, instance).run_requests
        keys.append(request.run_key)
        add(instance, "tables", SUCCESS, day=day)
    assert len(set(keys)) == 4


@pytest.mark.parametrize(
    ("train", "medians", "tables", "due"),
    [
        ([], [], [], None),
        ([SUCCESS] * 2, [], [], None),
        ([SUCCESS, FAILURE, STARTED], [], [], None),
        ([SUCCESS, FAILURE, CANCELED], [], [], "medians"),
        ([SUCCESS] * 4, [], [], "medians"),  # one was started again by hand
        ([SUCCESS] * 3, [STARTING], [], None),
        ([SUCCESS] * 3, [FAILURE], [], "tables"),
        ([SUCCESS] * 3, [SUCCESS], [STARTED], None),
        ([SUCCESS] * 3, [SUCCESS], [FAILURE], None),
    ],
)
def test_the_stage_that_is_due(train, medians, tables, due):
    statuses = dict(zip(STAGES, (train, medians, tables), strict=True))
    runs = {stage: [run(stage, status) for status in those] for stage, those in statuses.items()}
    assert due_stage(runs, EXPECTED) == due
