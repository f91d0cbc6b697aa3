"""Two processes that are asked for the same trial, as Dagster's page and the command may be."""

import pytest
from processes import PATIENCE_S, python, said

from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training.record import read_record

# Says each epoch that it trains and then its attempt, or why it has none.
TRAIN = """
from pathlib import Path
from tiny import tiny_splits, tiny_trial
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training import record
from fparec_pipeline.training.trial import Silent, run_trial

class Standing(Silent):
    def on_epoch(self, progress):
        print("epoch", progress.epoch, flush=True)
        if progress.epoch == int(sys.argv[2]):
            sys.stdin.readline()

record._PATIENCE = float(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
try:
    data = DataRoot(Path(sys.argv[1]))
    print(run_trial(tiny_trial(), tiny_splits(), data, device="cpu", observer=Standing()).attempt)
except record.TrialLocked as error:
    print(error)
"""
EPOCHS = ["epoch 1", "epoch 2"]


@pytest.mark.fault("same")
def test_while_one_trains_the_other_says_so(tmp_path):
    with python(TRAIN, tmp_path, 1, 0) as first, python(TRAIN, tmp_path, 0, 0) as second:
        said(first, "ready")
        first.stdin.write("\n")
        first.stdin.flush()
        said(first, "epoch 1")
        answer = second.communicate("\n")[0].splitlines()[1:]
        rest = first.communicate("\n")[0].splitlines()
    folder = DataRoot(tmp_path).trial("tiny", "fparec", 0)
    assert len(answer) == 1
    assert f"{folder} is being trained by another process. Wait for it" in answer[0]
    assert rest == ["epoch 2", read_record(folder).attempt]


@pytest.mark.fault("same")
def test_of_two_that_start_together_one_trains_and_the_other_has_its_result(tmp_path):
    pair = [python(TRAIN, tmp_path, 0, PATIENCE_S) for _ in range(2)]
    for process in pair:
        said(process, "ready")
    for process in pair:
        process.stdin.write("\n")
        process.stdin.flush()
    answers = sorted((process.communicate()[0].splitlines() for process in pair), key=len)
    attempt = read_record(DataRoot(tmp_path).trial("tiny", "fparec", 0)).attempt
    assert answers[1] == [*EPOCHS, attempt]
    assert answers[0] == [attempt]
