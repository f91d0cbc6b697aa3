"""SASRec's binary cross-entropy against torch's, and its negatives against naive sets."""

import numpy as np
import pytest
import torch
from tiny import splits_of, tiny_splits
from torch.nn.functional import binary_cross_entropy_with_logits

from fparec_pipeline.training.batches import Batches
from fparec_pipeline.training.losses.binary_cross_entropy import UnseenItems, binary_cross_entropy


def problem(T=50, m=3, v=37, d=8):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(T, d, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn(v, d, generator=generator, dtype=torch.float64).requires_grad_()
    targets = torch.randint(v, (T,), generator=generator)
    negatives = torch.randint(v, (T, m), generator=generator)
    return hidden, weight, targets, negatives


@pytest.mark.parametrize("m", [1, 3])
def test_loss_and_gradients_equal_torchs_over_the_full_logits(m):
    hidden, weight, targets, negatives = problem(m=m)
    loss = binary_cross_entropy(hidden, weight, targets, negatives, 0.3)
    found = torch.autograd.grad(loss, (hidden, weight))
    logits = hidden @ weight.T
    chosen = torch.cat([targets[:, None], negatives], 1)
    labels = torch.zeros(chosen.shape, dtype=torch.float64)
    labels[:, 0] = 1
    expected = 0.3 * binary_cross_entropy_with_logits(
        logits.gather(1, chosen), labels, reduction="sum"
    )
    torch.testing.assert_close(loss, expected)
    for a, b in zip(found, torch.autograd.grad(expected, (hidden, weight)), strict=True):
        torch.testing.assert_close(a, b)


def unseen_of(splits, user):
    held = splits.train_items[splits.train_offsets[user] : splits.train_offsets[user + 1]]
    return set(range(splits.n_items)) - {int(item) - 1 for item in held}


def test_negatives_are_what_the_users_training_sequence_does_not_hold():
    splits = tiny_splits()
    sampler = UnseenItems(splits)
    torch.manual_seed(0)
    drawn = sampler.draw(torch.arange(splits.n_users), 400)
    for user in range(splits.n_users):
        assert set(drawn[user].tolist()) == unseen_of(splits, user)  # all of them, nothing else


def test_negatives_are_uniform():
    splits = splits_of([[1, 3, 3, 6, 2, 4], [2, 4, 5, 1, 3]], n_items=7)
    torch.manual_seed(0)
    drawn = UnseenItems(splits).draw(torch.tensor([0, 1]), 40_000)
    for user, unseen in enumerate([[1, 3, 4, 6], [0, 2, 5, 6]]):  # train: 1 3 3 6 and 2 4 5
        values, counts = np.unique(drawn[user].numpy(), return_counts=True)
        assert values.tolist() == unseen
        assert counts / 40_000 == pytest.approx([1 / 4] * 4, abs=0.01)


def test_the_rows_of_a_batch_name_the_users_of_its_targets():
    splits = splits_of([[1, 2, 3], [4, 5, 6, 7], [8, 9, 3], [1, 4, 2, 8, 5]])  # two train nothing
    batches = Batches(splits, 6, 2)
    assert batches.users.tolist() == [1, 3]
    for rows in batches.rows(seed=0, epoch=1):
        _, targets = batches.batch(rows)
        users = batches.users[rows].expand_as(targets)
        found = set(zip(users[targets != 0].tolist(), targets[targets != 0].tolist(), strict=True))
        assert found == {(1, 5), (3, 4), (3, 2)}


def test_a_user_who_holds_every_item_is_an_error_that_names_the_user():
    with pytest.raises(ValueError, match="tiny: user 2 has interacted with every item"):
        UnseenItems(splits_of([[1, 2, 3, 1], [1, 2, 3, 1, 2]]))
