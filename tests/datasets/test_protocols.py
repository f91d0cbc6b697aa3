"""The protocol temporal against naive loops over its definition, and what it must not see."""

import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_formats import naive_core

from fparec_pipeline.config import Dataset, LeaveOneOut, Temporal, source_of
from fparec_pipeline.datasets.checks import check_splits
from fparec_pipeline.datasets.preprocess import SplitsError
from fparec_pipeline.datasets.protocols import PROTOCOLS
from fparec_pipeline.datasets.splits import logical_hash, make_splits, read_splits
from fparec_pipeline.paths import DataRoot

DAY = 86_400
# Few users, items and times, so that many things tie.
ROWS = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.sampled_from("uvwxyz"), st.integers(1, 12)),
    min_size=10,
    max_size=60,
)


def made(rows, root, *, core=1, **protocol):
    """Splits of (user, item, day) rows, and their configuration."""
    data = DataRoot(Path(root) / "data")
    data.root.mkdir(parents=True, exist_ok=True)
    path = data.root / "log.csv"
    path.write_text("u,i,t\n" + "".join(f"{u},{i},{t * DAY}\n" for u, i, t in rows))
    source = source_of(reader="csv", address="log.csv", user="u", item="i", time="t")
    settings = Temporal(**protocol) if protocol else LeaveOneOut()
    dataset = Dataset(core=core, protocol=settings, sources={"only": source})
    return make_splits("shop", dataset, path, data), dataset, data.splits("shop")


def test_every_protocol_that_has_keys_has_a_class():
    kinds = get_args(Dataset.model_fields["protocol"].annotation)
    assert PROTOCOLS.keys() == {kind().name for kind in kinds}


def names(folder, table):
    return ["", *pl.read_parquet(folder / f"{table}.parquet")["source_id"]]


def told(splits, folder):
    """(training items of each user, cases of valid, cases of test), all in the source's names.

    A case is (user, known items before the target, target, whether the target is known).
    """
    users, items = names(folder, "users"), names(folder, "items")
    offsets = splits.train_offsets
    train = {
        users[u + 1]: [items[i] for i in splits.train_items[offsets[u] : offsets[u + 1]]]
        for u in range(splits.n_users)
        if offsets[u + 1] > offsets[u]
    }
    parts = []
    for part in ("valid", "test"):
        cases = splits.cases(part)
        parts.append(
            [
                (
                    users[user + 1],
                    [items[i] for i in cases.items[start:end]],
                    items[target],
                    bool(target <= splits.n_items),
                )
                for user, start, end, target in zip(
                    cases.users, cases.starts, cases.ends, cases.targets, strict=True
                )
            ]
        )
    return train, *map(sorted, parts)


def naive(rows, core, test_quantile, valid_quantile, target, core_on):
    """The same from the definition, one row after the other; None where a part is empty."""
    if core_on == "all":
        rows = naive_core(rows, core)
    times = sorted(t for _, _, t in rows)
    if not times:
        return None
    test_from = times[int(test_quantile * len(times))]
    before = [t for t in times if t < test_from]
    if not before:
        return None
    valid_from = before[int(valid_quantile * len(before))]
    training = [row for row in rows if row[2] < valid_from]
    if core_on == "train":
        training = naive_core(training, core)
    trained_users, known = {u for u, _, _ in training}, {i for _, i, _ in training}
    train, cases = {}, ([], [])
    for user in dict.fromkeys(u for u, _, _ in rows):
        # sorted() is stable: equal times keep the order of the file
        own = sorted((r for r in rows if r[0] == user), key=lambda row: row[2])
        if user in trained_users:
            own = [r for r in own if r[2] >= valid_from or r in training]
            train[user] = [i for _, i, t in own if t < valid_from]
        for part, (first, last) in enumerate([(valid_from, test_from), (test_from, 1 << 60)]):
            places = [p for p, (_, _, t) in enumerate(own) if first <= t < last]
            chosen = {"all": places, "last": places[-1:], "first": places[:1]}[target]
            cases[part].extend(
                (user, [i for _, i, _ in own[:p] if i in known], own[p][1], own[p][1] in known)
                for p in chosen
            )
    ranked = [any(known and inputs for _, inputs, _, known in part) for part in cases]
    if len(known) < 2 or not all(ranked) or max(map(len, train.values())) < 2:
        return None
    if len(trained_users | {user for part in cases for user, *_ in part}) < 2:
        return None
    return train, *map(sorted, cases)


