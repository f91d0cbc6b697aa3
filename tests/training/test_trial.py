"""Trials from start to finished folder: learning, equal bits, resuming, stopping, no leakage."""

import dataclasses
import json
import math
import random
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from outcomes import outcome
from safetensors.torch import load_file
from tiny import PACKAGED, rehashed, splits_of, tiny_splits, tiny_trial

from fparec_pipeline.config import REFERENCES, ConfigError
from fparec_pipeline.models.network import Recommender
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training.batches import derived_seed
from fparec_pipeline.training.checkpoint import (
    TrainingState,
    load_checkpoint,
    save_checkpoint,
)
from fparec_pipeline.training.record import (
    ATTEMPT,
    CHECKPOINT,
    HISTORY,
    LISTS,
    RANKS,
    RECORD,
    WEIGHTS,
    TrialLocked,
    read_attempt,
    read_record,
    view_trial,
    write_sealed,
)
from fparec_pipeline.training.trial import (
    Silent,
    TrainingDiverged,
    checkpoint_interval,
    choose_device,
    next_folder,
    parameter_groups,
    run_reference,
    run_trial,
)

# The mean loss of a target in the second epoch of `tiny_trial(arm, dropout=0)`, one CPU thread.
# Without dropout, whose random masks differ between processors.
GOLDEN_LOSSES = {
    "average": 3.018126,
    "exponential_annealing": 2.975510,
    "fparec": 3.054021,
    "linear_annealing": 2.999162,
    "linear_attention": 3.003333,
    "parec": 3.104988,
    "sasrec": 2.979036,
    "parec_fast": 3.104988,  # the same learning rate in tiny_trial
    "sasrec_bce": 1.345291,
    "token_mixing": 2.998949,
}


ARMS = sorted(set(PACKAGED.arms) - set(PACKAGED.variants))


class Watch(Silent):
    """Remembers the epochs it was told of, and calls `then` at each."""

    def __init__(self, then=lambda epoch: None):
        self.epochs = []
        self.then = then

    def on_epoch(self, progress):
        self.epochs.append(progress.epoch)
        self.then(progress.epoch)


class Stopped(Exception):
    pass


def stop_at(epoch):
    def stop(current):
        if current == epoch:
            raise Stopped

    return Watch(stop)


@pytest.fixture
def data(tmp_path):
    return DataRoot(tmp_path / "data")


def folder_of(trial, data):
    return data.trial(*trial.id)


def run(trial, splits, data, **options):
    return run_trial(trial, splits, data, device="cpu", **options)


def train(trial, splits, path):
    """Trains in a data root of its own and returns the folder."""
    data = DataRoot(path)
    run(trial, splits, data)
    return folder_of(trial, data)


def history(folder):
    return pl.read_parquet(folder / HISTORY)


def model_of(trial, splits, folder):
    model = Recommender(trial.hyperparameters, splits.n_items).eval()
    model.load_state_dict(load_file(folder / WEIGHTS))
    return model


# Learning


def cyclic_splits(period, n_items=30, n_users=320):
    """Every user goes round a cycle of distinct items: the next is the one `period` steps back."""
    draw = random.Random(0)
    sequences = []
    for _ in range(n_users):
        cycle = draw.sample(range(1, n_items + 1), period)
        sequences.append([cycle[t % period] for t in range(draw.randrange(6, 13))])
    return splits_of(sequences, n_items)


@pytest.mark.parametrize("model", ["parec", "fparec"])
def test_attention_finds_the_one_position_that_holds_the_answer(model, data):
    period, n = 3, 5  # narrower than two periods, so that one position alone holds the answer
    trial = tiny_trial(
        model, n=n, d=16, dropout=0, learning_rate=3e-2, batch_size=32, max_epochs=60
    )
    splits = cyclic_splits(period)
    record = run(trial, splits, data)
    assert record.metrics["test/hr_at_1"] >= 0.9
    attention = model_of(trial, splits, folder_of(trial, data)).blocks[0].mixer.attention()
    # Position i predicts item i + 1, so the answer stands at i + 1 − period.
    rows = range(period - 1, n)
    assert attention.argmax(dim=1)[rows].tolist() == [i + 1 - period for i in rows]


