"""Repeated and new targets, against loops over users."""

import math

import numpy as np

from fparec_pipeline.results.repeats import repeat_values

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
