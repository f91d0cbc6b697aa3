"""A challenger of newer data against the champion, with ranks that the test counts itself."""

import csv
import random
import shutil

import numpy as np
import polars as pl
import pytest
import scipy.stats
import torch
from roots import trained_root
from safetensors.torch import load_file

from fparec_pipeline.config import Hyperparameters, load_config
from fparec_pipeline.datasets.splits import read_splits
from fparec_pipeline.models.network import Recommender
from fparec_pipeline.results.trials import trials_frame
from fparec_pipeline.serving.champion import CHOSEN, champion_folder, promote
from fparec_pipeline.serving.choice import choose
from fparec_pipeline.serving.model import FACTS, ITEMS, ModelUnusable, PackedModel
from fparec_pipeline.serving.refresh import Comparison, compare_with_champion
from fparec_pipeline.training.record import RANKS, write_json


@pytest.fixture
def newer(data, config):
    """A champion of the first file, then a newer file with trials; the challenger's choice."""
    splits = read_splits(data.splits("tiny"))
    choice = choose(trials_frame(data, config), "tiny", config, data, "fparec")
    champion = promote(choice, splits, config, data, device="cpu")
    draw = random.Random(1)
    with (data.root / "tiny.csv").open("a", newline="") as file:
        writer = csv.writer(file)
        for late, user in enumerate([*range(0, 60, 2), *range(70, 80)] * 4, start=10_000):
            item = draw.randrange(24)  # items 20 to 23 are new
            writer.writerow([f"user {user}", f"item {item}", late])
    text = (data.root / "datasets.toml").read_text()
    kept = [line for line in text.splitlines() if not line.startswith("expected")]
    (data.root / "datasets.toml").write_text("\n".join(kept))
    splits = trained_root(data, ["fparec"], (0,))
    challenger = choose(trials_frame(data, config), "tiny", config, data, "fparec")
    return champion, challenger, splits


def naive_gains(data, champion, splits):
    """Each user's validation NDCG@10 by the champion's trial, one user at a time, by names."""
    folder = champion_folder("tiny", data)
    h = Hyperparameters(**champion.hyperparameters)
    known = pl.read_parquet(folder / ITEMS)
    number = dict(known.select("source_id", "item").iter_rows())
    network = Recommender(h, known.height).eval()
    network.load_state_dict(load_file(folder / CHOSEN))
    names = pl.read_parquet(data.splits("tiny") / "items.parquet")["source_id"].to_list()
    gains = []
    for user in range(splits.n_users):
        items = splits.train_items[splits.train_offsets[user] : splits.train_offsets[user + 1]]
        history = [number[names[i - 1]] for i in items if names[i - 1] in number]
        target = number.get(names[splits.valid[user] - 1])
        if not history or target is None:
            gains.append(0.0)
            continue
        with torch.no_grad():
            hidden = network(torch.tensor(history[-h.n :]).unsqueeze(1))[-1, 0]
            scores = (network.item_embedding.weight[1:] @ hidden).tolist()
        rank = 1 + sum(s >= scores[target - 1] for i, s in enumerate(scores, 1) if i != target)
        gains.append(1 / np.log2(1 + rank) if rank <= 10 else 0.0)
    return np.array(gains)


def test_the_champion_is_asked_by_name_and_both_are_compared_over_todays_users(data, newer):
    champion, challenger, splits = newer
    found = compare_with_champion(challenger, champion, splits, data)
    old = naive_gains(data, champion, splits)
    assert (old == 0).any()
    ranks = pl.read_parquet(data.trial("tiny", "fparec", 0) / RANKS)["valid"].to_numpy()
    new = np.where(ranks <= 10, 1 / np.log2(1.0 + ranks), 0)
    assert found.users == splits.n_users == 70
    assert found.champion == pytest.approx(old.mean())
    assert found.challenger == pytest.approx(new.mean())
    assert found.p == pytest.approx(scipy.stats.ttest_rel(new, old).pvalue)


def test_a_champion_without_the_weights_that_validation_saw_cannot_be_compared(data, newer):
    champion, challenger, splits = newer
    (champion_folder("tiny", data) / CHOSEN).unlink()
    assert compare_with_champion(challenger, champion, splits, data) is None


def test_the_same_data_and_trial_are_no_worse_than_themselves(data, config):
    splits = read_splits(data.splits("tiny"))
    choice = choose(trials_frame(data, config), "tiny", config, data, "fparec")
    champion = promote(choice, splits, config, data, device="cpu")
    found = compare_with_champion(choice, champion, splits, data)
    assert found.challenger == pytest.approx(found.champion)
    assert not found.worse
    shutil.rmtree(data.champions("tiny"))


def test_a_champion_with_a_network_of_ones_own_is_compared_too(data):
    with (data.root / "models.toml").open("a") as file:
        file.write('\n[last_item]\nnetwork = "own_network:LastItem"\n')
    config = load_config(data)
    splits = trained_root(data, ["last_item"], (0,))
    choice = choose(trials_frame(data, config), "tiny", config, data, "last_item")
    champion = promote(choice, splits, config, data, device="cpu")
    found = compare_with_champion(choice, champion, splits, data)
    assert found.challenger == pytest.approx(found.champion)
    folder = champion_folder("tiny", data)
    assert PackedModel.load(folder)
    # Its code is another one today.
    changed = champion.model_copy(
        update={"hyperparameters": champion.hyperparameters | {"code": "0" * 16}}
    )
    write_json(folder / FACTS, changed)
    for use in (
        lambda: PackedModel.load(folder),
        lambda: compare_with_champion(choice, changed, splits, data),
    ):
        with pytest.raises(ModelUnusable, match=r"code of own_network:LastItem has changed"):
            use()


@pytest.mark.parametrize(
    ("challenger", "p", "worse"), [(0.1, 0.01, True), (0.1, 0.2, False), (0.3, 0.01, False)]
)
def test_worse_is_lower_and_significant(challenger, p, worse):
    found = Comparison(users=9, challenger=challenger, champion=0.2, p=p)
    assert found.worse == worse
    assert ("is significantly worse" in found.sentence) == worse