@pytest.mark.parametrize("model", ARMS)
def test_the_loss_of_every_arm_falls(model, data):
    trial = tiny_trial(model)
    splits = tiny_splits()
    run(trial, splits, data)
    first, second = history(folder_of(trial, data))["loss"]
    binary = trial.hyperparameters.loss == "binary_cross_entropy"
    guess = 2 * math.log(2) if binary else math.log(splits.n_items)
    assert second < first < 1.5 * guess


@pytest.mark.parametrize("model", ARMS)
def test_training_computes_what_it_computed_before(model, data):
    trial = tiny_trial(model, dropout=0)
    run(trial, tiny_splits(), data)
    loss = history(folder_of(trial, data))["loss"][-1]
    assert model in GOLDEN_LOSSES, f'A new arm: add "{model}": {loss:.6f} to GOLDEN_LOSSES.'
    assert loss == pytest.approx(GOLDEN_LOSSES[model], rel=1e-4), (
        f"{model}'s loss is now {loss:.6f}. If training is meant to compute something else, raise "
        "TRAINING_VERSION in config/fingerprints.py, so that no old trial passes for a new one, "
        "and then put the new loss here."
    )


@pytest.mark.fault("diverged")
def test_a_diverging_trial_names_epoch_and_arm_and_is_not_finished(data):
    trial = tiny_trial("fparec", seed=1, learning_rate=1e30)
    with pytest.raises(TrainingDiverged, match=r"tiny/fparec/seed=1, epoch 1: .*learning_rate"):
        run(trial, tiny_splits(), data)
    assert read_record(folder_of(trial, data)) is None


# Equal bits


def test_the_same_trial_gives_equal_bits_and_another_seed_does_not(tmp_path):
    trial, splits = tiny_trial(dropout=0.5), tiny_splits()
    first = outcome(train(trial, splits, tmp_path / "a"))
    torch.rand(5)  # whatever the process drew before
    assert outcome(train(trial, splits, tmp_path / "b")) == first
    other = outcome(train(tiny_trial(seed=1, dropout=0.5), splits, tmp_path / "c"))
    assert other["weights"] != first["weights"]
    assert other["history"][0]["loss"] != first["history"][0]["loss"]


RESUMED = {"max_epochs": 9, "dropout": 0.5, "blocks": 2}

# Trains the trial of RESUMED, a checkpoint each epoch, and stands still once the given epoch is
# trained but not yet in a checkpoint.
DRIVER = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tiny import tiny_splits, tiny_trial
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training import trial

class StandStill(trial.Silent):
    def on_epoch(self, progress):
        if progress.epoch == int(sys.argv[3]):
            print("trained", progress.epoch, flush=True)
            sys.stdin.read()

trial.checkpoint_interval = lambda seconds: -1.0
data = DataRoot(Path(sys.argv[2]))
trial.run_trial(tiny_trial(**eval(sys.argv[4])), tiny_splits(), data, device="cpu",
                observer=StandStill())
