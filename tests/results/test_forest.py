"""Where a forest plot's rows lie: against the scale that its ticks say."""

import pytest

from fparec_pipeline.results.forest import LABELS, MARGIN, WIDTH, Estimate, forest

ROWS = [
    Estimate("A", 0.06, (0.05, 0.07), "best", "seeds 0, 1, 2"),
    Estimate("B", 0.04, None, "untrained", "untrained"),
]


def scale(drawn):
    """Place → value, from two ticks alone."""
    (x0, v0), (x1, v1) = [(x, float(label)) for x, label in (drawn.ticks[0], drawn.ticks[-1])]
    return lambda x: v0 + (x - x0) / (x1 - x0) * (v1 - v0)


def test_the_marks_lie_where_the_ticks_say():
    drawn = forest(ROWS)
    value = scale(drawn)
    first, second = drawn.marks
    assert value(first.x) == pytest.approx(0.06, abs=2e-4)
    assert [value(first.low), value(first.high)] == pytest.approx([0.05, 0.07], abs=2e-4)
    assert value(second.x) == pytest.approx(0.04, abs=2e-4)
    assert second.low is None and first.y < second.y < drawn.height
    for mark in (first.low, first.high, second.x):
        assert LABELS <= mark <= WIDTH - MARGIN
    assert 2 <= len(drawn.ticks) <= 6


def test_each_row_says_its_numbers_in_words():
    first, second = forest(ROWS).marks
    assert first.words == "A: 0.0600 [0.0500, 0.0700], seeds 0, 1, 2, best"
    assert second.words == "B: 0.0400, untrained, untrained"
    assert [kind for kind, _ in forest(ROWS).legend] == ["best", "untrained"]


def test_one_value_and_none_can_be_drawn():
    assert forest(ROWS[1:]).marks[0].x == pytest.approx((LABELS + WIDTH - MARGIN) / 2, abs=0.1)
    assert forest([]).marks == ()
