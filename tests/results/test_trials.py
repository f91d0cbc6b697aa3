import logging

import pytest
from polars.testing import assert_frame_equal
from trial_folders import make_attempt, write_finished, write_splits, write_unfinished

from fparec_pipeline.config import load_config, reference_fingerprint
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.results.trials import (
    METRICS,
    data_hash,
    disposable,
    read_trials,
    trials_frame,
    trials_path,
    write_trials,
)
from fparec_pipeline.training.metrics import NAMES


@pytest.fixture
def data(tmp_path):
    root = DataRoot(tmp_path)
    write_splits(root, "beauty")
    return root


def only_row(data, config):
    (row,) = trials_frame(data, config).to_dicts()
    return row


def test_no_trials_is_an_empty_frame_with_all_columns(data, config):
    frame = trials_frame(data, config)
    assert frame.height == 0
    assert {"dataset", "model", "seed", "stale", *METRICS} <= set(frame.columns)


def test_metrics_of_ranks_and_of_lists_are_columns():
    accuracy = {f"{metric}_at_{k}" for metric in ("hr", "ndcg") for k in (1, 5, 10, 20, 50)}
    kinds = ("answerable", "new", "repeated", "popular", "unpopular")
    kinds += ("short_history", "long_history")
    of_lists = {f"{metric}_at_10_{kind}" for metric in ("hr", "ndcg") for kind in kinds}
    of_lists |= {f"{name}_at_10" for name in ("coverage", "gini", "novelty", "popular_share")}
    tested = ("test", "test_unseen")
    rankings = (*tested, "valid", "valid_unseen")
    assert {f"{r}/{metric}" for r in rankings for metric in accuracy | {"mrr"}} <= set(NAMES)
    assert {f"{r}/{metric}" for r in tested for metric in of_lists} <= set(METRICS)
    assert {*NAMES, "test/user_coverage", "test_unseen/user_coverage"} <= set(METRICS)


def test_finished_trials_are_rows_and_unfinished_ones_are_not(data, config):
    write_finished(data, make_attempt(config, "beauty", "fparec", 0), {"test/mrr": 0.02}, epochs=5)
    write_unfinished(data, make_attempt(config, "beauty", "fparec", 1))
    row = only_row(data, config)
    assert (row["dataset"], row["model"], row["seed"]) == ("beauty", "fparec", 0)
    assert (row["test/mrr"], row["test/hr_at_5"]) == (0.02, 0.5)
    assert (row["best_epoch"], row["hit_cap"], row["stale"]) == (5, False, False)


@pytest.mark.parametrize("model", ["fparec", "popularity"])
def test_other_splits_make_stale(data, config, model):
    write_finished(data, make_attempt(config, "beauty", model, 0))
    assert not only_row(data, config)["stale"]
    write_splits(data, "beauty", data_hash="e" * 16)
    assert only_row(data, config)["stale"]


def test_another_configuration_makes_stale(data, config):
    write_finished(data, make_attempt(config, "beauty", "fparec", 0))
    (data.root / "datasets.toml").write_text("[beauty.hyperparameters]\ndropout = 0.1\n")
    assert only_row(data, load_config(data))["stale"]


def test_an_arm_that_is_configured_no_more_is_stale(data, config):
    attempt = make_attempt(config, "beauty", "fparec", 0)
    write_finished(data, attempt.model_copy(update={"arm": "fparec_old"}))
    assert only_row(data, config)["stale"]


@pytest.mark.parametrize("model", ["fparec", "popularity"])
def test_without_splits_here_only_the_configuration_counts(data, config, model):
    assert data_hash("toys", config, data) is None
    write_finished(data, make_attempt(config, "toys", model, 0))
    assert not only_row(data, config)["stale"]


@pytest.mark.parametrize("model", ["sasrec", "popularity"])
def test_without_splits_here_trials_on_other_data_than_the_newest_are_stale(data, config, model):
    """A newer one that is stale by its configuration decides nothing."""
    other = "e" * 16
    if model == "popularity":
        prints = reference_fingerprint("toys", model, other), ""
    else:
        trial = config.trial("toys", model, 0)
        prints = trial.fingerprint(other), trial.fingerprint(other, with_seed=False)
    changes = dict(zip(("fingerprint", "arm_fingerprint"), prints, strict=True))
    for arm, day, values in (
        ("fparec", 1, {}),
        (model, 2, changes | {"data_hash": other}),
        ("parec", 3, {"fingerprint": "of another configuration"}),
    ):
        folder = write_finished(data, make_attempt(config, "toys", arm, 0, **values))
        text = (folder / "trial.json").read_text()
        assert '"finished": "2024-05-01' in text
        changed = text.replace('"finished": "2024-05-01', f'"finished": "2024-06-0{day}')
        (folder / "trial.json").write_text(changed)
    stale = dict(trials_frame(data, config).select("model", "stale").iter_rows())
    assert stale == {"fparec": True, model: False, "parec": True}
    assert disposable(data, config) == [(data.trial("toys", "parec", 0), "stale")]


def test_last_ten_has_no_metrics_with_the_history_removed(data, config):
    write_finished(data, make_attempt(config, "beauty", "last_ten", 0))
    row = only_row(data, config)
    assert row["test_unseen/ndcg_at_10"] is None
    assert row["valid_unseen/mrr"] is None
    assert row["test/ndcg_at_10"] == 0.5


def test_an_unreadable_record_is_left_out_with_a_warning(data, config, caplog):
    folder = write_finished(data, make_attempt(config, "beauty", "fparec", 0))
    (folder / "trial.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        assert trials_frame(data, config).height == 0
    assert str(folder / "trial.json") in caplog.text


def test_what_is_written_by_dataset_is_read_as_one_frame(data, config):
    assert read_trials(data).is_empty()
    for dataset in ("beauty", "toys"):
        for model in ("fparec", "popularity"):
            write_finished(data, make_attempt(config, dataset, model, 0), {"test/mrr": 0.02})
        write_trials(data, config, dataset)
    expected = trials_frame(data, config).sort("dataset", "model")
    assert_frame_equal(read_trials(data).sort("dataset", "model"), expected)


def test_a_file_of_before_a_metric_was_added_has_null_there(data, config):
    write_finished(data, make_attempt(config, "beauty", "fparec", 0))
    write_trials(data, config, "beauty").drop("test/mrr").write_parquet(trials_path(data, "beauty"))
    (row,) = read_trials(data).to_dicts()
    assert row["test/mrr"] is None
    assert row["test/hr_at_10"] == 0.5
