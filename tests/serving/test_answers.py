"""Requests, good and bad, and what is said to each."""

import json

import numpy as np
import pytest
from packed import name_of, packed_model

from fparec_pipeline.serving import answers
from fparec_pipeline.serving.answers import BadRequest, answer


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return packed_model(tmp_path_factory.mktemp("packed"))


def test_an_answer_is_in_the_callers_ids_and_what_the_model_says(model):
    history = [3, 7, 8]
    (found,) = answer(model, [[name_of(item) for item in history]], 4)
    top = model.top(np.array(history), np.array([0, 3]), 4)
    assert found["items"] == [name_of(int(item)) for item in top.items[0]]
    assert found["scores"] == pytest.approx(top.scores[0].tolist())
    assert (found["by"], found["k"], found["exclude_seen"]) == ("model", 4, True)
    assert (found["unknown"], found["unknown_count"]) == ([], 0)
    json.dumps(found)


def test_unknown_ids_are_left_out_and_said(model):
    known, mixed = answer(model, [[name_of(3)], ["nope", name_of(3), 17, "nope"]])
    assert mixed["items"] == known["items"]
    assert mixed["unknown"] == ["nope", "17"]
    assert mixed["unknown_count"] == 3


def test_whole_numbers_and_arrays_count_as_ids(model):
    # MLflow hands lists on as arrays.
    text, padded, array = answer(
        model, [[name_of(2)], [f" {name_of(2)} "], np.array([name_of(2)], object)]
    )
    assert text == padded == array


@pytest.mark.parametrize("history", [[], ["never heard of"]])
def test_nothing_known_is_answered_by_popularity(model, history):
    (found,) = answer(model, [history], 3)
    counts = dict(model.items.select("source_id", "count").iter_rows())
    assert [counts[name] for name in found["items"]] == sorted(counts.values())[-1:-4:-1]
    assert (found["by"], found["scores"]) == ("popularity", None)


def test_seen_items_come_back_where_they_are_asked_for(model):
    history = [name_of(i) for i in range(1, 29)]
    left, everything = (
        answer(model, [history], 30, exclude_seen=seen)[0]["items"] for seen in (True, False)
    )
    assert set(left) == {name_of(29), name_of(30)}
    assert set(everything) == {name_of(i) for i in range(1, 31)}


@pytest.mark.parametrize("k", [0, -1, 1001, 2.5, "5", None, True])
def test_a_wrong_k_is_refused_in_a_sentence(model, k):
    with pytest.raises(BadRequest, match=r"^`k` must be a whole number from 1 to 1,000, not "):
        answer(model, [[]], k)


@pytest.mark.parametrize("history", ["item 1", None, 3, {"a": 1}, [None], [["x"]], [1.5], [True]])
def test_a_wrong_history_is_refused_in_a_sentence(model, history):
    with pytest.raises(BadRequest, match=r"^`history` 1 .*(must be a list|no item id).*\.$"):
        answer(model, [[], history])


def test_requests_have_a_size(model, monkeypatch):
    monkeypatch.setattr(answers, "MOST_HISTORIES", 2)
    monkeypatch.setattr(answers, "LONGEST", 3)
    with pytest.raises(BadRequest, match="at most 2 histories"):
        answer(model, [[], [], []])
    with pytest.raises(BadRequest, match="has 4 items"):
        answer(model, [["a"] * 4])
    with pytest.raises(BadRequest, match="exclude_seen"):
        answer(model, [[]], exclude_seen="yes")
