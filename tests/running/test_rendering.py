"""What an import or a copy brings: everything is recorded and rendered, without any splits."""

import dagster as dg
import pytest
from data_roots import tiny_root
from trial_folders import make_attempt, write_finished

from fparec_pipeline.config import REFERENCES, load_config
from fparec_pipeline.results.paper_figures import FigureMissing
from fparec_pipeline.running.context import open_context
from fparec_pipeline.running.materialization import materialize
from fparec_pipeline.running.rendering import outdated, render
from fparec_pipeline.running.reporting import report_missing
from fparec_pipeline.tracking import Medians, Tracker, default_uri
from fparec_pipeline.training.record import trial_folders

JOB = "train_benchmark"
LINK = "http://127.0.0.1:5000/#/experiments/1/runs/2"


@pytest.fixture
def context(tmp_path):
    """Finished trials of `tiny`, as an import leaves them: published, and without splits."""
    data = tiny_root(tmp_path)
    config = load_config(data)
    names = [("fparec", seed) for seed in (0, 1, 2)] + [(name, 0) for name in REFERENCES]
    for model, seed in names:
        write_finished(data, make_attempt(config, "tiny", model, seed, published=True))
    with open_context(data, config) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _no_weights(monkeypatch):
    """The folders' weights are of no model."""

    def missing(*arguments):
        raise FigureMissing("nothing to draw")

    monkeypatch.setattr("fparec_pipeline.results.report.draw", missing)


def newest(context, key, partition=None):
    wanted = dg.AssetRecordsFilter(
        dg.AssetKey(key), asset_partitions=None if partition is None else [partition]
    )
    (event,) = context.instance.fetch_materializations(wanted, limit=1).records
    return event.asset_materialization


def trial(seed):
    return dg.MultiPartitionKey({"dataset": "tiny", "seed": str(seed)})


def report(context):
    folders = trial_folders(context.data)
    attempts = {b"tiny-fparec-1".hex(): LINK}
    return report_missing(folders, context.config, context.instance, attempts)


def test_imported_trials_and_references_are_recorded_once_marked_and_linked(context):
    assert report(context) >= 4
    found = newest(context, ["trained", "fparec"], trial(1)).metadata
    assert found["published"].value is True
    assert found["mlflow_run"].value == LINK
    assert "popularity/ndcg_at_10" in newest(context, "references", "tiny").metadata
    assert report(context) == 0


def test_everything_is_rendered_once(context):
    from mlflow import MlflowClient

    assert outdated(context) == ["tiny"]
    assert [error for _, error in render(outdated(context), context) if error] == []
    assert "FPARec" in newest(context, "leaderboard", "tiny").metadata["table"].value
    assert "FPARec" in newest(context, "table_3").metadata["table"].value
    assert (context.data.results / "report.html").exists()
    assert outdated(context) == []
    medians = Medians(Tracker(None, context.data))
    assert outdated(context, medians.datasets()) == []
    client = MlflowClient(tracking_uri=default_uri(context.data))
    experiment = client.get_experiment_by_name("fparec").experiment_id
    for run in client.search_runs([experiment], "tags.level = 'median'"):
        client.delete_run(run.info.run_id)
    assert outdated(context, medians.datasets()) == ["tiny"]  # a view: it is made again
    write_finished(context.data, make_attempt(context.config, "tiny", "sasrec", 0))
    assert outdated(context) == ["tiny"]


def test_a_trial_that_came_without_splits_is_reused_with_a_word(context):
    assert materialize(["trained/fparec"], context, JOB, partition=trial(0)) is None
    found = newest(context, ["trained", "fparec"], trial(0)).metadata
    assert "retrain" in found["reused"].value
    assert materialize(["references"], context, "prepare_data", partition="tiny") is None


def test_one_that_has_to_be_trained_says_what_is_missing(context):
    error = materialize(["trained/sasrec"], context, JOB, partition=trial(0))
    assert error.startswith(str(context.data.splits("tiny")))
    assert "Failure" not in error
