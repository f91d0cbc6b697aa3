"""Stacked seeds: the loss against PyTorch's, the training against trials of their own."""

import math

import polars as pl
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tiny import PACKAGED, tiny_splits, tiny_trial

from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training import blocks, stacked
from fparec_pipeline.training.batches import Batches
from fparec_pipeline.training.record import (
    HISTORY,
    LISTS,
    RANKS,
    WEIGHTS,
    TrialLocked,
    lock_trial,
    read_attempt,
    read_record,
)
from fparec_pipeline.training.stacked import (
    epoch_rows,
    gathered,
    is_stackable,
    run_stacked,
    stacked_cross_entropy,
)
from fparec_pipeline.training.trial import TrainingDiverged, begin_attempt, new_attempt, run_trial

SEEDS = (0, 1, 2)


@pytest.fixture
def data(tmp_path):
    return DataRoot(tmp_path / "stacked")


def seeds_of(model="fparec", **changes):
    return [tiny_trial(model, seed, **changes) for seed in SEEDS]


def folder_of(trial, data):
    return data.trial(*trial.id)


@pytest.mark.parametrize("block", [4096, 1 << 30])
def test_the_loss_and_its_gradients_equal_pytorchs_model_by_model(block, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", block)
    generator = torch.Generator().manual_seed(0)
    S, T, V, d = 3, 40, 23, 6
    hidden = torch.randn(S, T, d, generator=generator, requires_grad=True)
    weight = torch.randn(S, V, d, generator=generator, requires_grad=True)
    targets = torch.randint(V, (S, T), generator=generator)
    targets[1, 30:] = -1  # one model has fewer
    losses = stacked_cross_entropy(hidden, weight, targets, 0.25)
    expected = torch.stack(
        [
            0.25 * F.cross_entropy(h @ w.T, t, ignore_index=-1, reduction="sum")
            for h, w, t in zip(hidden, weight, targets, strict=True)
        ]
    )
    torch.testing.assert_close(losses, expected)
    factors = torch.tensor([1.0, 2.0, 3.0])
    found = torch.autograd.grad((losses * factors).sum(), (hidden, weight))
    wanted = torch.autograd.grad((expected * factors).sum(), (hidden, weight))
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_step_holds_every_seeds_own_batch():
    batches = Batches(tiny_splits(n_users=21), n=6, batch_size=8)
    steps = epoch_rows(batches, SEEDS, 4)
    assert steps.shape == (batches.steps_per_epoch, len(SEEDS), 8)
    for place, seed in enumerate(SEEDS):
        for rows, own in zip(steps, batches.epoch(seed, 4), strict=True):
            items, targets = gathered(batches, rows, 6)
            L, b = own.items.shape
            for found, wanted in ((items, own.items), (targets, own.targets)):
                assert torch.equal(found[place, -L:, :b], wanted)
                assert not found[place, :-L].any()
                assert not found[place, :, b:].any()


STACKABLE = sorted(m for m in PACKAGED.arms if is_stackable(tiny_trial(m).hyperparameters))


@pytest.mark.parametrize("model", STACKABLE)
def test_without_dropout_a_stack_equals_trials_of_their_own(model, data, tmp_path):
    trials, splits = seeds_of(model, dropout=0, max_epochs=3), tiny_splits()
    records = run_stacked(trials, splits, data, device="cpu")
    for trial, record in zip(trials, records, strict=True):
        alone = DataRoot(tmp_path / "alone")
        single = run_trial(trial, splits, alone, device="cpu")
        assert (record.seed, record.fingerprint) == (trial.seed, single.fingerprint)
        assert (record.stacked, single.stacked) == (3, 1)
        ours, theirs = (pl.read_parquet(folder_of(trial, d) / HISTORY) for d in (data, alone))
        assert ours["loss"].to_list() == pytest.approx(theirs["loss"].to_list(), rel=1e-4)
        ours, theirs = (load_file(folder_of(trial, d) / WEIGHTS) for d in (data, alone))
        assert ours.keys() == theirs.keys()
        if record.best_epoch == single.best_epoch:
            for name in ours:
                if name.endswith((".R", ".R1")):  # the first position sees itself alone: its row
                    # has no gradient but rounding, of which Adam makes whole steps
                    ours[name][0] = theirs[name][0]
                torch.testing.assert_close(ours[name], theirs[name], rtol=1e-2, atol=1e-3)


def test_each_seed_has_a_complete_folder_of_its_own(data):
    trials, splits = seeds_of(dropout=0.2, max_epochs=8), tiny_splits()
    records = run_stacked(trials, splits, data, device="cpu")
    for trial, record in zip(trials, records, strict=True):
        folder = folder_of(trial, data)
        assert read_record(folder) == record
        assert set(record.files) == {HISTORY, RANKS, LISTS, WEIGHTS}
        assert pl.read_parquet(folder / RANKS).height == splits.n_users
        losses = pl.read_parquet(folder / HISTORY)["loss"]
        assert losses[-1] < losses[0] < 1.5 * math.log(splits.n_items)


def test_a_finished_stack_is_not_trained_again_but_by_retrain(data):
    trials, splits = seeds_of(), tiny_splits()
    first = run_stacked(trials, splits, data, device="cpu")
    assert run_stacked(trials, splits, data, device="cpu") == first
    again = run_stacked(trials, splits, data, device="cpu", retrain=True)
    assert {r.attempt for r in again}.isdisjoint(r.attempt for r in first)
    assert [read_record(folder_of(t, data)) for t in trials] == again


def test_a_seed_that_is_there_is_left_out_of_the_stack(data):
    trials, splits = seeds_of(), tiny_splits()
    single = run_trial(trials[1], splits, data, device="cpu")
    records = run_stacked(trials, splits, data, device="cpu")
    assert records[1] == single
    assert [record.stacked for record in records] == [2, 1, 2]


def test_seeds_stop_on_their_own(data):
    trials = seeds_of(dropout=0, learning_rate=0.05, max_epochs=30, min_epochs=2, patience=2)
    records = run_stacked(trials, tiny_splits(), data, device="cpu")
    assert len({record.epochs for record in records}) > 1
    for trial, record in zip(trials, records, strict=True):
        assert pl.read_parquet(folder_of(trial, data) / HISTORY).height == record.epochs
        assert record.epochs == record.best_epoch + 2 or record.hit_cap


def test_what_a_killed_stack_left_is_trained_anew_alone(data):
    trial, splits = seeds_of()[0], tiny_splits()
    left = begin_attempt(folder_of(trial, data), new_attempt(trial, splits, "cpu", 3))
    record = run_trial(trial, splits, data, device="cpu")
    assert record.stacked == 1
    assert record.attempt != left.attempt


class Killed(Exception):
    pass


class KilledAt:
    """Writes a checkpoint after every epoch, and ends the training after one of them."""

    def __init__(self, epoch):
        self.epoch, self.done = epoch, 0

    def on_epoch(self, progress):
        self.done = progress.epoch

    def on_checkpoint(self, folder):
        if self.done == self.epoch:
            raise Killed


@pytest.fixture
def always_due(monkeypatch):
    monkeypatch.setattr(stacked.CheckpointPace, "is_due", lambda pace: True)


def weights_of(trials, data):
    return [load_file(folder_of(trial, data) / WEIGHTS) for trial in trials]


def test_a_killed_stack_goes_on_from_its_checkpoints_to_the_same_bits(data, tmp_path, always_due):
    trials, splits = seeds_of(dropout=0.2, max_epochs=5), tiny_splits()
    whole = DataRoot(tmp_path / "whole")
    run_stacked(trials, splits, whole, device="cpu")
    with pytest.raises(Killed):  # after the last seed's checkpoint of epoch 3
        run_stacked(trials, splits, data, device="cpu", observers={SEEDS[2]: KilledAt(3)})
    left = [read_attempt(folder_of(trial, data)).attempt for trial in trials]
    epochs = Epochs()
    records = run_stacked(trials, splits, data, device="cpu", observers={SEEDS[0]: epochs})
    assert epochs.told == [4, 5]
    assert [record.attempt for record in records] == left
    for ours, theirs in zip(weights_of(trials, data), weights_of(trials, whole), strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_seeds_at_different_epochs_go_on_as_stacks_of_their_own(data, always_due):
    trials, splits = seeds_of(dropout=0.2, max_epochs=4), tiny_splits()
    with pytest.raises(Killed):  # seed 0 has epoch 2's checkpoint, seeds 1 and 2 epoch 1's
        run_stacked(trials, splits, data, device="cpu", observers={SEEDS[0]: KilledAt(2)})
    told = {seed: Epochs() for seed in SEEDS}
    records = run_stacked(trials, splits, data, device="cpu", observers=told)
    assert [told[seed].told for seed in SEEDS] == [[3, 4], [2, 3, 4], [2, 3, 4]]
    assert [record.epochs for record in records] == [4, 4, 4]
    assert [record.stacked for record in records] == [3, 3, 3]
    assert [[each.stacked for each in record.resumed] for record in records] == [[1], [2], [2]]


def alone(trial, splits, data, *, device, observer=None):
    """A stack of one, called as `run_trial` is."""
    observers = {trial.seed: observer} if observer else {}
    return run_stacked([trial], splits, data, device=device, observers=observers)[0]


@pytest.mark.parametrize("train", [run_trial, alone])
def test_a_seed_of_a_killed_stack_goes_on_alone(data, always_due, train):
    trials, splits = seeds_of(dropout=0.2, max_epochs=4), tiny_splits()
    with pytest.raises(Killed):
        run_stacked(trials, splits, data, device="cpu", observers={SEEDS[2]: KilledAt(2)})
    epochs = Epochs()
    record = train(trials[2], splits, data, device="cpu", observer=epochs)
    assert (epochs.told, record.stacked) == ([3, 4], 3)


def test_a_trial_that_was_begun_alone_goes_on_alone_beside_a_stack(data, always_due):
    trials, splits = seeds_of(dropout=0.2, max_epochs=4), tiny_splits()
    with pytest.raises(Killed):
        alone(trials[0], splits, data, device="cpu", observer=KilledAt(2))
    told = {seed: Epochs() for seed in SEEDS}
    records = run_stacked(trials, splits, data, device="cpu", observers=told)
    assert [told[seed].told for seed in SEEDS] == [[3, 4], [1, 2, 3, 4], [1, 2, 3, 4]]
    assert [record.stacked for record in records] == [1, 2, 2]
    assert not any(record.resumed for record in records)


def test_a_stack_does_not_take_over_what_a_single_trial_left(data):
    trials, splits = seeds_of(), tiny_splits()
    left = begin_attempt(folder_of(trials[0], data), new_attempt(trials[0], splits, "cpu"))
    records = run_stacked(trials, splits, data, device="cpu")
    assert records[0].attempt != left.attempt
    assert [record.stacked for record in records] == [3, 3, 3]


class Epochs:
    """The epochs that were told."""

    def __init__(self):
        self.told = []

    def on_epoch(self, progress):
        self.told.append(progress.epoch)

    def on_checkpoint(self, folder):
        pass


@pytest.mark.parametrize("train", [run_trial, alone])
def test_a_trial_that_lacks_only_its_record_has_no_further_epoch(
    data, always_due, monkeypatch, train
):
    trial, splits = seeds_of(max_epochs=3)[0], tiny_splits()
    with monkeypatch.context() as patch:
        patch.setattr("fparec_pipeline.training.trial.outcome_of", _killed)
        with pytest.raises(Killed):
            run_trial(trial, splits, data, device="cpu")
    assert train(trial, splits, data, device="cpu").epochs == 3


def _killed(*_):
    raise Killed


def test_a_diverging_seed_ends_the_stack_and_is_named(data):
    trials = seeds_of(learning_rate=1e30)
    with pytest.raises(TrainingDiverged, match=r"tiny/fparec/seed=\d, epoch 1"):
        run_stacked(trials, tiny_splits(), data, device="cpu")
    assert not any(read_record(folder_of(trial, data)) for trial in trials)


def test_a_locked_seed_is_refused(data):
    trials = seeds_of()
    with lock_trial(folder_of(trials[2], data)), pytest.raises(TrialLocked):
        run_stacked(trials, tiny_splits(), data, device="cpu")


@pytest.mark.parametrize(
    "trials",
    [
        [tiny_trial("fparec", 0), tiny_trial("parec", 1)],
        [tiny_trial("fparec", 0), tiny_trial("fparec", 0)],
        [tiny_trial("fparec", 0, loss="sampled_softmax")],
        [tiny_trial("sasrec_bce", 0)],
    ],
)
def test_what_cannot_be_stacked_is_refused(trials, data):
    with pytest.raises(ValueError, match="stack"):
        run_stacked(trials, tiny_splits(), data, device="cpu")
