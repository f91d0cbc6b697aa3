"""The file of recommendations: what stands in it, and that the check finds what is wrong."""

import polars as pl
import pytest
from packed import name_of, packed_model

from fparec_pipeline.serving import batch
from fparec_pipeline.serving.batch import (
    NothingToRecommend,
    Wish,
    described,
    prepare,
    problems,
    samples,
    wish_before,
    write_recommendations,
)
from fparec_pipeline.serving.histories import Columns

HISTORIES = {
    "ann": [1, 2, 3],
    "bob": [4, 4, 30],
    "cid": [9],
    "dan": list(range(1, 28)),
}


@pytest.fixture
def model(tmp_path):
    return packed_model(tmp_path / "packed")


@pytest.fixture
def splits(tmp_path):
    """The parquet files of splits in which the users have HISTORIES, but for dan's place."""
    folder = tmp_path / "splits"
    folder.mkdir()
    users = list(HISTORIES)
    rows = [(u, i) for u, user in enumerate(users, 1) for i in HISTORIES[user]]
    schema = {"user": pl.Int32, "item": pl.Int32}
    everything = pl.DataFrame(rows, schema=schema, orient="row")
    everything.write_parquet(folder / "train.parquet")
    for part in ("valid", "test"):
        everything.clear().write_parquet(folder / f"{part}.parquet")
    numbers = range(1, 31)
    pl.DataFrame({"item": numbers, "source_id": [name_of(i) for i in numbers]}).write_parquet(
        folder / "items.parquet"
    )
    pl.DataFrame({"user": range(1, 5), "source_id": users}).write_parquet(folder / "users.parquet")
    return folder


def written(model, splits, target, wish=None):
    wish = wish or Wish(k=5)
    prepared = prepare(model, splits, wish, Columns())
    summary = write_recommendations(model, prepared, wish, target)
    assert problems(target, model, prepared, wish) == []
    return pl.read_parquet(target), summary, prepared


def test_every_user_gets_what_the_model_says_in_ranks_from_one(
    model, splits, tmp_path, monkeypatch
):
    monkeypatch.setattr(batch, "BLOCK", 3)  # two blocks
    table, summary, prepared = written(model, splits, tmp_path / "out.parquet")
    top = model.top(prepared.histories.values, prepared.histories.offsets, 5)
    expected = [
        (user, rank, name_of(int(item)))
        for row, user in enumerate(HISTORIES)
        for rank, item in enumerate(top.items[row], start=1)
        if item
    ]
    assert list(table.select("user", "rank", "item").iter_rows()) == expected
    scores = [score for row in top.scores for score in row.tolist() if score == score]
    assert table["score"].to_list() == pytest.approx(scores, rel=1e-5)
    assert (summary.users, summary.rows, summary.fewer) == (4, 18, 1)  # dan has three items left
    assert (summary.by_popularity, summary.unknown_interactions) == (0, 0)
    assert described(tmp_path / "out.parquet")["fingerprint"] == "f" * 16
    assert [user for user, _ in samples(tmp_path / "out.parquet", 2)] == ["ann", "bob"]


def test_files_say_for_whom_from_what_and_of_what(model, splits, tmp_path):
    users, history, allow, block = (
        tmp_path / name for name in ("u.txt", "h.csv", "a.txt", "b.csv")
    )
    users.write_text("cid\nzoe\nbob\nnew\n")
    history.write_text("user,item\nnew,item 5\nnew,nonsense\nbob,item 6\n")
    allow.write_text("\n".join(name_of(i) for i in range(1, 21)))
    block.write_text("item\nitem 7\nitem 8\nitem 99\n")
    wish = Wish(k=3, users=users, history=history, allow=allow, block=block)
    table, summary, _ = written(model, splits, tmp_path / "out.parquet", wish)
    assert table["user"].unique(maintain_order=True).to_list() == ["cid", "zoe", "bob", "new"]
    allowed = {name_of(i) for i in range(1, 21)} - {name_of(7), name_of(8)}
    assert set(table["item"]) <= allowed
    pairs = set(table.select("user", "item").iter_rows())
    assert ("new", "item 5") not in pairs
    assert ("bob", "item 6") not in pairs
    assert (summary.by_popularity, summary.unknown_interactions) == (1, 1)  # zoe has no history
    unmatched = (summary.unmatched_users, summary.unmatched_allow, summary.unmatched_block)
    assert unmatched == (1, 0, 1)  # zoe, and item 99
    assert table.filter(pl.col("user") == "zoe")["score"].null_count() == 3
    assert table.filter(pl.col("user") != "zoe")["score"].null_count() == 0


