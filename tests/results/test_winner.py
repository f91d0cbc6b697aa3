"""Who wins: the best median, tested against the others by another library's t-test."""

import numpy as np
import polars as pl
import pytest
from scipy import stats
from trial_folders import make_attempt, write_finished, write_splits

from fparec_pipeline.cli.show import leaderboard_table, legend
from fparec_pipeline.config import load_config
from fparec_pipeline.defs.results import winner_metadata
from fparec_pipeline.results import leaderboard
from fparec_pipeline.results.medians import available_medians, with_intervals
from fparec_pipeline.results.overview import overview
from fparec_pipeline.results.significance import UserRanks
from fparec_pipeline.results.study_table import leaderboard_markdown
from fparec_pipeline.results.tables import render
from fparec_pipeline.results.trials import trials_frame
from fparec_pipeline.results.winner import listed, sentence, winner
from fparec_pipeline.training.record import RANKS, RECORD, sha256

NDCG = "test/ndcg_at_10"
USERS = 400


def finish(data, config, arm, median, ranks, seeds=(0, 1, 2)):
    """Finished trials with this NDCG@10 and these ranks of every user."""
    for seed in seeds:
        folder = write_finished(data, make_attempt(config, "beauty", arm, seed), {NDCG: median})
        columns = dict.fromkeys(("valid", "valid_unseen", "test", "test_unseen"), ranks)
        pl.DataFrame({"user": range(len(ranks))} | columns).write_parquet(folder / RANKS)
        record = (folder / RECORD).read_text()
        old = pl.Series([record]).str.extract(rf'"{RANKS}": "([0-9a-f]+)"').item()
        (folder / RECORD).write_text(record.replace(old, sha256(folder / RANKS)))


def found(data, config):
    medians = available_medians(trials_frame(data, config))
    return winner(medians, "beauty", UserRanks(config, data))


@pytest.fixture(autouse=True)
def _splits(data):
    write_splits(data, "beauty")


def test_without_a_trained_model_nobody_wins(data, config):
    finish(data, config, "popularity", 0.02, [5] * USERS, seeds=(0,))
    assert found(data, config) is None


def test_a_clear_winner_is_ahead_of_all(data, config):
    draw = np.random.default_rng(0)
    good = draw.integers(1, 5, USERS).tolist()
    poor = draw.integers(20, 60, USERS).tolist()
    finish(data, config, "fparec", 0.06, good)
    finish(data, config, "sasrec", 0.04, poor)
    answer = found(data, config)
    assert (answer.arm, answer.sure, answer.not_ahead_of) == ("fparec", True, ())
    assert answer.margin == pytest.approx(0.02)
    gain = np.array([1 / np.log2(1 + r) if r <= 10 else 0 for r in good])
    none = np.array([1 / np.log2(1 + r) if r <= 10 else 0 for r in poor])
    expected = stats.ttest_1samp(gain - none, 0).pvalue  # the paired test, written another way
    assert answer.rivals[0].p_holm == pytest.approx(expected)
    assert "significantly ahead of every other model" in sentence(answer, config.titles)


def test_what_cannot_be_told_from_it_is_named(data, config):
    ranks = np.random.default_rng(0).integers(1, 30, USERS).tolist()
    finish(data, config, "fparec", 0.0501, ranks)
    finish(data, config, "sasrec", 0.05, ranks)
    answer = found(data, config)
    assert (answer.arm, answer.sure, answer.not_ahead_of) == ("fparec", False, ("sasrec",))
    assert "Not significantly ahead of SASRec." in sentence(answer, config.titles)


def test_a_model_with_few_seeds_wins_only_where_no_other_has_enough(data, config):
    ranks = [1] * USERS
    finish(data, config, "parec", 0.09, ranks, seeds=(0,))
    answer = found(data, config)
    assert (answer.arm, answer.provisional) == ("parec", True)
    assert "Provisional" in sentence(answer, config.titles)
    finish(data, config, "sasrec", 0.05, ranks)
    answer = found(data, config)
    assert (answer.arm, answer.provisional_above, answer.margin) == ("sasrec", ("parec",), None)
    words = sentence(answer, config.titles)
    assert words.startswith("Of the models with all seeds, SASRec has the best")
    assert "Higher, but with fewer seeds: PARec." in words


