"""The champion's folder: refitted on everything, resumed, packed, pointed to, and rolled back."""

import dataclasses
import json
import shutil

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from tiny import splits_of, tiny_splits

from fparec_pipeline.datasets.splits import SplitsError, Window, make_splits, read_splits
from fparec_pipeline.results.trials import trials_frame
from fparec_pipeline.serving import refit as refitting
from fparec_pipeline.serving.champion import (
    CHOSEN,
    ChampionCorrupt,
    champion_folder,
    load_champion,
    promote,
    read_champion,
    read_pointer,
    refuse,
    roll_back,
)
from fparec_pipeline.serving.choice import NoChampion, choose
from fparec_pipeline.serving.model import FACTS, ITEMS, WEIGHTS
from fparec_pipeline.serving.refit import whole
from fparec_pipeline.training.record import (
    ATTEMPT,
    CHECKPOINT,
    HISTORY,
    RECORD,
    TrialLocked,
    lock_trial,
    read_record,
    trial_folders,
)
from fparec_pipeline.training.trial import Epochs, OutOfMemory, new_attempt


def promoted(data, config, arm="fparec", **options):
    splits = read_splits(data.splits("tiny"))
    choice = choose(trials_frame(data, config), "tiny", config, data, arm)
    return promote(choice, splits, config, data, device="cpu", **options)


def chosen_trial(data, champion):
    return read_record(data.trial("tiny", champion.choice.arm, champion.choice.seed))


def test_the_whole_has_every_interaction_in_order():
    sequences = [[1, 2, 3, 4], [5, 1, 5], [2, 2, 2, 6, 1]]
    everything = whole(splits_of(sequences))
    assert everything.train_items.tolist() == [item for items in sequences for item in items]
    assert everything.train_offsets.tolist() == [0, 4, 7, 12]


def test_a_refit_is_the_trials_training_on_all_interactions_for_its_best_epochs(data, config):
    champion = promoted(data, config)
    trial = chosen_trial(data, champion)
    # The same network, trained here by hand.
    splits = whole(read_splits(data.splits("tiny")))
    asked = config.trial("tiny", "fparec", champion.seed)
    epochs = Epochs(asked, splits, new_attempt(asked, splits, "cpu"))
    losses = [epochs.train(epoch) for epoch in range(1, trial.best_epoch + 1)]
    folder = champion_folder("tiny", data)
    weights = load_file(folder / WEIGHTS)
    assert weights.keys() == epochs.model.state_dict().keys()
    for name, tensor in epochs.model.state_dict().items():
        assert torch.equal(weights[name], tensor)
    history = pl.read_parquet(folder / HISTORY)
    assert history["loss"].to_list() == losses
    assert history["valid_ndcg_at_10"].null_count() == len(losses)
    assert not torch.equal(weights["item_embedding.weight"], _weights_of_trial(data, champion))


def _weights_of_trial(data, champion):
    path = data.trial("tiny", "fparec", champion.seed) / WEIGHTS
    return load_file(path)["item_embedding.weight"]


def test_its_record_says_that_it_has_no_score_of_its_own_and_whose_it_stands_on(data, config):
    champion = promoted(data, config)
    trial = chosen_trial(data, champion)
    assert champion.refit
    assert "no test score of its own" in champion.note
    assert f"tiny/fparec/seed={trial.seed}" in champion.note
    assert champion.stands_on.metrics == trial.metrics
    assert champion.stands_on.fingerprint == trial.fingerprint
    assert champion.stands_on.epochs == trial.best_epoch


def test_its_fingerprint_is_that_of_no_trial(data, config):
    champion = promoted(data, config)
    plain = promoted(data, config, with_refit=False)
    trials = {read_record(folder).fingerprint for folder in trial_folders(data)}
    assert not {champion.fingerprint, plain.fingerprint} & trials
    assert champion.fingerprint != plain.fingerprint


def test_without_refit_the_weights_are_the_trials(data, config):
    champion = promoted(data, config, with_refit=False)
    weights = load_file(champion_folder("tiny", data) / WEIGHTS)["item_embedding.weight"]
    assert torch.equal(weights, _weights_of_trial(data, champion))
    assert not champion.refit


def test_a_trial_without_weights_can_be_refitted_only(data, config):
    folder = data.trial("tiny", "fparec", 0)
    for seed in range(3):  # as published trials are
        folder = data.trial("tiny", "fparec", seed)
        record = json.loads((folder / RECORD).read_text())
        del record["files"][WEIGHTS]
        (folder / RECORD).write_text(json.dumps(record | {"checksum": ""}))
        (folder / WEIGHTS).unlink()
    with pytest.raises(NoChampion, match=r"no weights here.*--models fparec --seeds \d --retrain"):
        promoted(data, config, with_refit=False)
    promoted(data, config)
    assert not (champion_folder("tiny", data) / CHOSEN).exists()


