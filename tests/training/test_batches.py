"""Batches against a naive loop over users."""

from collections import Counter

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny import splits_of, tiny_splits

from fparec_pipeline.training.batches import Batches

histories = st.lists(st.lists(st.integers(1, 9), min_size=3, max_size=14), min_size=1, max_size=40)


def naive_sequences(splits, n):
    """(inputs, targets) of every user who has a target."""
    users = []
    for u in range(splits.n_users):
        items = splits.train_items[splits.train_offsets[u] : splits.train_offsets[u + 1]].tolist()
        inputs, targets = items[:-1][-n:], items[1:][-n:]
        if targets:
            users.append((tuple(inputs), tuple(targets)))
    return users


def unpadded(column):
    """The items of a right-aligned column; fails when padding stands among them."""
    items = column.tolist()
    padding = items.count(0)
    assert items[:padding] == [0] * padding
    return tuple(items[padding:])


def sequences_in(batch):
    return [
        (unpadded(inputs), unpadded(targets))
        for inputs, targets in zip(batch.items.T, batch.targets.T, strict=True)
    ]


def as_lists(batches):
    return [(batch.items.tolist(), batch.targets.tolist()) for batch in batches]


@settings(deadline=None, max_examples=60)
@given(histories, st.integers(1, 10), st.integers(1, 8), st.integers(0, 3))
@example([[1, 2, 3], [1, 2, 3, 4]], 1, 1, 0)
def test_an_epoch_holds_every_users_last_n_inputs_and_targets_once(sequences, n, size, epoch):
    splits = splits_of(sequences, n_items=9)
    expected = naive_sequences(splits, n)
    if not expected:
        with pytest.raises(ValueError, match="tiny"):
            Batches(splits, n, size)
        return
    batches = list(Batches(splits, n, size).epoch(0, epoch))
    found = [sequence for batch in batches for sequence in sequences_in(batch)]
    assert Counter(found) == Counter(expected)
    for batch in batches:
        assert batch.items.dtype == batch.targets.dtype == torch.int64
        assert batch.items.shape == batch.targets.shape
        assert batch.items.shape[1] <= size
        assert len(batch.items) == max(len(inputs) for inputs, _ in sequences_in(batch))
        assert torch.equal(batch.items == 0, batch.targets == 0)


@settings(deadline=None, max_examples=30)
@given(histories, st.integers(1, 10), st.integers(1, 8))
def test_the_loss_constant_is_the_mean_number_of_targets_of_a_batch(sequences, n, size):
    splits = splits_of([*sequences, [1, 2, 3, 4]], n_items=9)
    batches = Batches(splits, n, size)
    counts = [sum(len(targets) for _, targets in sequences_in(b)) for b in batches.epoch(0, 1)]
    assert batches.steps_per_epoch == len(counts)
    assert batches.targets_per_epoch == sum(counts)
    assert batches.targets_per_step == pytest.approx(sum(counts) / len(counts))


def test_the_same_seed_and_epoch_give_the_same_batches_whatever_was_drawn_before():
    splits = tiny_splits()
    first = as_lists(Batches(splits, 6, 8).epoch(3, 5))
    again = Batches(splits, 6, 8)
    list(again.epoch(3, 4))
    torch.rand(7)
    assert as_lists(again.epoch(3, 5)) == first


@pytest.mark.parametrize("other", [(3, 6), (4, 5), (5, 3)])
def test_another_epoch_or_seed_groups_the_users_otherwise(other):
    batches = Batches(tiny_splits(), 6, 8)

    def groups(seed, epoch):
        return {frozenset(sequences_in(batch)) for batch in batches.epoch(seed, epoch)}

    assert groups(3, 5) != groups(*other)


def test_batches_do_not_come_in_the_order_of_their_length():
    batches = Batches(tiny_splits(n_users=200, longest=30), 30, 4)
    lengths = [len(batch.items) for batch in batches.epoch(0, 1)]
    assert lengths != sorted(lengths)
    assert lengths != sorted(lengths, reverse=True)


def test_users_of_like_length_share_a_batch():
    splits = tiny_splits(n_users=200, longest=30)
    padded = sum(batch.items.numel() for batch in Batches(splits, 30, 8).epoch(0, 1))
    real = sum(len(targets) for _, targets in naive_sequences(splits, 30))
    assert padded < 1.2 * real
