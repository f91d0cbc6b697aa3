"""Other processes, which do harm or suffer it, and waiting for what they do."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

TESTS = Path(__file__).parent
PATIENCE_S = 180.0  # for what takes seconds on an idle machine


def python(script: str, *arguments: object, **options) -> subprocess.Popen:
    """A Python process that runs `script`, which may import the helpers in tests/."""
    start = f"import sys; sys.path[:0] = [{str(TESTS)!r}, {str(TESTS / 'faults')!r}]\n"
    command = [sys.executable, "-c", start + script, *map(str, arguments)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **pipes | options)


def said(process: subprocess.Popen, expected: str) -> None:
    """Waits for the line that the process prints next, which is the expected one."""
    line = process.stdout.readline().strip()
    assert line == expected, line


def wait_until(condition: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    last = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < last, f"waited in vain: {what}"
        time.sleep(0.05)


def with_small_disk(script: str, limit: int, *arguments: object) -> str:
    """What a process prints that may write no file of more than `limit` bytes.

    The kernel refuses the write, as on a full disk. The script's errors are printed.
    """
    start = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
    body = "".join(f"    {line}\n" for line in script.strip().splitlines())
    end = "except Exception as error:\n    print(type(error).__name__, str(error))\n"
    process = python(start + "try:\n" + body + end, *arguments)
    return process.communicate()[0]
