"""The audit, against counting by hand on a drawn log."""

import datetime
import itertools
import random
import statistics

import polars as pl
import pytest

from fparec_pipeline.datasets.audit import audit, sentences

DAY = 86_400


def log(seed=0):
    """(user, item, day) of 12 users with 3 to 9 interactions; popularity moves with time."""
    draw = random.Random(seed)
    rows = []
    for user in range(1, 13):
        days = sorted(draw.randrange(60) // 3 * 3 for _ in range(draw.randrange(3, 10)))
        rows += [(user, draw.randrange(1, 5) + day // 15, day) for day in days]
    return [*rows, rows[-1]]


ROWS = log()
FRAME = pl.DataFrame(
    {"user": [r[0] for r in ROWS], "item": [r[1] for r in ROWS], "time": [r[2] * DAY for r in ROWS]}
)
OF_USER = {u: [r for r in ROWS if r[0] == u] for u in range(1, 13)}
TRAINING = [r for own in OF_USER.values() for r in own[:-2]]


@pytest.fixture(scope="module")
def found():
    return audit(FRAME, "s")


def test_repeats_ties_and_duplicates(found):
    earlier = [
        r[1] in [o[1] for o in own[:p]] for own in OF_USER.values() for p, r in enumerate(own)
    ]
    assert found["repeats"] == pytest.approx(statistics.fmean(earlier))
    tied = sum(a[2] == b[2] for own in OF_USER.values() for a, b in itertools.pairwise(own))
    assert found["ties"] == pytest.approx(tied / len(ROWS))
    assert found["duplicates"] == pytest.approx((len(ROWS) - len(set(ROWS))) / len(ROWS))


def tied_pairs(rows):
    """Items of one user and time that follow one another, in order."""
    return [
        (a[1], b[1])
        for a, b in itertools.pairwise(rows)
        if a[0] == b[0] and a[2] == b[2] and a[1] != b[1]
    ]


def test_the_agreement_of_ties_is_that_of_all_their_meetings():
    draw = random.Random(1)
    rows = [(user, draw.randrange(6), time) for user in range(40) for time in (1, 1, 1, 2, 2)]
    pairs = tied_pairs(rows)
    meetings = [
        a == b for a, b in itertools.combinations(pairs, 2) if a in (b, b[::-1])
    ]  # fmt: skip
    table = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    assert audit(table, None)["tie_agreement"] == pytest.approx(statistics.fmean(meetings))
    assert 0.4 < statistics.fmean(meetings) < 0.6


def test_few_ties_say_nothing_of_their_order(found):
    assert found["tie_agreement"] is None
    assert dict(sentences(found))["ties"].endswith("so that time does not order them")


def test_the_leak_of_leave_one_out(found):
    tests = [own[-1] for own in OF_USER.values()]
    last = max(day for *_, day in TRAINING)
    assert found["leak"] == pytest.approx(statistics.fmean(day < last for *_, day in tests))
    later = [statistics.fmean(t > day for *_, t in TRAINING) for *_, day in tests]
    assert found["leak_median"] == pytest.approx(statistics.median(later))
    trained = {item for _, item, _ in TRAINING}
    cold = statistics.fmean(item not in trained for _, item, _ in tests)
    assert found["leave_one_out_cold_items"] == pytest.approx(cold)


def test_cold_start_after_a_cut(found):
    days = sorted(day for *_, day in ROWS)
    test_from = days[int(0.9 * len(days))]
    before = [day for day in days if day < test_from]
    valid_from = before[int(0.9 * len(before))]
    early = [r for r in ROWS if r[2] < valid_from]
    targets = [own[-1] for own in OF_USER.values() if own[-1][2] >= test_from]
    assert found["temporal_users"] == len(targets) > 0
    assert found["temporal_cold_items"] == pytest.approx(
        statistics.fmean(r[1] not in {e[1] for e in early} for r in targets)
    )
    assert found["temporal_cold_users"] == pytest.approx(
        statistics.fmean(r[0] not in {e[0] for e in early} for r in targets)
    )


def test_drift_is_the_distance_of_two_halves(found):
    items = [r[1] for r in sorted(ROWS, key=lambda r: r[2])]
    half, last = len(items) // 2, int(0.9 * len(items))
    first, second = items[:half], items[half:]
    distance = sum(
        abs(first.count(i) / len(first) - second.count(i) / len(second)) for i in set(items)
    )
    assert found["drift"] == pytest.approx(distance / 2)
    new = statistics.fmean(i not in items[:last] for i in items[last:])
    assert found["new_items"] == pytest.approx(new)


def test_the_calendar(found):
    dates = [datetime.date(1970, 1, 1) + datetime.timedelta(day) for *_, day in ROWS]
    assert (found["first"], found["last"]) == (str(min(dates)), str(max(dates)))
    months = [date.strftime("%Y-%m") for date in dates]
    assert found["months"] == {month: months.count(month) for month in sorted(set(months))}


def test_without_times_there_is_less_to_say():
    found = audit(FRAME.drop("time"), None)
    assert found.keys() == {"interactions", "repeats", "leave_one_out_cold_items"}
    assert [label for label, _ in sentences(found)] == ["repeats", "cold start"]


def test_sentences_say_all_of_it(found):
    lines = dict(sentences(found | {"transitions": 0.05, "transitions_shuffled": 0.01}))
    assert list(lines) == [
        "time", "ties", "repeats", "duplicates", "cold start", "leak", "drift", "order",
    ]  # fmt: skip
    assert "NDCG@10 0.0500, and 0.0100" in lines["order"]