class Killed(BaseException):
    pass


def test_a_refit_that_was_killed_is_resumed_to_the_same_bits(data, config, monkeypatch):
    monkeypatch.setattr("fparec_pipeline.training.trial.checkpoint_interval", lambda s: -1.0)

    # A checkpoint is written after an epoch was told; the second call is killed after one.
    told = []

    def kill_later(progress):
        told.append(progress.epoch)
        if progress.epoch == 2:
            raise Killed

    splits = read_splits(data.splits("tiny"))
    trial = config.trial("tiny", "fparec", 0)
    chosen = read_record(data.trial("tiny", "fparec", 0)).model_copy(update={"best_epoch": 3})
    folders = [data.root / "a", data.root / "b"]
    for folder in folders:
        folder.mkdir()
    refitting.refit(trial, chosen, splits, folders[0], device="cpu")
    with pytest.raises(Killed):
        refitting.refit(trial, chosen, splits, folders[1], device="cpu", on_epoch=kill_later)
    assert (folders[1] / CHECKPOINT).exists()
    assert not (folders[1] / WEIGHTS).exists()
    resumed = []
    refitting.refit(trial, chosen, splits, folders[1], device="cpu", on_epoch=resumed.append)
    assert (told, [each.epoch for each in resumed]) == ([1, 2], [2, 3])
    a, b = ((folder / WEIGHTS).read_bytes() for folder in folders)
    assert a == b
    assert not (folders[1] / CHECKPOINT).exists()


@pytest.mark.parametrize("failures", [1, 2])
def test_a_refit_without_memory_goes_on_in_half_blocks_once(failures, data, config, monkeypatch):
    """PyTorch's own error on a CPU, at the second epoch."""
    train, failed = Epochs.train, []

    def starved(self, epoch):
        if epoch == 2 and len(failed) < failures:
            failed.append(self.attempt.block_parts)
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        return train(self, epoch)

    monkeypatch.setattr(Epochs, "train", starved)
    monkeypatch.setattr("fparec_pipeline.training.trial.checkpoint_interval", lambda s: -1.0)
    trial = config.trial("tiny", "fparec", 0)
    chosen = read_record(data.trial("tiny", "fparec", 0)).model_copy(update={"best_epoch": 3})
    folder = data.root / "a"
    folder.mkdir()
    told = []
    arguments = (trial, chosen, read_splits(data.splits("tiny")), folder)
    if failures == 2:
        with pytest.raises(OutOfMemory, match=r"A smaller batch_size than .* need less"):
            refitting.refit(*arguments, device="cpu")
    else:
        attempt, state = refitting.refit(*arguments, device="cpu", on_epoch=told.append)
        assert (attempt.block_parts, state.epoch) == (2, 3)
        assert [each.epoch for each in told] == [1, 2, 3]
        assert (folder / WEIGHTS).exists()
    assert failed == [1, 2][:failures]


def test_a_finished_champion_is_taken_as_it_is_and_a_locked_one_waited_for(data, config):
    first = promoted(data, config)
    assert promoted(data, config) == first
    assert read_pointer("tiny", data).previous is None
    folder = champion_folder("tiny", data)
    (folder / FACTS).unlink()
    with lock_trial(folder), pytest.raises(TrialLocked):
        promoted(data, config)


def test_items_have_their_source_ids_and_how_often_they_were_chosen(data, config):
    promoted(data, config)
    items = pl.read_parquet(champion_folder("tiny", data) / ITEMS)
    log = pl.read_csv(data.root / "tiny.csv")
    counts = dict(log.group_by("what").len().iter_rows())
    assert dict(items.select("source_id", "count").iter_rows()) == counts
    assert items["item"].to_list() == list(range(1, len(counts) + 1))


def rename(data, config, old, new):
    """The same interactions, of an item that is called otherwise; makes the splits again."""
    text = (data.root / "tiny.csv").read_text()
    assert f",{old}," in text
    (data.root / "tiny.csv").write_text(text.replace(f",{old},", f",{new},"))
    make_splits("tiny", config.datasets["tiny"], data.root / "tiny.csv", data)


def test_an_item_of_another_name_makes_another_champion(data, config):
    before = promoted(data, config)
    rename(data, config, "item 3", "item 3b")
    after = promoted(data, config)
    assert after.data_hash == before.data_hash  # which is of numbers
    assert after.fingerprint != before.fingerprint
    names = load_champion("tiny", data).names.to_list()
    assert "item 3b" in names and "item 3" not in names