"""


def train_and_kill(data, epoch):
    """SIGKILLs a process that trains the trial of RESUMED, after so many epochs."""
    tests = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", DRIVER, tests, str(data.root), str(epoch), repr(RESUMED)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == f"trained {epoch}\n"
        view = view_trial(folder_of(tiny_trial(), data))
        assert view.running
        assert view.record is None
        assert view.history["epoch"].to_list() == list(range(1, epoch))
        process.kill()


@pytest.mark.fault("killed")
def test_a_killed_trial_resumes_to_the_bits_of_one_that_was_not(data, tmp_path):
    trial, splits = tiny_trial(**RESUMED), tiny_splits()
    undisturbed = train(trial, splits, tmp_path / "undisturbed")
    folder = folder_of(trial, data)

    train_and_kill(data, 3)
    attempt = read_attempt(folder).attempt
    train_and_kill(data, 6)
    watch = Watch()
    record = run(trial, splits, data, observer=watch)

    assert watch.epochs == [6, 7, 8, 9]
    assert record.attempt == attempt
    assert outcome(folder) == outcome(undisturbed)
    assert not (folder / CHECKPOINT).exists()


@pytest.fixture
def always_due(monkeypatch):
    monkeypatch.setattr("fparec_pipeline.training.trial.checkpoint_interval", lambda s: -1.0)


def test_a_trial_that_another_commit_or_machine_goes_on_with_says_so(
    data, always_due, monkeypatch, caplog
):
    trial, splits = tiny_trial(max_epochs=5), tiny_splits()
    began = {"commit": "a" * 40, "hardware": "a processor"}
    for name, value in began.items():
        monkeypatch.setattr(f"fparec_pipeline.training.trial.{name}", lambda *_, v=value: v)
    with pytest.raises(Stopped):
        run(trial, splits, data, observer=stop_at(2))
    with pytest.raises(Stopped):
        run(trial, splits, data, observer=stop_at(3))  # by the same: nothing to say
    assert not read_attempt(folder_of(trial, data)).resumed
    assert not caplog.messages
    monkeypatch.setattr("fparec_pipeline.training.trial.commit", lambda: "b" * 40)
    with pytest.raises(Stopped):
        run(trial, splits, data, observer=stop_at(3))  # trains nothing that is kept
    monkeypatch.setattr("fparec_pipeline.training.trial.hardware", lambda _: "another processor")
    with pytest.raises(Stopped):
        run(trial, splits, data, observer=stop_at(5))
    monkeypatch.setattr("fparec_pipeline.training.trial.commit", lambda: "a" * 40)
    record = run(trial, splits, data)
    assert (record.commit, record.hardware) == tuple(began.values())
    told = [(each.epoch, each.commit, each.hardware) for each in record.resumed]
    assert told == [(3, "b" * 40, "another processor"), (5, "a" * 40, "another processor")]
    for each, message in zip(record.resumed, caplog.messages[1:], strict=True):
        assert message.startswith(f"tiny/fparec/seed=0 goes on {each.words}. ")
    assert read_attempt(folder_of(trial, data)).resumed == record.resumed


def test_a_trial_that_a_gpu_began_goes_on_where_there_is_none(data, always_due, monkeypatch):
    trial, splits = tiny_trial(max_epochs=4), tiny_splits()
    folder = folder_of(trial, data)
    with pytest.raises(Stopped):
        run(trial, splits, data, observer=stop_at(3))
    gpu = {"device": "cuda", "hardware": "a processor, a GPU"}
    write_sealed(folder / ATTEMPT, read_attempt(folder).model_copy(update=gpu))
    watch = Watch()
    record = run(trial, splits, data, observer=watch)
    assert watch.epochs == [3, 4]
    assert (record.device, record.hardware) == ("cpu", "a processor, a GPU")
    assert [each.epoch for each in record.resumed] == [3]


def test_a_record_names_no_other_machine_where_there_was_none(data):
    """Nor has its file a key that older versions of this package do not know."""
    run(tiny_trial(), tiny_splits(), data)
    assert "resumed" not in json.loads((folder_of(tiny_trial(), data) / RECORD).read_text())


def test_an_attempt_without_an_epoch_is_begun_anew(data, monkeypatch):
    trial, splits = tiny_trial(max_epochs=2), tiny_splits()
    monkeypatch.setattr("fparec_pipeline.training.trial.commit", lambda: "a" * 40)
    with pytest.raises(Stopped):
        run(trial, splits, data, observer=stop_at(1))
    monkeypatch.setattr("fparec_pipeline.training.trial.commit", lambda: "b" * 40)
    record = run(trial, splits, data)
    assert (record.commit, record.resumed) == ("b" * 40, ())


@pytest.mark.parametrize("model", ["sasrec_bce", "parec_fast"])
def test_drawn_negatives_and_two_learning_rates_resume_to_the_same_bits(
    model, data, tmp_path, always_due
):
    trial, splits = tiny_trial(model, dropout=0.5, max_epochs=5), tiny_splits()
    undisturbed = train(trial, splits, tmp_path / "undisturbed")
    for epoch in (2, 4):
        with pytest.raises(Stopped):
            run(trial, splits, data, observer=stop_at(epoch))
    watch = Watch()
    run(trial, splits, data, observer=watch)
    assert watch.epochs == [4, 5]
    assert outcome(folder_of(trial, data)) == outcome(undisturbed)


def test_r_moves_by_its_own_learning_rate_and_nothing_else_does(tmp_path):
    """Adam's first step moves each entry by its learning rate, where there is any gradient."""
    splits = tiny_splits()
    changes = {"max_epochs": 1, "batch_size": 64, "learning_rate": 1e-3, "dropout": 0}
    trial = tiny_trial("parec", **changes, attention_learning_rate=0.1)
    torch.manual_seed(derived_seed(0, 0))
    before = Recommender(trial.hyperparameters, splits.n_items).state_dict()
    after = load_file(train(trial, splits, tmp_path) / WEIGHTS)
    for name, start in before.items():
        step = (after[name] - start).abs().max().item()
        assert step == pytest.approx(0.1 if name.endswith(".R") else 1e-3, rel=1e-2)


