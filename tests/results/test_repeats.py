"""Repeated and new targets, against loops over users."""

import math

import numpy as np
import polars as pl
from tiny import splits_of
from trial_folders import make_attempt, write_finished

from fparec_pipeline.results.repeats import repeat_values, repeats_table
from fparec_pipeline.results.trials import trials_frame
from fparec_pipeline.training.record import RANKS, sha256

KEPT = [1, 3, 11, 40, 2, 10]
UNSEEN = [1, 2, 8, 30, 1, 4]
REPEATED = [True, False, False, True, False, True]


def test_each_kind_of_target_has_its_own_share_of_hits():
    found = repeat_values(np.array(KEPT), np.array(UNSEEN), np.array(REPEATED))
    wanted = []
    for ranks in (KEPT, UNSEEN):
        for kind in (True, False):
            hits = [
                rank <= 10 for rank, is_so in zip(ranks, REPEATED, strict=True) if is_so == kind
            ]
            wanted.append(sum(hits) / len(hits))
    new = [0 if is_so else rank for rank, is_so in zip(UNSEEN, REPEATED, strict=True)]
    wanted.append(sum(0 < rank <= 10 for rank in new) / 6)
    wanted.append(sum(1 / math.log2(1 + rank) for rank in new if 0 < rank <= 10) / 6)
    np.testing.assert_allclose(found, wanted)


def test_where_nothing_repeats_there_is_no_share():
    found = repeat_values(np.array([1]), np.array([1]), np.array([False]))
    assert math.isnan(found[0])
    assert found[1] == found[4] == 1


def finish(data, config, model, test, unseen):
    """A finished trial of three users' targets, of which a fourth has none, in no order."""
    folder = write_finished(data, make_attempt(config, "beauty", model, 0))
    before = sha256(folder / RANKS)
    pl.DataFrame({"user": [3, 4, 1, 2], "test": test, "test_unseen": unseen}).write_parquet(
        folder / RANKS
    )
    record = folder / "trial.json"
    record.write_text(record.read_text().replace(before, sha256(folder / RANKS)))
    return folder


def rows(data, config):
    # The first user's target is repeated, those of the second and third are new.
    splits = splits_of([[1, 2, 3, 1], [1, 2, 3, 4], [4, 3, 2, 1]], name="beauty")
    text = repeats_table(splits, trials_frame(data, config), config, data)
    assert text.startswith("33.33% of 3 test targets are repeated.")
    return [line.strip("| ").split(" | ") for line in text.splitlines()[4:]]


def test_users_without_a_target_have_no_part_and_last_ten_has_no_values_without_history(
    data, config
):
    finish(data, config, "fparec", [99, None, 1, 5], [99, None, 99, 5])
    finish(data, config, "last_ten", [99, None, 1, 99], [99, None, 1, 99])
    assert rows(data, config) == [
        ["FPARec", "1.0000", "0.5000", "0.0000", "0.5000", "0.3333", "0.1290"],
        ["Last ten items", "1.0000", "0.0000", "—", "—", "—", "—"],
    ]


def test_a_model_with_damaged_ranks_is_left_out(data, config, caplog):
    finish(data, config, "fparec", [99, None, 1, 5], [99, None, 99, 5])
    folder = finish(data, config, "sasrec", [1, None, 1, 1], [1, None, 1, 1])
    pl.read_parquet(folder / RANKS).with_columns(test=1).write_parquet(folder / RANKS)
    assert [row[0] for row in rows(data, config)] == ["FPARec"]
    assert str(folder / RANKS) in caplog.text