def test_names_are_those_of_the_splits_that_were_trained_on(data, config):
    splits = read_splits(data.splits("tiny"))
    choice = choose(trials_frame(data, config), "tiny", config, data, "fparec")
    meanwhile = [lambda: rename(data, config, "item 4", "item 4b")]
    champion = promote(
        choice,
        splits,
        config,
        data,
        device="cpu",
        on_epoch=lambda _: meanwhile and meanwhile.pop()(),
    )
    names = pl.read_parquet(champion_folder("tiny", data) / ITEMS)["source_id"].to_list()
    assert "item 4" in names and "item 4b" not in names
    shutil.rmtree(champion_folder("tiny", data))
    with pytest.raises(SplitsError, match="made again after they were read"):
        promote(choice, splits, config, data, device="cpu")
    assert champion.names != promoted(data, config).names


def test_the_champion_answers(data, config):
    promoted(data, config)
    model = load_champion("tiny", data)
    top = model.top(np.array([1, 2, 3]), np.array([0, 3]), 5)
    assert len(set(top.items[0]) - {0, 1, 2, 3}) == 5


def test_the_one_before_is_kept_and_can_be_gone_back_to_and_older_ones_go(data, config):
    with pytest.raises(NoChampion, match="fparec promote tiny"):
        read_champion("tiny", data)
    first = promoted(data, config)
    with pytest.raises(NoChampion, match="no previous"):
        roll_back("tiny", data)
    second = promoted(data, config, "average")
    pointer = read_pointer("tiny", data)
    assert (pointer.champion, pointer.previous) == (second.fingerprint, first.fingerprint)
    assert roll_back("tiny", data) == first
    assert read_champion("tiny", data) == first
    assert roll_back("tiny", data) == second
    third = promoted(data, config, "average", with_refit=False)
    folders = {path.name for path in data.champions("tiny").iterdir() if path.is_dir()}
    assert folders == {third.fingerprint, second.fingerprint}


@pytest.mark.parametrize("name", [WEIGHTS, ITEMS, FACTS])
def test_a_damaged_file_is_found_and_named(name, data, config):
    promoted(data, config)
    path = champion_folder("tiny", data) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ChampionCorrupt, match=name):
        read_champion("tiny", data)


def test_files_have_the_mode_that_the_umask_makes(data, config):
    promoted(data, config)
    umask_mode = (data.root / "tiny.csv").stat().st_mode
    for path in champion_folder("tiny", data).iterdir():
        if path.name not in (".lock", ATTEMPT):
            assert path.stat().st_mode == umask_mode, path.name


def test_a_cold_item_is_known_after_a_refit():
    splits = tiny_splits(n_users=6, n_items=20)
    cold = np.array([21, 3], np.int32)
    offsets = np.array([0, 1, 1, 1, 1, 1, 1])
    late = np.array([0, 0, 1, 1, 1, 1, 1])
    windowed = dataclasses.replace(
        splits,
        valid=cold[:1],
        test=cold[1:],
        windows={
            "valid": Window(offsets, np.array([True])),
            "test": Window(late, np.array([True])),
        },
    )
    everything = whole(windowed)
    assert everything.n_items == 21
    ends = everything.train_offsets
    assert everything.train_items[ends[1] - 1] == 21  # user 1's last
    assert everything.train_items[ends[2] - 1] == 3  # user 2's last
    assert len(everything.train_items) == len(splits.train_items) + 2


def test_a_previous_one_that_is_gone_or_damaged_is_none(data, config):
    first = promoted(data, config)
    second = promoted(data, config, "average")
    weights = data.champions("tiny") / first.fingerprint / WEIGHTS
    weights.write_bytes(b"")
    pointer = read_pointer("tiny", data)
    with pytest.raises(ChampionCorrupt, match=WEIGHTS):
        roll_back("tiny", data)
    assert read_pointer("tiny", data) == pointer
    assert promoted(data, config, "average") == second
    assert read_pointer("tiny", data).previous is None
    shutil.rmtree(data.champions("tiny") / second.fingerprint)
    third = promoted(data, config, "average", with_refit=False)
    pointer = read_pointer("tiny", data)
    assert (pointer.champion, pointer.previous) == (third.fingerprint, None)


def test_promote_mends_a_damaged_pointer_and_deletes_nothing(data, config):
    first = promoted(data, config)
    path = data.champions("tiny") / "current.json"
    path.write_text("{")
    with pytest.raises(ChampionCorrupt, match="fparec promote tiny"):
        read_pointer("tiny", data)
    second = promoted(data, config, "average")
    assert read_pointer("tiny", data).champion == second.fingerprint
    assert (data.champions("tiny") / first.fingerprint / FACTS).exists()


def test_what_was_refused_stands_until_another_is_promoted(data, config):
    first, second = promoted(data, config), promoted(data, config, "average")
    assert read_pointer("tiny", data).refused is None
    roll_back("tiny", data)
    assert read_pointer("tiny", data).refused == second.data_hash
    refuse("tiny", data, "0" * 16)
    assert promoted(data, config) == first
    assert read_pointer("tiny", data).refused == "0" * 16
    promoted(data, config, "average")
    assert read_pointer("tiny", data).refused is None