def test_a_higher_model_of_fewer_seeds_has_a_mark_of_its_own(data, config):
    finish(data, config, "parec", 0.09, [1] * USERS, seeds=(0,))
    finish(data, config, "sasrec", 0.05, [2 + user % 2 for user in range(USERS)])
    finish(data, config, "fparec", 0.049, [3 - user % 2 for user in range(USERS)])
    answer, titles = found(data, config), config.titles
    assert (answer.arm, answer.level) == ("sasrec", ("fparec",))
    rows = leaderboard("beauty", data=data).to_dicts()
    text = leaderboard_markdown(rows, titles, answer)
    assert [line.split(" | ")[0] for line in text.splitlines()[2:5]] == [
        "| PARec ↑",
        "| **SASRec**",
        "| FPARec ≈",
    ]
    assert "↑ Higher in NDCG@10, but with fewer seeds." in text
    shown = leaderboard_table(rows, titles, answer).columns[0]
    assert [str(cell) for cell in shown.cells] == ["PARec ↑", "SASRec", "FPARec ≈"]
    assert "↑ higher than the best, but with fewer seeds" in legend(rows, answer)
    (card,) = overview(trials_frame(data, config), config, UserRanks(config, data))
    kinds = [(mark.estimate.label, mark.estimate.kind) for mark in card.forest.marks]
    assert kinds == [("PARec", "higher"), ("SASRec", "best"), ("FPARec", "level")]
    assert dict(card.forest.legend)["higher"] == "higher, fewer seeds"
    assert winner_metadata(answer, config)["models_not_told_from_the_best"].value == 1


def test_the_badge_of_a_card_counts_no_stale_trial(data, config):
    finish(data, config, "fparec", 0.05, [3] * USERS)
    write_finished(data, make_attempt(config, "beauty", "sasrec", 0, fingerprint="other"))
    (card,) = overview(trials_frame(data, config), config, UserRanks(config, data))
    assert card.origin == "3 trials: 3 trained here"


def test_nothing_is_sure_while_another_median_is_higher(data, config):
    """Users and seeds may have the mean of sasrec higher, and its median lower."""
    draw = np.random.default_rng(0)
    finish(data, config, "sasrec", 0.05, draw.integers(1, 5, USERS).tolist())
    finish(data, config, "parec", 0.06, draw.integers(20, 60, USERS).tolist(), seeds=(0,))
    answer = found(data, config)
    assert (answer.arm, answer.rivals[0].beaten, answer.sure) == ("sasrec", True, False)
    words = sentence(answer, config.titles)
    assert "Higher, but with fewer seeds: PARec." in words
    assert "every other model" not in words


def test_names_with_a_comma_are_listed_by_semicolons():
    titles = {"fparec": "FPARec", "wide": "FPARec, d = 128"}
    assert listed(["fparec"], titles) == "FPARec"
    assert listed(["fparec", "other"], titles) == "FPARec, other"
    assert listed(["fparec", "wide"], titles) == "FPARec; FPARec, d = 128"


def test_an_untrained_row_that_is_as_good_is_named(data, config):
    finish(data, config, "fparec", 0.03, [3] * USERS)
    finish(data, config, "transitions", 0.04, [2] * USERS, seeds=(0,))
    answer = found(data, config)
    assert answer.untrained_above == ("transitions",)
    assert "at least as good: Transitions" in sentence(answer, config.titles)


def test_a_model_is_tested_by_its_own_folder_whatever_name_its_values_have_today(data):
    """Mine has the values that fparec gets later: fparec's folder is then stale, and no one's."""
    mine = '[mine]\nmixer = "factorized_positional"\nk = 7\n'
    (data.root / "models.toml").write_text(mine)
    config = load_config(data)
    draw = np.random.default_rng(0)
    good, poor = draw.integers(1, 5, USERS).tolist(), draw.integers(20, 60, USERS).tolist()
    finish(data, config, "fparec", 0.09, good)
    finish(data, config, "mine", 0.02, poor)
    finish(data, config, "sasrec", 0.01, poor)
    (data.root / "models.toml").write_text(mine + "[fparec]\nk = 7\n")
    config = load_config(data)
    assert config.trained_as("beauty", "mine") == "fparec"
    answer = found(data, config)
    assert (answer.arm, answer.interval) == ("mine", (0.0, 0.0))
    assert (answer.sure, answer.level) == (False, ("sasrec",))


def test_a_trial_trained_again_since_the_frame_was_read_gives_no_interval(data, config, caplog):
    finish(data, config, "fparec", 0.05, [3] * USERS)
    trials = trials_frame(data, config)
    (data.root / "models.toml").write_text("[fparec]\nk = 7\n")
    changed = load_config(data)
    finish(data, changed, "fparec", 0.04, [4] * USERS)
    users = UserRanks(changed, data)
    row = with_intervals(available_medians(trials), users).row(0, named=True)
    assert (row[NDCG], row[f"{NDCG}/low"]) == (0.05, None)
    table = render("table_3", trials, changed, data)[0]
    assert "| 0.0500 |" in table.replace("**", "").replace("*", "")
    assert "another trial than the median's" in caplog.text
    today = trials_frame(data, changed)
    assert with_intervals(available_medians(today), users)[f"{NDCG}/low"].item() is not None


def test_damaged_ranks_leave_the_winner_without_a_test(data, config):
    for arm, median in (("fparec", 0.05), ("sasrec", 0.04)):
        finish(data, config, arm, median, [3] * USERS)
    (data.trial("beauty", "sasrec", 1) / RANKS).write_bytes(b"no parquet")
    answer = found(data, config)
    assert (answer.arm, answer.sure) == ("fparec", False)
    assert answer.rivals[0].p_holm is None
