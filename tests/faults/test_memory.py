"""Memory that runs out: a process's address space, which makes PyTorch's allocator fail on a CPU.

The same handler takes CUDA's own error; nobody has seen that one happen.
"""

import polars as pl
import pytest
from processes import python
from tiny import tiny_splits, tiny_trial

from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training.record import HISTORY, read_attempt, read_record
from fparec_pipeline.training.trial import run_trial

# A batch of scores takes one block of 384 MB, or two of 192 MB after the halving.
ITEMS, BLOCK_MB = 20_000, 384
TRIAL = {"n": 50, "batch_size": 256, "max_epochs": 4}
SPLITS = {"n_users": 256, "n_items": ITEMS, "shortest": 40, "longest": 40}

# From the second epoch to the last the process may take only so many megabytes more.
TRAIN = """
import logging, resource
from pathlib import Path
from tiny import tiny_splits, tiny_trial
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training import blocks, matmul, trial

def limit(soft):
    resource.setrlimit(resource.RLIMIT_AS, (soft, resource.RLIM_INFINITY))

class Limiting(trial.Silent):
    def on_epoch(self, progress):
        print("epoch", progress.epoch)
        if progress.epoch == 2:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit(pages * resource.getpagesize() + (int(sys.argv[4]) << 20))
        if progress.epoch == progress.max_epochs:
            limit(resource.RLIM_INFINITY)

logging.basicConfig(stream=sys.stdout, format="%(message)s")
matmul.PREFERS_ONEDNN = False  # which takes another block for itself
blocks.BLOCK_BYTES = int(sys.argv[5]) << 20
trial.checkpoint_interval = lambda seconds: -1.0
splits, changes = tiny_splits(**eval(sys.argv[2])), eval(sys.argv[3])
try:
    trial.run_trial(tiny_trial(**changes), splits, DataRoot(Path(sys.argv[1])), device="cpu",
                    observer=Limiting())
except trial.OutOfMemory as error:
    print("failed:", error)
"""
RAN_OUT = "tiny/fparec/seed=0, epoch 3: memory ran out ("


def train(data: DataRoot, spare_mb: int) -> list[str]:
    with python(TRAIN, data.root, SPLITS, TRIAL, spare_mb, BLOCK_MB) as process:
        printed, _ = process.communicate()
    assert process.returncode == 0
    return printed.splitlines()


def losses(data: DataRoot) -> list[float]:
    return pl.read_parquet(data.trial("tiny", "fparec", 0) / HISTORY)["loss"].to_list()


@pytest.mark.slow_fault
@pytest.mark.fault("memory")
def test_memory_that_runs_out_once_halves_the_blocks_and_the_record_says_so(tmp_path):
    data = DataRoot(tmp_path)
    *epochs, warning, third, fourth = train(data, BLOCK_MB * 3 // 4)
    assert [*epochs, third, fourth] == [f"epoch {epoch}" for epoch in (1, 2, 3, 4)]
    assert warning.startswith(RAN_OUT), warning
    assert warning.endswith("It resumes from its last checkpoint in half blocks.")
    record = read_record(data.trial("tiny", "fparec", 0))
    assert (record.block_parts, record.epochs) == (2, 4)
    undisturbed = run_trial(
        tiny_trial(**TRIAL), tiny_splits(**SPLITS), DataRoot(tmp_path / "undisturbed"), device="cpu"
    )
    assert undisturbed.block_parts == 1
    assert losses(data) == pytest.approx(losses(DataRoot(tmp_path / "undisturbed")), rel=1e-4)


@pytest.mark.slow_fault
@pytest.mark.fault("memory")
def test_memory_that_runs_out_again_fails_the_trial_by_name(tmp_path, harm):
    data = DataRoot(tmp_path)
    *epochs, warning, failure = train(data, BLOCK_MB // 4)
    harm(2)
    assert epochs == ["epoch 1", "epoch 2"]
    assert warning.startswith(RAN_OUT), warning
    assert failure.startswith(f"failed: {RAN_OUT}"), failure
    assert "smaller batch_size than 256" in failure
    folder = data.trial("tiny", "fparec", 0)
    assert read_record(folder) is None
    assert read_attempt(folder).block_parts == 2
