"""Where a command materialises data and results: in its own process, or in a cluster's queue."""

import dagster as dg
import pytest
from data_roots import tiny_root

from fparec_pipeline.paths import DataRoot
from fparec_pipeline.running.context import open_context
from fparec_pipeline.running.materialization import materialize

# A launcher that is none of this machine's, as far as the command can tell.
ELSEWHERE = """
run_launcher:
  module: dagster._core.launcher.sync_in_memory_run_launcher
  class: SyncInMemoryRunLauncher
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    data = tiny_root(tmp_path / "data")
    monkeypatch.setenv("FPAREC_DATA", str(data.root))
    return data


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text(ELSEWHERE)
    monkeypatch.setenv("DAGSTER_HOME", str(home))


def prepared(data: DataRoot) -> tuple[str | None, dg.DagsterRun, bool]:
    """The error of `raw` and `splits`, their run, and whether it waited in the queue."""
    with open_context(data) as context:
        error = materialize(["raw", "splits"], context, "prepare_data", partition="tiny")
        (run,) = context.instance.get_runs()
        enqueued = dg.DagsterEventType.PIPELINE_ENQUEUED
        return error, run, bool(context.instance.all_logs(run.run_id, of_type=enqueued))


def test_on_one_machine_it_is_a_run_in_this_process(root):
    error, run, waited = prepared(root)
    assert (error, waited) == (None, False)
    assert run.is_success and run.tags["dagster/partition"] == "tiny"


def test_on_a_cluster_it_is_a_run_in_the_queue(root, elsewhere):
    error, run, waited = prepared(root)
    assert (error, waited) == (None, True)
    assert run.is_success and run.job_name == "prepare_data"
    assert run.tags["dagster/partition"] == "tiny"
    assert run.asset_selection == {dg.AssetKey("raw"), dg.AssetKey("splits")}
    assert (root.splits("tiny") / "train.parquet").exists()


def test_what_fails_on_a_cluster_is_one_line(root, elsewhere):
    (root.root / "tiny.csv").unlink()
    error, run, _ = prepared(root)
    assert "tiny.csv" in error and "\n" not in error
    assert run.status is dg.DagsterRunStatus.FAILURE


def test_results_are_rendered_in_this_process_on_a_cluster_too(root, elsewhere):
    prepared(root)
    with open_context(root) as context:
        assert materialize(["trials"], context, "render_medians", partition="tiny") is None
        (run,) = [r for r in context.instance.get_runs() if r.job_name == "render_medians"]
        enqueued = dg.DagsterEventType.PIPELINE_ENQUEUED
        assert not context.instance.all_logs(run.run_id, of_type=enqueued)
