import polars as pl
import pytest
from trial_folders import make_attempt, write_finished, write_splits

from fparec_pipeline.config import ConfigError, Study
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.results.medians import available_medians, leaderboard, study_medians
from fparec_pipeline.results.trials import trials_frame

METRIC = "test/ndcg_at_10"
STUDY = Study(title="", models=("sasrec", "fparec"), datasets=("beauty", "toys"), seeds=(0, 1, 2))


@pytest.fixture
def data(tmp_path):
    root = DataRoot(tmp_path)
    for dataset in ("beauty", "toys"):
        write_splits(root, dataset)
    return root


def finish(data, config, dataset, model, seed, value, *, hit_cap=False, **changes):
    attempt = make_attempt(config, dataset, model, seed, **changes)
    write_finished(data, attempt, {METRIC: value}, hit_cap=hit_cap)


def medians(data, config):
    rows = study_medians(trials_frame(data, config), STUDY).to_dicts()
    return {(row["dataset"], row["model"]): row for row in rows}


def board(data, config, dataset=None, **options):
    medians = available_medians(trials_frame(data, config))
    return leaderboard(medians, dataset, **options).to_dicts()


def test_the_median_of_three_by_hand(data, config):
    for seed, value in enumerate((0.05, 0.01, 0.02)):
        finish(data, config, "beauty", "fparec", seed, value)
    row = medians(data, config)["beauty", "fparec"]
    assert row[METRIC] == 0.02  # neither the mean, 0.0267, nor the best
    assert row["gap"] is None
    assert row["capped"] is False


def test_only_the_studys_seeds_count(data, config):
    for seed, value in enumerate((0.05, 0.01, 0.02, 0.9, 0.9)):
        finish(data, config, "beauty", "fparec", seed, value)
    assert medians(data, config)["beauty", "fparec"][METRIC] == 0.02


def test_a_metric_that_one_seed_lacks_has_no_median(data, config):
    """A trial that is older than a metric has no value of it; two of three are no median."""
    for seed in (0, 1, 2):
        finish(data, config, "beauty", "fparec", seed, 0.04)
    trials = trials_frame(data, config)
    lacking = pl.when(pl.col("seed") != 2).then(pl.col("test/mrr")).alias("test/mrr")
    row = study_medians(trials.with_columns(lacking), STUDY).row(1, named=True)
    assert (row["model"], row[METRIC], row["test/mrr"]) == ("fparec", 0.04, None)


def test_a_missing_seed_is_a_gap_that_names_it(data, config):
    for seed in (0, 3):
        finish(data, config, "beauty", "fparec", seed, 0.04)
    row = medians(data, config)["beauty", "fparec"]
    assert row[METRIC] is None
    assert row["gap"] == "no finished trial of seed 1, 2"


def test_a_stale_seed_is_a_gap_that_names_it(data, config):
    for seed in (0, 1):
        finish(data, config, "beauty", "fparec", seed, 0.04)
    finish(data, config, "beauty", "fparec", 2, 0.04, fingerprint="another")
    row = medians(data, config)["beauty", "fparec"]
    assert (row[METRIC], row["gap"]) == (None, "stale: seed 2")


def test_unequal_arms_are_a_gap(data, config):
    for seed in (0, 1):
        finish(data, config, "beauty", "fparec", seed, 0.04)
    finish(data, config, "beauty", "fparec", 2, 0.04, arm_fingerprint="another")
    row = medians(data, config)["beauty", "fparec"]
    assert (row[METRIC], row["gap"]) == (None, "seeds trained under different configurations")


def test_one_capped_seed_marks_the_median(data, config):
    for seed in (0, 1, 2):
        finish(data, config, "beauty", "fparec", seed, 0.04, hit_cap=seed == 1)
    assert medians(data, config)["beauty", "fparec"]["capped"] is True


def test_a_reference_needs_its_one_seed_only(data, config):
    finish(data, config, "toys", "popularity", 0, 0.01)
    row = medians(data, config)["toys", "popularity"]
    assert (row[METRIC], row["gap"], row["trained"]) == (0.01, None, False)


def test_rows_stand_in_the_studys_order_references_last(data, config):
    arms = ["sasrec", "fparec", "popularity", "last_ten", "transitions"]
    assert list(medians(data, config)) == [(d, m) for d in ("beauty", "toys") for m in arms]


def test_the_leaderboard_takes_what_is_there_and_says_so(data, config):
    finish(data, config, "beauty", "sasrec", 2, 0.03)
    finish(data, config, "beauty", "sasrec", 0, 0.05)
    for seed, value in enumerate((0.01, 0.045, 0.06)):
        finish(data, config, "beauty", "fparec", seed, value)
    finish(data, config, "beauty", "popularity", 0, 0.002)
    finish(data, config, "toys", "fparec", 0, 0.9)
    rows = board(data, config, "beauty")
    assert [row["model"] for row in rows] == ["fparec", "sasrec", "popularity"]
    assert [row[METRIC] for row in rows] == pytest.approx([0.045, 0.04, 0.002])
    assert [row["seeds"] for row in rows] == [[0, 1, 2], [0, 2], [0]]
    assert [row["provisional"] for row in rows] == [False, True, False]


def test_the_leaderboard_leaves_out_what_is_stale(data, config):
    finish(data, config, "beauty", "fparec", 0, 0.04)
    finish(data, config, "beauty", "fparec", 1, 0.99, fingerprint="another")
    (row,) = board(data, config, "beauty")
    assert (row["seeds"], row[METRIC]) == ([0], 0.04)


def test_the_leaderboard_sorts_by_the_metric_asked_for_blanks_last(data, config):
    for model in ("last_ten", "popularity"):
        finish(data, config, "beauty", model, 0, {"last_ten": 0.04, "popularity": 0.01}[model])
    assert [r["model"] for r in board(data, config)] == ["last_ten", "popularity"]
    unseen = board(data, config, metric="test_unseen/ndcg_at_10")
    assert [r["model"] for r in unseen] == ["popularity", "last_ten"]


def test_an_unknown_metric_answers_with_the_close_ones(data, config):
    with pytest.raises(ConfigError, match="test/ndcg_at_10"):
        board(data, config, metric="test/ndgc@10")