@given(
    rows=ROWS,
    core=st.integers(1, 3),
    quantiles=st.tuples(st.sampled_from([0.5, 0.7, 0.9]), st.sampled_from([0.5, 0.8])),
    target=st.sampled_from(["last", "first", "all"]),
    core_on=st.sampled_from(["all", "train"]),
)
def test_parts_equal_the_naive_ones(rows, core, quantiles, target, core_on):
    expected = naive(rows, core, *quantiles, target, core_on)
    settings = dict(
        zip(("test_quantile", "valid_quantile"), quantiles, strict=True),
        target=target,
        core_on=core_on,
    )
    with TemporaryDirectory() as root:
        if expected is None:
            with pytest.raises(SplitsError, match="shop: "):
                made(rows, root, core=core, **settings)
            return
        splits, dataset, folder = made(rows, root, core=core, **settings)
        assert told(splits, folder) == expected
        failed = [r for r in check_splits(folder, dataset) if not r.passed]
        assert [r for r in failed if r.severity != "warning"] == []  # rows repeat by chance
        assert read_splits(folder).stats["data_hash"] == logical_hash(splits)


# Six users; day 7 is the first of validation, day 9 of the test. x first appears on day 8; the
# user f on day 9.
LOG = [
    *(("a", item, day) for day, item in enumerate("uvwu", start=1)),
    *(("b", item, day) for day, item in enumerate("vwuv", start=2)),
    ("a", "v", 7), ("a", "w", 8), ("b", "x", 8), ("a", "u", 9), ("a", "v", 10), ("b", "w", 9),
    ("f", "u", 9), ("f", "w", 10), ("f", "x", 11),
]  # fmt: skip
CUTS = {"valid_from": datetime.date(1970, 1, 8), "test_from": datetime.date(1970, 1, 10)}


def test_a_target_has_its_users_whole_past_as_input(tmp_path):
    splits, _, folder = made(LOG, tmp_path, **CUTS, target="all")
    train, valid, test = told(splits, folder)
    assert train == {"a": list("uvwu"), "b": list("vwuv")}
    assert valid == [
        ("a", list("uvwu"), "v", True),
        ("a", list("uvwuv"), "w", True),
        ("b", list("vwuv"), "x", False),
    ]
    assert test == [
        ("a", list("uvwuvw"), "u", True),
        ("a", list("uvwuvwu"), "v", True),
        ("b", list("vwuv"), "w", True),  # x is unknown, so it is no input
        ("f", [], "u", True),
        ("f", list("u"), "w", True),
        ("f", list("uw"), "x", False),
    ]


def test_what_is_cold_is_counted(tmp_path):
    stats = made(LOG, tmp_path, **CUTS, target="all")[0].stats
    assert stats["protocol"]["name"] == "temporal"
    keys = ("known_users", "known_items", "cold_users", "cold_items")
    assert [stats[key] for key in keys] == [2, 3, 1, 1]
    found = {k.removeprefix("test_"): v for k, v in stats.items() if k.startswith("test_target")}
    assert found == {
        "targets": 6,
        "targets_cold_item": 1,
        "targets_cold_user": 3,
        "targets_without_input": 1,
        "targets_ranked": 4,
        "targets_in_history": 3,
    }
    assert (stats["valid_targets"], stats["test_users"]) == (3, 3)


def test_equal_times_lie_after_the_cut_together(tmp_path):
    """Ten of 20 interactions on one day: the 0.6 quantile falls among them, all ten are test."""
    rows = [(user, item, day) for user in "ab" for day, item in enumerate("uvwuv", start=1)]
    rows += [(user, item, 9) for user in "ab" for item in "uvwuv"]
    splits, _, folder = made(rows, tmp_path, test_quantile=0.6, valid_quantile=0.7, target="all")
    assert (splits.stats["test_from"], len(splits.test)) == (9 * DAY, 10)
    _, valid, test = told(splits, folder)
    assert len(test) == 10
    assert [inputs for user, inputs, *_ in test if user == "a"] == [
        list("uvwuv" + "uvwuv"[:k]) for k in range(5)
    ]
    assert len(valid) == 4  # the days 4 and 5: row 7 of 10 is of day 4


