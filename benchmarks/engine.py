"""What starting trials as Dagster runs costs: `fparec run` on the embedded MovieLens, one epoch.

Several checkouts can be named, whose commands then take turns: that is how the queue was compared
with the pool of processes that it replaced. Prints one JSON object a checkout and turn.

    python benchmarks/engine.py [--turns 3] [--seeds 0,1,2] [CHECKOUT …]
"""

import argparse
import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
DATASET = "ml-latest-small"
ONE_EPOCH = "[defaults]\nmin_epochs = 1\nmax_epochs = 1\n"
MAIN = "from fparec_pipeline.cli import main; main()"
PR_SET_CHILD_SUBREAPER = 36  # of Linux: whose parents have ended become children of this process


def processor_seconds() -> float:
    """Of all processes that have been waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(checkout: Path, data: Path, seeds: str) -> dict[str, float]:
    """Seconds of one call of the command and of all processes that it starts."""
    environment = os.environ | {"FPAREC_DATA": str(data), "PYTHONPATH": str(checkout)}
    options = ["--datasets", DATASET, "--seeds", seeds, "--jobs", "2", "--device", "cpu"]
    before, started = processor_seconds(), time.perf_counter()
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", MAIN, "run", *options],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    while True:  # what the command has left to end by itself
        try:
            os.wait()
        except ChildProcessError:
            break
    used = processor_seconds() - before
    return {"seconds": round(seconds, 1), "processor_seconds": round(used, 1)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkouts", nargs="*", type=Path, default=[HERE])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seeds", default="0,1,2")
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for turn in range(options.turns):
        for checkout in options.checkouts:
            with tempfile.TemporaryDirectory() as folder:
                data = Path(folder)
                (data / "models.toml").write_text(ONE_EPOCH)
                trained = run(checkout.resolve(), data, options.seeds)
                again = run(checkout.resolve(), data, options.seeds)
            answer = {"checkout": str(checkout), "turn": turn, "train": trained, "again": again}
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
