"""What a run costs whose trial is finished already, as a click on Dagster's page asks for it.

The embedded MovieLens, one trial of one epoch; then RUNS runs of it, one after the other, through
the queue and the launcher. Prints one JSON object: seconds from a run's launch to its end, and
processor seconds of all processes, a run.

    python benchmarks/reused.py
"""

import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from engine import DATASET, MAIN, ONE_EPOCH, PR_SET_CHILD_SUBREAPER, processor_seconds

from fparec_pipeline.paths import DataRoot
from fparec_pipeline.running.context import open_context

RUNS = 5
# In a process of its own, so that all that it starts has ended when it has.
ASK = """
import sys
from fparec_pipeline.defs.requests import training_requests
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.running.context import open_context
from fparec_pipeline.running.queue import Queue, warm_up
from fparec_pipeline.running.submission import run_all
with open_context(DataRoot.default()) as context:
    warm_up(context)
    trials = context.config.trials([sys.argv[1]], ["fparec"], [0])
    (request, _), = training_requests(trials, context.config)
    with Queue(context) as queue:
        for end in run_all([request] * int(sys.argv[2]), context, queue, jobs=1):
            assert end.error is None, end.error
"""


def used(data: Path, code: str, *arguments: str) -> float:
    """Processor seconds of a Python process and of all that it starts."""
    before = processor_seconds()
    command = [sys.executable, "-c", code, *arguments]
    subprocess.run(command, env=os.environ | {"FPAREC_DATA": str(data)}, check=True)  # noqa: S603
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return processor_seconds() - before


def seconds_each(data: Path) -> list[float]:
    """From launch to end of each run of the trial after the first, which trained it."""
    with open_context(DataRoot(data)) as context:
        records = context.instance.get_run_records()
        stats = [context.instance.get_run_stats(record.dagster_run.run_id) for record in records]
        trained = [record.dagster_run.job_name == "train_benchmark" for record in records]
    found = [s for s, is_training in zip(stats, trained, strict=True) if is_training]
    return [float(s.end_time or 0) - float(s.launch_time or 0) for s in found[:RUNS]]


def main() -> None:
    """Measure and print."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        (data / "models.toml").write_text(ONE_EPOCH)
        options = ["--datasets", DATASET, "--models", "fparec", "--seeds", "0"]
        used(data, MAIN, "run", *options)
        none, some = (used(data, ASK, DATASET, str(runs)) for runs in (0, RUNS))
        answer = {
            "runs": RUNS,
            "seconds_each": round(statistics.median(seconds_each(data)), 2),
            "processor_seconds_each": round((some - none) / RUNS, 2),
        }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
