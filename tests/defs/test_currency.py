"""What Dagster's page says of splits whose raw file has changed, and of a report that is old."""

import os

import dagster as dg
from data_roots import tiny_root
from trial_folders import make_attempt, write_finished, write_splits

from fparec_pipeline.config import load_config
from fparec_pipeline.datasets.sources import fetch_raw
from fparec_pipeline.datasets.splits import make_splits
from fparec_pipeline.defs.build import build_defs
from fparec_pipeline.defs.currency import REPORT, SPLITS, currency_checks, currency_sensors
from fparec_pipeline.defs.resources import Workspace
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.results.paper_figures import FigureMissing
from fparec_pipeline.results.report import write_report
from fparec_pipeline.results.trials import trials_frame


def reports_of(of, workspace, changes):
    """What the sensor answers after each change, and how often it has reported the check."""
    sensor = next(each for each in currency_sensors() if each.name == of.sensor)
    key, cursor, seen = dg.AssetCheckKey(dg.AssetKey(of.asset), of.check), None, []
    with dg.DagsterInstance.ephemeral() as instance:
        for change in changes:
            change()
            with dg.build_sensor_context(
                instance=instance, cursor=cursor, resources={"workspace": workspace}
            ) as context:
                answer = sensor(context)
                cursor = context.cursor
            records = instance.event_log_storage.get_asset_check_execution_history(key, limit=9)
            seen.append((answer.skip_message, len(records)))
    return seen


def checked(of, workspace):
    """The result of the check that a person runs by hand."""
    keys = {check.check_key.name: check for check in currency_checks()}
    return keys[of.check](workspace)


def nothing():
    pass


def test_the_page_says_that_splits_are_outdated_without_a_run(tmp_path):
    data = tiny_root(tmp_path / "data")
    dataset = load_config(data).datasets["tiny"]
    make_splits("tiny", dataset, fetch_raw("tiny", dataset, data), data)
    workspace = Workspace(data_root=str(data.root))

    def change():
        path = data.root / "tiny.csv"
        path.write_text(path.read_text() + "user 1,item 1,9999\n")
        os.utime(path, (0, 0))

    seen = reports_of(SPLITS, workspace, [nothing, nothing, change])
    assert [count for _, count in seen] == [1, 1, 2]  # reported when the answer has changed
    assert seen[0][0] == "all current"
    assert "tiny" in seen[2][0]
    assert "tiny.csv is not the file" in seen[2][0]
    result = checked(SPLITS, workspace)
    assert (result.passed, set(result.metadata)) == (False, {"tiny"})


def test_the_page_says_that_the_report_lacks_a_trial_or_shows_one_that_became_stale(
    tmp_path, monkeypatch
):
    def missing(*arguments):
        raise FigureMissing("the folders' weights are of no model")

    monkeypatch.setattr("fparec_pipeline.results.report.draw", missing)
    data = DataRoot(tmp_path)
    write_splits(data, "beauty")
    workspace = Workspace(data_root=str(data.root))

    def train(seed):
        write_finished(data, make_attempt(load_config(data), "beauty", "fparec", seed))

    def render():
        config = load_config(data)
        write_report(trials_frame(data, config), data, config, {})

    def reconfigure():
        (data.root / "datasets.toml").write_text("[beauty.hyperparameters]\ndropout = 0.1\n")

    changes = [nothing, lambda: train(0), render, lambda: train(1), render, reconfigure]
    seen = reports_of(REPORT, workspace, changes)
    current = [answer == "all current" for answer, _ in seen]
    assert current == [True, False, True, False, True, False]
    assert "beauty: the report has not been written" in seen[1][0]
    assert "beauty: its finished trials are others" in seen[3][0]
    assert not checked(REPORT, workspace).passed
    render()
    assert checked(REPORT, workspace).passed


def test_trials_collected_again_with_nothing_new_have_the_same_data_version(tmp_path):
    """So what was rendered from them does not look out of date."""
    data = tiny_root(tmp_path)
    definitions = build_defs(load_config(data), {"workspace": Workspace(data_root=str(data.root))})
    job = definitions.get_repository_def().get_job("render_medians")

    def version():
        with dg.instance_for_test() as instance:
            done = job.execute_in_process(
                asset_selection=[dg.AssetKey("trials")], partition_key="tiny", instance=instance
            )
        (event,) = done.asset_materializations_for_node("trials")
        return event.tags["dagster/data_version"]

    empty = version()
    write_finished(data, make_attempt(load_config(data), "tiny", "fparec", 0))
    first = version()
    assert first != empty
    assert version() == first
