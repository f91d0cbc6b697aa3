"""The worker's side of the benchmark: a library's own training loop, run a few batches at a time.

Notable:
* Standard library only, since it runs in every peer's environment.
* The loop calls `Gate.batch` after each batch. When the ordered number is done, the gate answers
  one JSON line and blocks until the next order, so that the driver can let workers take turns.
* Orders are lines on standard input: `train <batches>`, `evaluate`, `memory`, `finish` (let the
  loop come to its end), `quit`. What the libraries print goes to standard error.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

MIB = 1 << 20
# What Lightning's trainers are told in every worker.
LIGHTNING: dict[str, Any] = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Gate:
    """Make one at the very start of a worker, before anything is imported that prints."""

    def __init__(self) -> None:
        self.answers: TextIO = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self.evaluate: Callable[[], dict[str, Any]] | None = None
        self.resident_at_start = 0
        self._left, self._targets, self._started = 0, 0, 0.0
        self._own_seconds = 0.0
        self._losses: list[tuple[int, Any]] = []

    def imported(self) -> None:
        """Everything is imported: memory is counted from here."""
        self.resident_at_start = _status("VmRSS") or _peak_of_usage()
        reset = Path("/proc/self/clear_refs")
        if reset.exists():
            reset.write_text("5")  # sets the peak back to what is resident now

    def ready(self, **facts: Any) -> None:
        """Prepared; answers the facts and waits for the first order to train."""
        self._answer(**facts)
        self._wait()

    def batch(self, targets: int, loss: Any = None, seconds: float = 0.0) -> None:
        """A batch is done.

        Args:
            targets: how many positions had a target.
            loss: its mean over the targets, a number or a scalar tensor; None where not known yet.
            seconds: what the loop itself measured, to be taken instead of the gate's clock.
        """
        self._targets += targets
        self._own_seconds += seconds
        if loss is not None:
            self._losses.append((targets, loss))
        self._left -= 1
        if self._left == 0:
            self._answer_training(self._own_seconds or time.perf_counter() - self._started)
            self._wait()

    def finished(self, **facts: Any) -> None:
        """The loop came to its end after the order `finish`."""
        self._answer(**facts)
        self._wait()

    def _answer_training(self, seconds: float) -> None:
        total = sum(targets * float(loss) for targets, loss in self._losses)
        loss = total / self._targets if self._losses else None
        self._answer(targets=self._targets, seconds=seconds, loss=loss)

    def _wait(self) -> None:
        """Carry out orders until one says to train on."""
        for line in sys.stdin:
            order, *arguments = line.split()
            if order == "train":
                self._left, self._targets, self._losses = int(arguments[0]), 0, []
                self._own_seconds, self._started = 0.0, time.perf_counter()
                return
            if order == "finish":
                return
            if order == "evaluate" and self.evaluate:
                self._answer(**self.evaluate())
            elif order == "memory":
                peak = _status("VmHWM") or _peak_of_usage()
                self._answer(
                    peak_mib=peak / MIB, above_imports_mib=(peak - self.resident_at_start) / MIB
                )
            else:
                break
        os._exit(0)  # no library's clean-up, nor the rest of its epoch

    def _answer(self, **values: Any) -> None:
        print(json.dumps(values), file=self.answers, flush=True)


def _status(key: str) -> int:
    """A memory figure of this process on Linux, in bytes; 0 elsewhere."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    return 0


def _peak_of_usage() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