def test_a_learning_rate_for_logits_that_are_not_there_is_refused(tmp_path):
    trial = tiny_trial("parec", attention_learning_rate=0.1)
    own = trial.hyperparameters.model_copy(update={"mixer": "my_module:Own"})
    with pytest.raises(ConfigError, match="R, R1, R2, and mixer 'my_module:Own' has none"):
        parameter_groups([("blocks.0.mixer.rate", torch.ones(2))], own)


def test_a_checkpoint_that_takes_long_is_written_more_rarely():
    for seconds in (0.01, 1.0, 30.0, 600.0):
        interval = checkpoint_interval(seconds)
        assert interval >= 10
        assert seconds / interval <= 0.05
    assert checkpoint_interval(0.0) == 10


def test_a_checkpoint_comes_back_on_the_device_of_the_model(tmp_path):
    """As fused Adam needs it (`Optimizer.load_state_dict` moves the step likewise)."""
    model = torch.nn.Linear(2, 3)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    save_checkpoint(tmp_path, TrainingState(epoch=1), model, optimizer, "attempt")

    elsewhere = torch.nn.Linear(2, 3).to("meta")  # stands for a GPU
    adam = torch.optim.Adam(elsewhere.parameters(), fused=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a copy to the meta device is none
        assert load_checkpoint(tmp_path, elsewhere, adam, "attempt").epoch == 1
    for parameter in elsewhere.parameters():
        moments = adam.state[parameter]
        assert {key: value.device.type for key, value in moments.items()} == dict.fromkeys(
            ("step", "exp_avg", "exp_avg_sq"), "meta"
        )


# Old results


def test_a_finished_trial_is_returned_without_training(data, monkeypatch):
    trial, splits, watch = tiny_trial(), tiny_splits(), Watch()
    first = run(trial, splits, data)
    monkeypatch.setattr("fparec_pipeline.training.trial.commit", lambda: "another commit")
    assert run(trial, splits, data, observer=watch) == first
    assert watch.epochs == []


def test_retraining_keeps_the_old_result_until_the_new_one_is_finished(data):
    trial, splits = tiny_trial(), tiny_splits()
    folder = folder_of(trial, data)
    old = run(trial, splits, data)
    before = outcome(folder)

    def old_result_stands(epoch):
        assert read_record(folder) == old
        assert read_attempt(next_folder(folder)).attempt != old.attempt
        assert next_folder(folder).name == "seed=0.next"

    watch = Watch(old_result_stands)
    new = run(trial, splits, data, retrain=True, observer=watch)
    assert watch.epochs == [1, 2]
    assert new.attempt != old.attempt
    assert read_record(folder) == new
    assert read_attempt(folder).attempt == new.attempt
    assert outcome(folder) == before
    assert not next_folder(folder).exists()


def test_a_retraining_that_stops_loses_nothing_and_is_resumed(data, always_due):
    trial, splits = tiny_trial(max_epochs=4), tiny_splits()
    folder = folder_of(trial, data)
    old = run(trial, splits, data)
    with pytest.raises(Stopped):
        run(trial, splits, data, retrain=True, observer=stop_at(3))
    assert read_record(folder) == old
    watch = Watch()
    assert run(trial, splits, data, retrain=True, observer=watch).attempt != old.attempt
    assert watch.epochs == [3, 4]


def test_other_hyperparameters_or_data_are_trained_anew(data):
    splits = tiny_splits()
    records = [
        run(tiny_trial(), splits, data),
        run(tiny_trial(d=4), splits, data),
        run(tiny_trial(d=4), tiny_splits(seed=1), data),
    ]
    assert len({record.attempt for record in records}) == 3
    assert len({record.fingerprint for record in records}) == 3
    assert read_record(folder_of(tiny_trial(), data)) == records[-1]


def test_an_unfinished_attempt_at_other_hyperparameters_is_not_resumed(data, always_due):
    splits = tiny_splits()
    with pytest.raises(Stopped):
        run(tiny_trial(max_epochs=4), splits, data, observer=stop_at(3))
    watch = Watch()
    run(tiny_trial(max_epochs=4, learning_rate=2e-2), splits, data, observer=watch)
    assert watch.epochs == [1, 2, 3, 4]


@pytest.mark.parametrize("renames", range(5))
def test_a_swap_that_was_cut_off_is_completed_by_the_next_run(renames, data, monkeypatch):
    trial, splits = tiny_trial(d=4), tiny_splits()
    folder = folder_of(trial, data)
    run(tiny_trial(), splits, data)
    left, replace = [renames], Path.replace

    def cut_off(path, target):
        if path.parent == next_folder(folder) == Path(target).parent:
            return replace(path, target)  # a file of the new attempt is written
        if left[0] == 0:
            raise Stopped
        left[0] -= 1
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", cut_off)
        with pytest.raises(Stopped):
            run(trial, splits, data)
    finished = read_record(next_folder(folder), verify=False)
    watch = Watch()
    assert run(trial, splits, data, observer=watch) == finished
    assert watch.epochs == []
    assert read_record(folder) == finished
    assert not next_folder(folder).exists()


def test_a_trial_that_another_process_trains_is_refused(data, monkeypatch):
    monkeypatch.setattr("fparec_pipeline.training.record._PATIENCE", 0.0)
    folder = folder_of(tiny_trial(), data)
    script = (
        "import sys, time; from pathlib import Path;"
        "from fparec_pipeline.training.record import lock_trial\n"
        "with lock_trial(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(TrialLocked, match="seed=0"):
            run(tiny_trial(), tiny_splits(), data)
        process.stdin.close()
    run(tiny_trial(), tiny_splits(), data)


# Early stopping


def naive_stop(scores, *, min_epochs, patience):
    """The first epoch at which `patience` epochs brought nothing better, not below the floor."""
    best, best_epoch = -1.0, 0
    for epoch, score in enumerate(scores, start=1):
        if score > best:
            best, best_epoch = score, epoch
        if epoch >= min_epochs and epoch - best_epoch >= patience:
            return epoch, best_epoch
    return None


@pytest.mark.parametrize(("min_epochs", "patience"), [(1, 2), (1, 4), (14, 2)])
def test_training_stops_when_patience_is_out_but_not_below_the_floor(min_epochs, patience, data):
    trial = tiny_trial(learning_rate=0.1, min_epochs=min_epochs, patience=patience, max_epochs=60)
    record = run(trial, tiny_splits(), data)
    scores = history(folder_of(trial, data))["valid_ndcg_at_10"].to_list()
    stop = naive_stop(scores, min_epochs=min_epochs, patience=patience)
    assert (len(scores), record.best_epoch) == stop
    assert record.epochs == len(scores) < 60
    assert not record.hit_cap


def test_hit_cap_tells_the_cap_from_patience(tmp_path):
    splits, changes = tiny_splits(), {"learning_rate": 0.1, "patience": 3}

    def with_cap(cap):
        return read_record(
            train(tiny_trial(**changes, max_epochs=cap), splits, tmp_path / str(cap))
        )

    epochs = with_cap(60).epochs
    assert not with_cap(epochs).hit_cap  # out of patience at that very epoch
    assert with_cap(epochs - 1).hit_cap


def naive_rank(scores, target):
    return 1 + sum(scores[i] >= scores[target] for i in range(len(scores)) if i != target)


def test_weights_and_ranks_are_those_of_the_best_epoch(data):
    trial, splits = tiny_trial(learning_rate=0.1, max_epochs=12), tiny_splits()
    record = run(trial, splits, data)
    folder = folder_of(trial, data)
    scores = history(folder)["valid_ndcg_at_10"].to_list()
    assert record.best_epoch == 1 + scores.index(max(scores)) < 12

    ranks = pl.read_parquet(folder / RANKS)["valid"].to_list()
    gains = [1 / math.log2(1 + rank) if rank <= 10 else 0 for rank in ranks]
    assert sum(gains) / len(gains) == pytest.approx(max(scores), rel=1e-12)
    assert record.metrics["valid/ndcg_at_10"] == pytest.approx(max(scores), rel=1e-12)

    model = model_of(trial, splits, folder)
    for user in range(splits.n_users):
        items = splits.train_items[splits.train_offsets[user] : splits.train_offsets[user + 1]]
        inputs = torch.tensor(items[-trial.hyperparameters.n :].astype(np.int64))
        with torch.no_grad():
            hidden = model(inputs.unsqueeze(1))[-1, 0]
            logits = (model.item_embedding.weight[1:] @ hidden).tolist()
        assert ranks[user] == naive_rank(logits, int(splits.valid[user]) - 1)


# Leakage


def permuted(splits, part):
    values = np.random.default_rng(0).permutation(getattr(splits, part))
    assert (values != getattr(splits, part)).any()
    return rehashed(dataclasses.replace(splits, **{part: values}))


def test_test_items_have_no_part_in_training(tmp_path):
    trial, splits = tiny_trial(max_epochs=6), tiny_splits()
    found = outcome(train(trial, splits, tmp_path / "a"))
    other = outcome(train(trial, permuted(splits, "test"), tmp_path / "b"))
    assert other["weights"] == found["weights"]
    assert other["history"] == found["history"]
    assert other["metrics"] != found["metrics"]


def test_validation_items_decide_only_which_epoch_is_kept(tmp_path):
    trial, splits = tiny_trial(max_epochs=6), tiny_splits()
    found = outcome(train(trial, splits, tmp_path / "a"))["history"]
    other = outcome(train(trial, permuted(splits, "valid"), tmp_path / "b"))["history"]
    assert [row["loss"] for row in other] == [row["loss"] for row in found]
    assert [row["valid_ndcg_at_10"] for row in other] != [row["valid_ndcg_at_10"] for row in found]


# References and devices


@pytest.mark.parametrize("reference", REFERENCES)
def test_a_reference_has_a_folder_without_training_and_is_evaluated_once(reference, data):
    record = run_reference("tiny", reference, tiny_splits(), data)
    folder = data.trial("tiny", reference, 0)
    assert not record.trained
    assert record.hyperparameters == {}
    assert set(record.files) == {RANKS, LISTS}
    assert {path.name for path in folder.iterdir()} == {
        ".lock",
        ATTEMPT,
        RANKS,
        LISTS,
        "trial.json",
    }
    assert json.loads((folder / ATTEMPT).read_text())["attempt"] == record.attempt
    assert run_reference("tiny", reference, tiny_splits(), data) == record
    assert run_reference("tiny", reference, tiny_splits(seed=1), data).attempt != record.attempt


def test_a_device_that_is_not_there_is_an_error_that_names_those_that_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device() == choose_device("cpu") == "cpu"
    for device in ("cuda", "cuda:1", "mps", "abacus"):
        with pytest.raises(ValueError, match=f"'{device}' is not there; usable: auto, cpu$"):
            choose_device(device)


def test_cuda_is_taken_by_itself_and_mps_only_when_asked_for(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == "cpu"
    assert choose_device("mps") == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == "cuda"
    assert choose_device("cuda:1") == "cuda:1"
