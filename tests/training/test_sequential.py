"""How sequential data is: walks lose what shuffling takes, drawn sets have nothing to lose."""

import random

from test_temporal import log, splits_of_log
from tiny import splits_of

from fparec_pipeline.training.sequential import (
    KEPT,
    audit_of,
    keep_audit,
    kept_audit,
    sequentiality,
)


def test_walks_are_sequential_and_drawn_items_are_not():
    draw = random.Random(0)
    starts = [draw.randrange(50) for _ in range(300)]
    walks = splits_of([[(s + t) % 50 + 1 for t in range(8)] for s in starts])
    drawn = splits_of([[draw.randrange(1, 51) for _ in range(8)] for _ in starts])
    found = sequentiality(walks)
    assert found["transitions"] == 1  # every next item is certain
    assert found["transitions_shuffled"] < 0.8
    found = sequentiality(drawn)
    assert abs(found["transitions"] - found["transitions_shuffled"]) < 0.05


def test_the_audit_of_splits_on_disk_has_all_parts(tmp_path):
    rows = log()
    _, data = splits_of_log(rows, tmp_path)
    found = audit_of(data.splits("tiny"))
    assert found["interactions"] == len(rows)
    assert found["first"].startswith("1970-01")
    assert 0 <= found["transitions_shuffled"] <= 1


def test_an_audit_is_kept_for_its_splits_only(tmp_path):
    _, data = splits_of_log(log(), tmp_path)
    folder = data.splits("tiny")
    assert kept_audit(folder) is None
    assert keep_audit(folder) == audit_of(folder) == kept_audit(folder)
    text = (folder / KEPT).read_text()
    for damaged in (text[:-20], text.replace('"data_hash": "', '"data_hash": "0'), "[]"):
        (folder / KEPT).write_text(damaged)
        assert kept_audit(folder) is None