@pytest.mark.parametrize("core_on", ["all", "train"])
def test_nothing_after_the_first_cut_changes_what_is_trained_on(tmp_path, core_on):
    """Not the arrays, not an id, whatever order the file has; with the core on all, too, as long
    as the core stays."""
    late = [row for row in LOG if row[2] >= 7]
    early = [row for row in LOG if row[2] < 7]
    others = [("g", "y", 7), ("a", "z", 8), ("b", "v", 8), ("g", "u", 9), ("a", "w", 9)]
    kept = [made(rows, tmp_path / str(i), **CUTS, core_on=core_on)
            for i, rows in enumerate([early + late, others + early])]  # fmt: skip
    (first, _, folder), (second, _, other_folder) = kept
    assert first.train_items.tolist() == second.train_items.tolist()
    assert first.n_items == second.n_items
    trained = int((first.train_offsets[1:] > first.train_offsets[:-1]).sum())
    assert names(folder, "items")[: first.n_items + 1] == names(other_folder, "items")[:4]
    assert names(folder, "users")[: trained + 1] == names(other_folder, "users")[: trained + 1]
    assert first.stats["data_hash"] != second.stats["data_hash"]


def test_the_core_of_training_alone_leaves_out_who_is_too_short(tmp_path):
    """c has one interaction before the cut: with a core of 2 it is not trained on, but its past is
    input, and it counts as cold."""
    rows = [*LOG, ("c", "v", 3), ("c", "w", 9)]
    splits, dataset, folder = made(rows, tmp_path, core=2, **CUTS, core_on="train")
    train, _, test = told(splits, folder)
    assert train.keys() == {"a", "b"}
    assert ("c", ["v"], "w", True) in test
    assert splits.stats["cold_users"] == 2
    assert all(result.passed for result in check_splits(folder, dataset))


def test_leave_one_out_is_the_default_and_has_no_windows(tmp_path):
    splits, dataset, _ = made(LOG, tmp_path)
    assert dataset.protocol == LeaveOneOut()
    assert not splits.windows
    assert "known_items" not in splits.stats


@pytest.mark.parametrize(
    ("rows", "protocol", "message"),
    [
        (LOG, {"test_from": datetime.date(1990, 1, 1)}, "leave a part without interactions"),
        (LOG, {"valid_from": datetime.date(1960, 1, 1)}, "leave a part without interactions"),
        ([(u, i, 5) for u in "ab" for i in "uvw"], {"test_quantile": 0.5}, "equal times"),
        (
            [("a", "u", 1), ("b", "v", 1), ("a", "v", 2), ("b", "u", 3)],
            {"valid_from": datetime.date(1970, 1, 3), "test_from": datetime.date(1970, 1, 4)},
            "nothing to train on",
        ),
        (
            [("a", "u", 1), ("a", "v", 1), ("b", "v", 1), ("b", "x", 7), ("a", "u", 9)],
            CUTS,
            "no valid target .* is an item that training has",
        ),
    ],
)
def test_what_cannot_be_cut_says_why(tmp_path, rows, protocol, message):
    with pytest.raises(SplitsError, match=rf"(?s)shop: .*{message}.*datasets\.toml"):
        made(rows, tmp_path, **{"target": "last"} | protocol)


def test_a_source_without_times_is_refused(data):
    data.root.mkdir(parents=True)
    path = data.root / "file.txt"
    path.write_text("1 1 2 3\n2 2 3 1\n")
    source = source_of(reader="sequences", address="https://example.org/file.txt")
    dataset = Dataset(core=1, protocol=Temporal(), sources={"published": source})
    with pytest.raises(SplitsError, match=r"shop: the protocol temporal needs times.*'published'"):
        make_splits("shop", dataset, path, data)
