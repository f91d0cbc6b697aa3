"""The weekly benchmark, what keeps results current, and who is told of failures."""

import datetime
import http.server
import json
import threading

import dagster as dg
import pytest
from data_roots import tiny_root

from fparec_pipeline.config import load_config
from fparec_pipeline.datasets.sources import fetch_raw
from fparec_pipeline.datasets.splits import make_splits
from fparec_pipeline.defs.automation import (
    COUNT,
    STAGE,
    STAGES,
    TICK,
    has_ended,
    name_of_launch,
    tell,
)
from fparec_pipeline.defs.build import build_defs
from fparec_pipeline.defs.resources import Workspace
from fparec_pipeline.results.tick import read_tick
from fparec_pipeline.training.record import read_record

# Dagster's own: the tags of a run of a partition are not what its cloud service allows.
pytestmark = pytest.mark.filterwarnings("ignore:Non-compliant tag keys")

SUNDAY = datetime.datetime(2024, 5, 5, 3, tzinfo=datetime.UTC)
LATER = SUNDAY + datetime.timedelta(days=7)

NOT_STARTED = dg.DagsterRunStatus.NOT_STARTED
STARTED = dg.DagsterRunStatus.STARTED
STARTING = dg.DagsterRunStatus.STARTING
SUCCESS = dg.DagsterRunStatus.SUCCESS
FAILURE = dg.DagsterRunStatus.FAILURE
CANCELED = dg.DagsterRunStatus.CANCELED


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data root whose dataset `tiny` has been prepared."""
    root = tiny_root(tmp_path_factory.mktemp("data"), epochs=1)
    tiny = load_config(root).datasets["tiny"]
    make_splits("tiny", tiny, fetch_raw("tiny", tiny, root), root)
    return root


@pytest.fixture(scope="module")
def defs(data):
    return definitions(data)


def definitions(data):
    return build_defs(load_config(data), {"workspace": Workspace(data_root=str(data.root))})


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
    with dg.build_schedule_context(
        instance,
        scheduled_execution_time=at,
        repository_def=repository,
        resources=repository.get_top_level_resources(),
    ) as context:
        return repository.get_schedule_def("weekly_benchmark").evaluate_tick(context)


def look(repository, instance):
    """What the sensor answers now."""
    resources = repository.get_top_level_resources()
    with dg.build_sensor_context(
        instance, repository_def=repository, resources=resources
    ) as context:
        return repository.get_sensor_def("benchmark_training").evaluate_tick(context)


def run(stage, status, day=SUNDAY, count=1, partition="tiny"):
    tags = {TICK: day.date().isoformat(), STAGE: stage, COUNT: str(count)}
    tags["dagster/partition"] = partition
    return dg.DagsterRun(job_name="some_job", status=status, tags=tags)


def add(instance, stage, *statuses, day=SUNDAY, count=None):
    for status in statuses:
        instance.add_run(run(stage, status, day, count or len(statuses)))


def test_the_schedule_is_off_until_somebody_starts_it(repository):
    schedule = repository.get_schedule_def("weekly_benchmark")
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED


def test_a_tick_prepares_the_datasets_that_are_here_and_no_other(repository, instance):
    (request,) = tick(repository, instance).run_requests
    day, _, rest = request.run_key.partition(" ")  # launched by hand, years later
    assert (day, rest.partition("/")[2]) == ("2024-05-05", "prepare/tiny")
    assert (request.partition_key, request.tags[TICK]) == ("tiny", day)


def test_a_tick_on_time_has_one_name_and_one_by_hand_another_each_time():
    soon, later = SUNDAY + datetime.timedelta(seconds=20), SUNDAY + datetime.timedelta(days=3)
    assert name_of_launch(SUNDAY, soon) == "2024-05-05"
    names = {name_of_launch(SUNDAY, now) for now in (soon, later, later + (later - SUNDAY))}
    assert len(names) == 3
    assert name_of_launch(LATER, soon) != "2024-05-12"  # of a date that is still to come


def test_a_tick_of_an_older_date_that_is_launched_last_is_the_one_that_trains(repository, instance):
    add(instance, "prepare", SUCCESS, day=LATER)
    add(instance, "train", SUCCESS, day=LATER)
    add(instance, "prepare", SUCCESS)
    keys = [request.run_key for request in look(repository, instance).run_requests]
    assert keys and all(key.startswith("2024-05-05/train/") for key in keys)


def test_a_tick_of_an_empty_data_root_is_skipped_with_the_reason(tmp_path, instance):
    empty = definitions(tiny_root(tmp_path)).get_repository_def()
    skipped = tick(empty, instance)
    assert not skipped.run_requests
    assert "prepare_data" in skipped.skip_message


def test_another_day_makes_other_run_keys(repository, instance):
    first, second = (tick(repository, instance, at).run_requests for at in (SUNDAY, LATER))
    assert not {r.run_key for r in first} & {r.run_key for r in second}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("status", [NOT_STARTED, STARTING, STARTED])
def test_a_tick_is_skipped_while_the_last_ones_runs_go_on(repository, instance, stage, status):
    add(instance, "prepare", SUCCESS, FAILURE)
    add(instance, stage, status)
    skipped = tick(repository, instance, LATER)
    assert not skipped.run_requests
    assert "last tick" in skipped.skip_message


def test_runs_of_other_making_do_not_hold_a_tick_back(repository, instance):
    instance.add_run(dg.DagsterRun(job_name="by_hand", status=STARTED))
    add(instance, "train", SUCCESS, FAILURE, CANCELED)
    assert len(tick(repository, instance, LATER).run_requests) == 1


def test_nothing_is_trained_before_any_tick(repository, instance):
    assert not look(repository, instance).run_requests


def test_nothing_is_trained_while_a_dataset_is_being_prepared(repository, instance):
    add(instance, "prepare", SUCCESS, STARTED)
    assert not look(repository, instance).run_requests


def test_nothing_is_trained_before_every_dataset_was_asked_for(repository, instance):
    add(instance, "prepare", SUCCESS, count=2)
    assert not look(repository, instance).run_requests


def test_what_could_be_prepared_is_trained_anew_by_every_arm_of_the_benchmark(
    repository, instance, defs, data
):
    instance.add_run(run("prepare", SUCCESS, count=2))
    instance.add_run(run("prepare", FAILURE, count=2, partition="beauty"))
    requests = look(repository, instance).run_requests
    arms = load_config(data).studies["benchmark"].arms
    trials = {f"tiny/{arm}/seed={seed}" for arm in arms for seed in (0, 1, 2)}
    assert {request.run_key for request in requests} == {f"2024-05-05/train/{t}" for t in trials}
    for request in requests:
        job = defs.resolve_job_def(request.job_name)
        dg.validate_run_config(job, request.run_config)
        (op,) = request.run_config["ops"].values()
        assert op == {"config": {"retrain": True}}
        assert request.tags[COUNT] == str(len(trials))


def test_training_is_asked_for_once(repository, instance):
    add(instance, "prepare", SUCCESS)
    add(instance, "train", STARTED, count=3)
    assert not look(repository, instance).run_requests


def test_of_a_tick_whose_preparation_failed_nothing_is_trained_and_the_report_is_told(
    repository, instance, data
):
    add(instance, "prepare", FAILURE)
    assert [r.job_name for r in look(repository, instance).run_requests] == ["render_tables"]
    assert not look(repository, instance).run_requests  # once
    told = read_tick(data)
    assert (told["tick"], told["runs"]) == ("2024-05-05", 1)
    assert told["failed"][0]["partition"] == "tiny"


@pytest.mark.parametrize(
    ("statuses", "count", "ended"),
    [
        ([], 1, False),
        ([SUCCESS], 2, False),
        ([SUCCESS, STARTED], 2, False),
        ([SUCCESS, FAILURE], 2, True),
        ([SUCCESS, CANCELED, SUCCESS], 2, True),  # one was started again by hand
    ],
)
def test_when_a_stage_has_ended(statuses, count, ended):
    assert has_ended([run("train", status, count=count) for status in statuses]) is ended


def execute(defs, instance, job, request):
    tags = request.tags | {"dagster/partition": request.partition_key}
    return defs.resolve_job_def(job).execute_in_process(
        asset_selection=request.asset_selection,
        instance=instance,
        partition_key=request.partition_key,
        run_config=request.run_config,
        tags=tags,
        raise_on_error=False,
    )


def test_a_tick_runs_to_its_end_and_what_is_made_of_it_is_rendered(tmp_path, instance):
    """Prepared, trained anew, told to the report; then results are asked for, tables last."""
    root = tiny_root(tmp_path, epochs=1)
    with (tmp_path / "studies.toml").open("a") as file:
        file.write('models = ["fparec", "sasrec"]\nseeds = [0]\n')  # of [benchmark]
    tiny = load_config(root).datasets["tiny"]
    make_splits("tiny", tiny, fetch_raw("tiny", tiny, root), root)
    defs = definitions(root)
    repository = defs.get_repository_def()
    evaluated = dg.evaluate_automation_conditions(defs, instance)
    assert evaluated.total_requested == 0
    (prepare,) = tick(repository, instance).run_requests
    assert execute(defs, instance, "prepare_data", prepare).success
    for train in look(repository, instance).run_requests:
        assert execute(defs, instance, train.job_name, train).success
    assert [r.job_name for r in look(repository, instance).run_requests] == ["render_tables"]
    assert read_tick(root) == {"tick": "2024-05-05", "runs": 3, "failed": []}
    for model in ("fparec", "sasrec"):
        assert read_record(root.trial("tiny", model, 0))
    wanted = set()
    for _ in range(4):  # what Dagster's daemon does every half minute
        evaluated = dg.evaluate_automation_conditions(defs, instance, cursor=evaluated.cursor)
        found = {
            (key.to_user_string(), partition)
            for result in evaluated.results
            for key in [result.key]
            for partition in evaluated.get_requested_partitions(key)
        }
        wanted |= found
        for partition in dict.fromkeys(partition for _, partition in found):
            names = [name for name, of in found if of == partition]
            dg.materialize(
                defs.assets,
                selection=[dg.AssetKey(name.split("/")) for name in names],
                instance=instance,
                partition_key=partition,
                resources=defs.resources,
            )
    by_dataset = {("trials", "tiny"), ("medians", "tiny"), ("leaderboard", "tiny")}
    assert wanted >= by_dataset | {("benchmark", None), ("report", None)}
    assert {partition for _, partition in wanted} == {"tiny", None}


@pytest.fixture
def hook():
    """A web hook that keeps what it was sent."""
    received = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", received
    server.shutdown()


def test_a_failure_is_sent_to_the_web_hook(hook):
    address, received = hook
    tell(address, run("train", FAILURE, partition="tiny|0"), "the disk is full")
    (sent,) = received
    assert sent["text"] == "some_job tiny|0 failed: the disk is full"
    assert sent["partition"] == "tiny|0"


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/", "no address"])
def test_a_web_hook_that_cannot_be_reached_is_a_warning(address, caplog):
    tell(address, run("train", FAILURE), "the disk is full")
    assert "sent" in caplog.text
