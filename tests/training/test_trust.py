"""What a trial's numbers may depend on: no held-out item, no other user, no other process."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import PACKAGED, rehashed, tiny_splits, tiny_trial

from fparec_pipeline.models.network import Recommender
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training.evaluation import EvaluationSet, network_scorer
from fparec_pipeline.training.record import CHECKPOINT, WEIGHTS
from fparec_pipeline.training.trial import Silent, run_trial

ARMS = sorted(set(PACKAGED.arms) - set(PACKAGED.variants))


# Leakage


class Weights(Silent):
    """Keeps the weights of every epoch, as bytes."""

    def __init__(self):
        self.epochs = []

    def on_checkpoint(self, folder):
        if (folder / CHECKPOINT).exists():
            tensors = load_file(folder / CHECKPOINT)
            self.epochs.append(
                {n: t.numpy().tobytes() for n, t in tensors.items() if n.startswith("model.")}
            )


def weights_of_every_epoch(trial, splits, path):
    watch = Weights()
    record = run_trial(trial, splits, DataRoot(path), device="cpu", observer=watch)
    assert len(watch.epochs) == trial.hyperparameters.max_epochs == record.epochs
    return watch.epochs, record


@pytest.mark.parametrize("part", ["test", "valid"])
@pytest.mark.parametrize("model", ["fparec", "sasrec", "sasrec_bce"])
def test_permuted_held_out_items_leave_the_weights_of_every_epoch(
    model, part, tmp_path, monkeypatch
):
    monkeypatch.setattr("fparec_pipeline.training.trial.checkpoint_interval", lambda s: -1.0)
    trial, splits = tiny_trial(model, max_epochs=5, dropout=0.5), tiny_splits()
    items = np.random.default_rng(0).permutation(getattr(splits, part))
    assert (items != getattr(splits, part)).any()
    permuted = rehashed(dataclasses.replace(splits, **{part: items}))
    found, record = weights_of_every_epoch(trial, splits, tmp_path / "a")
    other, permuted_record = weights_of_every_epoch(trial, permuted, tmp_path / "b")
    assert other == found
    assert permuted_record.metrics != record.metrics
    if part == "test":
        assert permuted_record.best_epoch == record.best_epoch


@pytest.mark.parametrize("part", ["valid", "test"])
@pytest.mark.parametrize("model", ARMS)
def test_a_users_scores_do_not_depend_on_who_else_is_in_the_batch(model, part):
    splits = tiny_splits(longest=30)
    torch.manual_seed(0)
    network = Recommender(tiny_trial(model, blocks=2, n=12).hyperparameters, splits.n_items).eval()
    users, score = EvaluationSet(splits, part, 12), network_scorer(network)
    with torch.no_grad():
        together = torch.cat([rows.clone() for rows in score(users.inputs(slice(0, len(users))))])
        alone = torch.cat(
            [next(score(users.inputs(slice(u, u + 1)))).clone() for u in range(len(users))]
        )
    assert len(set(users.lengths.tolist())) > 3  # so that the batch is padded
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


# Determinism

SIZES = {"n": 20, "d": 64, "batch_size": 60, "dropout": 0.5, "max_epochs": 1}
USERS = {"n_users": 120, "n_items": 600, "shortest": 10, "longest": 30}

TRAIN = """
import sys
sys.path.insert(0, sys.argv[4])
from pathlib import Path
from tiny import tiny_splits, tiny_trial
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training.trial import run_trial
sizes, users = eval(sys.argv[2]), eval(sys.argv[3])
run_trial(tiny_trial(threads=2, **sizes), tiny_splits(**users), DataRoot(Path(sys.argv[1])),
          device="cpu")
"""

BURN = "print('burning', flush=True)\nwhile True: sum(range(100_000))\n"


def trained_elsewhere(path):
    tests = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", TRAIN, str(path), repr(SIZES), repr(USERS), tests]
    subprocess.run(command, check=True)
    folder = DataRoot(path).trial("tiny", "fparec", 0)
    return (folder / WEIGHTS).read_bytes(), json.loads((folder / "trial.json").read_text())


def test_two_processes_give_equal_bits_also_beside_one_that_takes_a_core(tmp_path):
    weights, record = trained_elsewhere(tmp_path / "a")
    command = [sys.executable, "-c", BURN]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as burner:
        assert burner.stdout.readline() == b"burning\n"
        other_weights, other_record = trained_elsewhere(tmp_path / "b")
        assert burner.poll() is None
        burner.kill()
    assert other_weights == weights
    assert other_record["metrics"] == record["metrics"]
    assert other_record["attempt"] != record["attempt"]


class Step(Silent):
    """Keeps the tensors of the checkpoint; Adam's first moment is then a tenth of the gradient."""

    def on_checkpoint(self, folder):
        if (folder / CHECKPOINT).exists():
            self.tensors = load_file(folder / CHECKPOINT)


def test_one_step_with_other_thread_counts_agrees(tmp_path, monkeypatch):
    monkeypatch.setattr("fparec_pipeline.training.trial.checkpoint_interval", lambda s: -1.0)
    splits, steps = tiny_splits(**USERS), []
    for threads in (1, 2):
        trial = tiny_trial(threads=threads, **SIZES | {"batch_size": len(splits.valid)})
        steps.append(Step())
        run_trial(
            trial, splits, DataRoot(tmp_path / str(threads)), device="cpu", observer=steps[-1]
        )
        assert torch.get_num_threads() == threads
    one, two = (step.tensors for step in steps)
    for name in one:
        if name.startswith("model."):
            moment = one[name.replace("model.", "exp_avg.")]
            torch.testing.assert_close(
                two[name.replace("model.", "exp_avg.")], moment, rtol=0, atol=1e-6
            )
            # Adam divides a gradient by its own size, one that is mere rounding too.
            felt = moment.abs() > 1e-6
            torch.testing.assert_close(two[name][felt], one[name][felt], rtol=0, atol=1e-5)
