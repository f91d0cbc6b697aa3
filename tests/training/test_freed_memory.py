"""Whether a process keeps what it frees: counted in pages that the system had to give, no clock."""

import json
import os
import subprocess
import sys

import pytest

from fparec_pipeline.training.memory import keep_freed_memory

CHILD = """
import json, resource, sys
import torch
from fparec_pipeline.training.memory import keep_freed_memory

taken = keep_freed_memory() if sys.argv[1] == "keep" else None

def step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(3 << 20) for _ in range(4)]  # 12 MiB each, as the loss has them
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(json.dumps([taken, [step() for _ in range(12)]]))
"""


def faults(how: str) -> tuple[bool | None, list[int]]:
    """What `keep_freed_memory` says in a process of its own, and the page faults of twelve steps.

    Left alone, glibc moves its thresholds as it goes, differently from run to run; fixed at
    their first values, it gives every large block back.
    """
    command = [sys.executable, "-c", CHILD, how]
    fixed = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(128 << 10)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=fixed)
    taken, steps = json.loads(done.stdout)
    return taken, steps


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_once_the_heap_has_grown_no_page_is_asked_for_again():
    taken, kept = faults("keep")
    if not taken:
        pytest.skip("the C library is not glibc")
    _, given_back = faults("as it is")
    assert max(kept[6:]) < 100  # before, aligned blocks may still find a gap too small
    assert min(given_back[6:]) > 1000  # four blocks of 3,072 pages


def test_where_there_is_no_mallopt_nothing_is_changed(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert keep_freed_memory() is False
