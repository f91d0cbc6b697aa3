"""A backfill of the page, the command and the schedule ask for the same runs of the same trials."""

import os
import subprocess
import sys
from collections.abc import Callable

import dagster as dg
import pytest
from data_roots import tiny_root
from processes import PATIENCE_S, wait_until
from servers import MAIN, graphql, served

from fparec_pipeline.defs.automation import COUNT, STAGE, TICK
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.running.context import open_context, open_instance
from fparec_pipeline.running.materialization import materialize

pytestmark = pytest.mark.timeout(900)

BENCHMARK = """
[benchmark]
datasets = ["tiny"]
models = ["fparec"]
seeds = [0, 1]
"""
# What the page sends when partitions of an asset are chosen.
BACKFILL = """
mutation Launch($backfillParams: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $backfillParams) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}
"""
EXPECTED = [
    ("trained/fparec", "tiny|0", {"dataset": "tiny", "arm": "fparec", "seed": "0"}),
    ("trained/fparec", "tiny|1", {"dataset": "tiny", "arm": "fparec", "seed": "1"}),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    data = tiny_root(tmp_path_factory.mktemp("data"), epochs=1)
    (data.root / "studies.toml").write_text(BENCHMARK)
    with open_context(data) as context:
        assert materialize(["raw", "splits"], context, "prepare_data", partition="tiny") is None
    return data


def made_by(ask: Callable[[], None], data: DataRoot) -> list[dg.DagsterRun]:
    """The training runs that there are when those that were asked for have ended."""
    before = {run.run_id for run in training_runs(data)}

    def new() -> list[dg.DagsterRun]:
        return [run for run in training_runs(data) if run.run_id not in before]

    ask()
    wait_until(
        lambda: len(new()) == len(EXPECTED) and all(run.is_finished for run in new()), "runs end"
    )
    return new()


def training_runs(data: DataRoot) -> list[dg.DagsterRun]:
    with open_instance(data) as on:
        return [r for r in on.get_runs() if any(k.path[0] == "trained" for k in assets_of(r))]


def assets_of(run: dg.DagsterRun) -> list[dg.AssetKey]:
    return list(run.asset_selection or [])


def shown(run: dg.DagsterRun) -> tuple[str, str, dict[str, str]]:
    """Its only asset, its partition, and the tags that are not Dagster's or the schedule's own."""
    (asset,) = assets_of(run)
    own = {
        tag: value
        for tag, value in run.tags.items()
        if not tag.startswith(("dagster/", ".dagster/", "fparec/"))
    }
    return asset.to_user_string(), run.tags["dagster/partition"], own


def waited_in_the_queue(run: dg.DagsterRun, data: DataRoot) -> bool:
    with open_instance(data) as on:
        return bool(on.all_logs(run.run_id, of_type=dg.DagsterEventType.PIPELINE_ENQUEUED))


@pytest.mark.slow_fault
@pytest.mark.fault("engine")
def test_the_page_the_command_and_the_schedule_give_the_same_runs_to_the_daemon(data, harm):
    def page() -> None:
        wanted = {
            "assetSelection": [{"path": ["trained", "fparec"]}],
            "partitionNames": ["tiny|0", "tiny|1"],
        }
        answer = graphql(pages.dagster, BACKFILL, backfillParams=wanted)
        assert answer["__typename"] == "LaunchBackfillSuccess", answer

    def command() -> None:
        done = subprocess.run(
            [sys.executable, "-c", MAIN, "run", "--retrain", "--jobs", "2"],
            env=os.environ | {"FPAREC_DATA": str(data.root), "COLUMNS": "200"},
            timeout=PATIENCE_S * 2,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "go through the queue of `fparec dev`" in done.stdout

    def schedule() -> None:
        tags = {TICK: "2024-05-05", STAGE: "prepare", COUNT: "1", "dagster/partition": "tiny"}
        status = dg.DagsterRunStatus.SUCCESS
        with open_instance(data) as on:
            on.add_run(dg.DagsterRun(job_name="prepare_data", status=status, tags=tags))

    jobs = {}
    with served(data.root) as pages:
        with open_instance(data) as on:
            wait_until(lambda: on.get_daemon_heartbeats(), "the daemon is alive")
        harm()
        for ask in (page, command, schedule):
            runs = made_by(ask, data)
            assert sorted(map(shown, runs), key=str) == EXPECTED
            assert all(run.is_success for run in runs)
            assert all(waited_in_the_queue(run, data) for run in runs)
            jobs[ask.__name__] = {run.job_name for run in runs}
    # Dagster has a backfill's runs in a job of all assets, whose page names the assets instead.
    assert jobs == {
        "page": {"__ASSET_JOB"},
        "command": {"train_benchmark"},
        "schedule": {"train_benchmark"},
    }
