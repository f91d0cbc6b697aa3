"""A split by time from the log to the trial: no leak, cold items and users, users weigh alike."""

import datetime
import math
import random

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_trial

from fparec_pipeline.config import Dataset, Temporal, source_of
from fparec_pipeline.datasets.splits import make_splits
from fparec_pipeline.models.untrained import popularity
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training.evaluation import EvaluationSet, rank_targets
from fparec_pipeline.training.metrics import metrics_from_ranks, metrics_of_table
from fparec_pipeline.training.record import HISTORY, RANKS, WEIGHTS
from fparec_pipeline.training.trial import run_reference, run_trial

DAY = 86_400
EPOCH = datetime.date(1970, 1, 1)
VALID_DAY, TEST_DAY = 40, 50
CUTS = {
    "valid_from": EPOCH + datetime.timedelta(VALID_DAY),
    "test_from": EPOCH + datetime.timedelta(TEST_DAY),
}


def log(users=30, items=15, last_day=60, seed=0):
    """(user, item, day): walks over the items; some users and one item appear late."""
    draw = random.Random(seed)
    rows = []
    for user in range(users):
        item, day = draw.randrange(items), draw.randrange(10) if user < 24 else VALID_DAY + 2
        while day < last_day:
            rows.append((user, item, day))
            item = draw.randrange(items) if draw.random() < 0.3 else (item + 1) % items
            day += draw.randrange(1, 9)
    cold = [(0, 99, VALID_DAY + 1), (1, 99, TEST_DAY + 1), (2, 99, TEST_DAY - 1), (3, 99, last_day)]
    return [*rows, *cold, (0, 3, TEST_DAY + 5)]


def splits_of_log(rows, root, **protocol):
    data = DataRoot(root / "data")
    data.root.mkdir(parents=True)
    (data.root / "log.csv").write_text(
        "u,i,t\n" + "".join(f"u{u},i{i},{day * DAY}\n" for u, i, day in rows)
    )
    source = source_of(reader="csv", address="log.csv", user="u", item="i", time="t")
    settings = Temporal(**(CUTS | {"core_on": "train"} | protocol))
    dataset = Dataset(core=1, protocol=settings, sources={"only": source})
    return make_splits("tiny", dataset, data.root / "log.csv", data), data


def changed(rows, from_day, seed):
    """The rows from a day on in another order, of other items, users and times; some more, too."""
    draw = random.Random(seed)
    late = [row for row in rows if row[2] >= from_day]
    late = [(draw.randrange(35), draw.randrange(20), from_day + draw.randrange(15)) for _ in late]
    return [*late, *late[:20], *(row for row in rows if row[2] < from_day)]


def trained(rows, root, trial, **protocol):
    splits, data = splits_of_log(rows, root, **protocol)
    record = run_trial(trial, splits, data, device="cpu")
    folder = data.trial(*trial.id)
    return record, load_file(folder / WEIGHTS), pl.read_parquet(folder / RANKS), splits


def equal(first, second):
    return all(torch.equal(first[name], second[name]) for name in first | second)


# No leak


def test_nothing_after_the_first_cut_changes_the_loss_of_an_epoch(tmp_path):
    trial = tiny_trial(max_epochs=3)
    losses = []
    for name, rows in (("a", log()), ("b", changed(log(), VALID_DAY, 1))):
        splits, data = splits_of_log(rows, tmp_path / name)
        run_trial(trial, splits, data, device="cpu")
        losses.append(pl.read_parquet(data.trial(*trial.id) / HISTORY)["loss"].to_list())
    assert len(losses[0]) == 3
    assert losses[0] == losses[1]


@pytest.mark.parametrize("model", ["fparec", "sasrec"])
@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_after_the_first_cut_changes_a_bit_of_the_weights(model, seed, tmp_path):
    """One epoch, so that validation has no choice."""
    trial = tiny_trial(model, max_epochs=1)
    _, before, _, splits = trained(log(), tmp_path / "a", trial)
    _, after, _, others = trained(changed(log(), VALID_DAY, seed), tmp_path / "b", trial)
    assert splits.stats["data_hash"] != others.stats["data_hash"]
    assert equal(before, after)


def test_nothing_after_the_second_cut_changes_training_or_the_choice_of_the_epoch(tmp_path):
    trial = tiny_trial(max_epochs=8, patience=3)
    first, before, ranks, _ = trained(log(), tmp_path / "a", trial)
    second, after, others, _ = trained(changed(log(), TEST_DAY, 1), tmp_path / "b", trial)
    assert equal(before, after)
    assert (first.epochs, first.best_epoch) == (second.epochs, second.best_epoch)
    for column in ("valid", "valid_unseen"):
        assert ranks[column].drop_nulls().to_list() == others[column].drop_nulls().to_list()
    assert first.metrics["valid/ndcg_at_10"] == second.metrics["valid/ndcg_at_10"]