def test_the_file_says_what_it_was_made_with(model, splits, tmp_path):
    (tmp_path / "b.csv").write_text("item\nitem 7\n")
    wish = Wish(k=3, exclude_seen=False, block=tmp_path / "b.csv")
    written(model, splits, tmp_path / "out.parquet", wish)
    assert wish_before(tmp_path / "out.parquet") == wish
    assert wish_before(tmp_path / "nothing.parquet") == Wish()


def test_without_splits_the_command_that_makes_them_is_named(model, tmp_path):
    with pytest.raises(NothingToRecommend, match="fparec run --datasets orders"):
        prepare(model, tmp_path / "orders", Wish(), Columns())


def test_seen_items_are_returned_only_when_asked_for(model, splits, tmp_path):
    wish = Wish(k=30, exclude_seen=False)
    table, summary, _ = written(model, splits, tmp_path / "out.parquet", wish)
    assert table.height == 4 * 30
    assert summary.catalogue_share == 1


def test_what_changed_since_the_last_file_is_told(model, splits, tmp_path):
    target = tmp_path / "out.parquet"
    _, first, _ = written(model, splits, target)
    _, again, _ = written(model, splits, target)
    assert (first.overlap_with_last, first.users_in_both) == (None, 0)
    assert (again.overlap_with_last, again.users_in_both) == (1.0, 4)
    before = pl.read_parquet(target)
    other, changed, _ = written(model, splits, target, Wish(k=4, exclude_seen=False))
    old = set(before.select("user", "item").iter_rows())
    shares = [
        sum((user, item) in old for item in items) / len(items)
        for user, items in other.group_by("user").agg("item").iter_rows()
    ]
    assert changed.overlap_with_last == pytest.approx(sum(shares) / 4)
    assert 0 < changed.overlap_with_last < 1


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda t: t.tail(-1), "another number"),
        (lambda t: t.filter(pl.col("user") != "bob"), "another number"),
        (lambda t: t.with_columns(item=pl.col("item").first().over("user")), "an item twice"),
        (lambda t: t.with_columns(rank=pl.col("rank") + 1), "ranks that are not"),
        (lambda t: t.with_columns(item=pl.lit("what")), "may not be recommended"),
        (
            lambda t: t.with_columns(
                item=pl.when(pl.col("user") == "cid", pl.col("rank") == 1)
                .then(pl.lit("item 9"))
                .otherwise("item")
            ),
            "the user's history",
        ),
    ],
)
def test_the_check_finds_what_is_wrong(model, splits, tmp_path, harm, words):
    table, _, prepared = written(model, splits, tmp_path / "out.parquet")
    bad = tmp_path / "bad.parquet"
    harm(table).write_parquet(bad)
    found = problems(bad, model, prepared, Wish(k=5))
    assert any(words in sentence for sentence in found), found


def test_what_cannot_be_asked_for_is_said(model, splits, tmp_path):
    nobody, nothing = tmp_path / "nobody.txt", tmp_path / "nothing.txt"
    nobody.write_text("\n")
    nothing.write_text("no such item\n")
    for wish, word in [
        (Wish(users=nobody), "no user"),
        (Wish(allow=nothing), "No item of .*nothing.txt.*'no such item'.*'item 1'"),
        (Wish(block=nothing), "No item of .*nothing.txt"),
        (Wish(k=0), "must be 1 to"),
    ]:
        with pytest.raises(NothingToRecommend, match=word):
            prepare(model, splits, wish, Columns())
    with pytest.raises(NothingToRecommend, match="no recommendations"):
        described(splits / "train.parquet")
