"""Flipped bits: whatever is read back is what was written, or it is named and refused."""

import json
import random
from contextlib import suppress

import pytest
import torch
from data_roots import tiny_root
from tiny import tiny_splits, tiny_trial

from fparec_pipeline.config import load_config
from fparec_pipeline.datasets.preprocess import SplitsError
from fparec_pipeline.datasets.sources import fetch_raw
from fparec_pipeline.datasets.splits import TABLES, make_splits, read_splits
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training import record
from fparec_pipeline.training.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from fparec_pipeline.training.record import (
    ATTEMPT,
    CHECKPOINT,
    HISTORY,
    RANKS,
    RECORD,
    WEIGHTS,
    TrialCorrupt,
    read_attempt,
    read_record,
)
from fparec_pipeline.training.trial import run_trial

PLACES = 60  # of a file, drawn


def flips(path):
    """Flips one bit after the other, putting it back in between."""
    whole = path.read_bytes()
    draw = random.Random(path.name)
    for place in draw.sample(range(len(whole)), min(PLACES, len(whole))):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        yield place
    path.write_bytes(whole)


@pytest.mark.fault("bits")
def test_no_flipped_bit_of_a_checkpoint_is_resumed(tmp_path, harm):
    folder = tmp_path / "tiny" / "fparec" / "seed=0"
    folder.mkdir(parents=True)
    model = torch.nn.Linear(6, 5)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 6)).sum().backward()
    optimizer.step()
    state = TrainingState(epoch=1, history=[{"epoch": 1, "loss": 2.5}])
    save_checkpoint(folder, state, model, optimizer, "attempt")
    for _ in flips(folder / CHECKPOINT):
        with pytest.raises(TrialCorrupt, match=CHECKPOINT):
            load_checkpoint(folder, model, optimizer, "attempt")
        harm()
        with suppress(TrialCorrupt):  # shown while the trial runs; the tensors are not read for it
            shown = record.checkpoint_history(folder)
            assert shown.select("epoch", "loss").to_dicts() == state.history
    assert load_checkpoint(folder, model, optimizer, "attempt").history == state.history


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    data = DataRoot(tmp_path_factory.mktemp("data"))
    run_trial(tiny_trial(), tiny_splits(), data, device="cpu")
    return data.trial("tiny", "fparec", 0)


@pytest.mark.fault("bits")
@pytest.mark.parametrize("name", [RECORD, HISTORY, RANKS, WEIGHTS])
def test_no_flipped_bit_of_a_finished_trial_reaches_a_number(name, trial, harm):
    written = read_record(trial)
    for _ in flips(trial / name):
        try:
            assert read_record(trial) == written  # white space, of which nothing depends
        except TrialCorrupt as error:
            assert name in str(error)
        harm()
    assert read_record(trial) == written


@pytest.mark.fault("bits")
def test_no_flipped_bit_of_an_attempt_reaches_a_record(trial, harm):
    written = read_attempt(trial)
    for _ in flips(trial / ATTEMPT):
        try:
            assert read_attempt(trial) == written
        except TrialCorrupt as error:
            assert ATTEMPT in str(error)
        harm()


@pytest.mark.fault("bits")
def test_no_flipped_bit_of_splits_is_trained_on(tmp_path, harm):
    data = tiny_root(tmp_path)
    dataset = load_config(data).datasets["tiny"]
    made = make_splits("tiny", dataset, fetch_raw("tiny", dataset, data), data)
    folder = data.splits("tiny")
    for name in (*(f"{table}.parquet" for table in TABLES), "stats.json"):
        for _ in flips(folder / name):
            try:
                assert read_splits(folder).stats == made.stats
            except SplitsError as error:
                assert str(folder) in str(error)
            harm()
    assert json.loads((folder / "stats.json").read_text()) == made.stats