def test_a_change_before_the_cut_does_change_the_weights(tmp_path):
    """Or the two tests above could not fail."""
    trial = tiny_trial(max_epochs=1)
    _, before, _, _ = trained(log(), tmp_path / "a", trial)
    _, after, _, _ = trained(changed(log(), VALID_DAY - 1, 1), tmp_path / "b", trial)
    assert before.keys() != after.keys() or not all(
        before[name].shape == after[name].shape and torch.equal(before[name], after[name])
        for name in before
    )


def test_an_item_first_seen_after_the_cut_has_no_embedding(tmp_path):
    _, weights, _, splits = trained(log(), tmp_path, tiny_trial(max_epochs=1))
    early = {item for _, item, day in log() if day < VALID_DAY}
    assert len(early) == splits.n_items < splits.stats["items"]
    assert len(weights["item_embedding.weight"]) == splits.n_items + 1  # and the padding


def test_popularity_counts_only_the_past(tmp_path):
    splits, data = splits_of_log(log(), tmp_path)
    names = pl.read_parquet(data.splits("tiny") / "items.parquet")["source_id"]
    early = [item for _, item, day in log() if day < VALID_DAY]
    assert popularity(splits).tolist() == [
        early.count(int(name.removeprefix("i"))) for name in names[: splits.n_items]
    ]


# Ranks


def position_scorer(n_items):
    """Scores that depend on the input: item i gets (Σ position · item) · i mod 7."""

    def score(items):
        steps = torch.arange(items.shape[0], 0, -1).unsqueeze(1)
        keys = (items * steps).sum(0)
        yield (keys.unsqueeze(1) * torch.arange(1, n_items + 1) % 7).float()

    return score


@pytest.mark.parametrize("part", ["valid", "test"])
@pytest.mark.parametrize("target", ["all", "last", "first"])
@pytest.mark.parametrize("n", [3, 50])
def test_every_target_is_ranked_with_its_own_past(part, target, n, tmp_path):
    splits, data = splits_of_log(log(), tmp_path, target=target)
    ranks = rank_targets(position_scorer(splits.n_items), EvaluationSet(splits, part, n))
    folder = data.splits("tiny")
    items, users = (
        {name: i for i, name in enumerate(pl.read_parquet(folder / f"{t}.parquet")["source_id"], 1)}
        for t in ("items", "users")
    )
    first, last = {"valid": (VALID_DAY, TEST_DAY), "test": (TEST_DAY, 10**6)}[part]
    expected = []
    for name, user in users.items():
        own = [(items[f"i{i}"], day) for u, i, day in sorted(log(), key=lambda r: r[2])
               if f"u{u}" == name]  # fmt: skip
        places = [p for p, (_, day) in enumerate(own) if first <= day < last]
        for p in {"all": places, "last": places[-1:], "first": places[:1]}[target]:
            past = [i for i, _ in own[:p] if i <= splits.n_items]
            wanted, worst = own[p][0], splits.n_items + 1
            if wanted > splits.n_items or not past:
                expected.append((user - 1, worst, worst))
                continue
            key = sum(step * item for step, item in enumerate(reversed(past[-n:]), start=1))
            scores = [key * i % 7 for i in range(1, splits.n_items + 1)]
            ahead = {i for i, s in enumerate(scores, 1) if i != wanted and s >= scores[wanted - 1]}
            expected.append((user - 1, 1 + len(ahead), 1 + len(ahead - set(past))))
    found = zip(ranks.users.tolist(), ranks.kept.tolist(), ranks.unseen.tolist(), strict=True)
    assert list(found) == expected


def test_users_weigh_alike_however_many_targets_they_have():
    ranks, users = np.array([1, 100, 3, 100, 100, 2]), np.array([0, 0, 4, 7, 7, 7])
    metrics = metrics_from_ranks(ranks, users)
    assert metrics["hr_at_10"] == pytest.approx((1 / 2 + 1 + 1 / 3) / 3)
    gains = [1, 1 / math.log2(4), 1 / math.log2(3)]
    assert metrics["ndcg_at_10"] == pytest.approx((gains[0] / 2 + gains[1] + gains[2] / 3) / 3)
    assert metrics["mrr"] == pytest.approx((1.01 / 2 + 1 / 3 + 0.52 / 3) / 3)


@pytest.mark.parametrize("target", ["last", "all"])
def test_the_folder_holds_every_rank_and_its_metrics_come_from_them(target, tmp_path):
    trial = tiny_trial(max_epochs=2)
    record, _, ranks, splits = trained(log(), tmp_path, trial, target=target)
    for part in ("valid", "test"):
        cases = splits.cases(part)
        rows = ranks.drop_nulls(part)
        assert rows["user"].to_list() == (cases.users + 1).tolist()
        cold = cases.targets > splits.n_items
        assert cold.any()
        assert (rows[part].to_numpy()[cold] == splits.n_items + 1).all()
    assert metrics_of_table(ranks).items() <= record.metrics.items()


@pytest.mark.parametrize("reference", ["popularity", "last_ten", "transitions"])
def test_the_untrained_rows_are_ranked_too(reference, tmp_path):
    splits, data = splits_of_log(log(), tmp_path)
    record = run_reference("tiny", reference, splits, data)
    assert 0 < record.metrics["test/hr_at_50"] <= 1
