"""Which trial is chosen: validation decides, and what stands close is said."""

import statistics

import numpy as np
import polars as pl
import pytest
import scipy.stats
from trial_folders import make_attempt, write_finished, write_splits

from fparec_pipeline.config import ConfigError
from fparec_pipeline.results.trials import trials_frame
from fparec_pipeline.results.winner import Rival
from fparec_pipeline.serving.choice import METRIC, NoChampion, choose, cost
from fparec_pipeline.training.record import RANKS, read_record, sha256, write_json

TEST = "test/ndcg_at_10"


def finished(data, config, arm, values, ranks=None, **metrics):
    """Trials of `arm` with these validation values, seed by seed, and every user's ranks."""
    for seed, value in enumerate(values):
        folder = write_finished(
            data, make_attempt(config, "tiny", arm, seed), {METRIC: value} | metrics
        )
        if ranks is not None:
            users = len(ranks)
            table = {"user": range(1, users + 1)}
            table |= dict.fromkeys(("valid", "valid_unseen", "test", "test_unseen"), ranks)
            pl.DataFrame(table).write_parquet(folder / RANKS)
            record = read_record(folder, verify=False)
            files = record.files | {RANKS: sha256(folder / RANKS)}
            write_json(folder / "trial.json", record.model_copy(update={"files": files}))


@pytest.fixture
def empty(data, config):
    """The configuration of `tiny` without a trial of its own."""
    import shutil

    shutil.rmtree(data.trials)
    write_splits(data, "tiny")
    return data


def chosen(data, config, arm=None):
    return choose(trials_frame(data, config), "tiny", config, data, arm)


def test_the_best_validation_median_wins_and_test_has_no_say(empty, config):
    finished(empty, config, "fparec", [0.30, 0.10, 0.11], **{TEST: 0.9})
    finished(empty, config, "sasrec", [0.19, 0.21, 0.20], **{TEST: 0.1})
    choice = chosen(empty, config)
    assert (choice.arm, choice.seed) == ("sasrec", 1)
    assert choice.median == 0.20
    assert choice.seeds == {0: 0.19, 1: 0.21, 2: 0.20}
    assert [rival.arm for rival in choice.rivals] == ["fparec"]


def test_an_arm_with_all_seeds_goes_before_a_better_one_with_fewer(empty, config):
    finished(empty, config, "fparec", [0.5])
    assert "1 of 3 seeds" in chosen(empty, config).doubts[0]
    finished(empty, config, "sasrec", [0.1, 0.1, 0.1])
    assert chosen(empty, config).arm == "sasrec"


def test_an_arm_that_somebody_names_is_taken(empty, config):
    finished(empty, config, "fparec", [0.5, 0.5, 0.5])
    finished(empty, config, "sasrec", [0.1, 0.1, 0.1])
    choice = chosen(empty, config, "sasrec")
    assert (choice.arm, choice.named, choice.rivals[0].arm) == ("sasrec", True, "fparec")
    with pytest.raises(NoChampion, match="fparec run --datasets tiny --models parec"):
        chosen(empty, config, "parec")
    with pytest.raises(ConfigError, match="sasrecc"):
        chosen(empty, config, "sasrecc")


def test_a_champion_that_stands_out_has_no_doubts_and_one_that_does_not_has(empty, config):
    finished(empty, config, "fparec", [0.9, 0.9, 0.9], [1] * 40)
    finished(empty, config, "sasrec", [0.1, 0.1, 0.1], [50] * 39 + [10])
    assert chosen(empty, config).doubts == []
    finished(empty, config, "popularity", [0.88], [1] * 38 + [2, 1])
    (doubt,) = chosen(empty, config).doubts
    gain = (1 - 1 / np.log2(3)) / 40
    assert "not significantly better than Popularity" in doubt
    assert f"choosing Popularity, untrained, would cost {gain:.4f}" in doubt


def test_the_comparison_is_a_paired_t_test_over_users_with_holms_correction(empty, config):
    draw = np.random.default_rng(0)
    ranks = {arm: draw.integers(1, 15, 60).tolist() for arm in ("fparec", "sasrec", "popularity")}
    medians = {"fparec": 0.5, "sasrec": 0.4, "popularity": 0.3}
    for arm, values in ranks.items():
        seeds = 1 if arm == "popularity" else 3
        finished(empty, config, arm, [medians[arm]] * seeds, values)
    gains = {
        arm: np.array([1 / np.log2(1 + r) if r <= 10 else 0.0 for r in values])
        for arm, values in ranks.items()
    }
    rivals = {rival.arm: rival for rival in chosen(empty, config).rivals}
    ps = {
        arm: scipy.stats.ttest_rel(gains["fparec"], gains[arm]).pvalue
        for arm in ("sasrec", "popularity")
    }
    small, large = sorted(ps, key=ps.get)
    assert rivals[small].p_holm == pytest.approx(min(1, 2 * ps[small]))
    assert rivals[large].p_holm == pytest.approx(min(1, max(2 * ps[small], ps[large])))
    for arm, rival in rivals.items():
        assert rival.difference == pytest.approx(gains["fparec"].mean() - gains[arm].mean())


def test_a_better_untrained_row_is_said_to_gain():
    rival = Rival(
        arm="transitions",
        title="Transitions",
        trained=False,
        median=0.05,
        difference=-0.01,
        p_holm=0.001,
    )
    assert not rival.beaten
    assert cost(rival) == "choosing Transitions, untrained, would gain 0.0100 (25.0%)"


def test_without_a_trial_there_is_a_sentence_that_says_what_to_run(empty, config):
    with pytest.raises(NoChampion, match="fparec run --datasets tiny"):
        chosen(empty, config)


def test_trials_that_were_trained_are_chosen_among(data, config):
    frame = trials_frame(data, config).filter(pl.col("trained"))
    medians = {arm: statistics.median(rows[METRIC]) for (arm,), rows in frame.group_by("model")}
    choice = chosen(data, config)
    assert choice.arm == max(medians, key=medians.get)
    assert {rival.arm for rival in choice.rivals} >= {"popularity", "last_ten", "transitions"}
