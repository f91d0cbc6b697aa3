"""Ctrl-C and `kill` of `fparec run`, as a terminal and a script's background job have it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from data_roots import tiny_root
from processes import PATIENCE_S, wait_until
from servers import MAIN

from fparec_pipeline.training.record import is_locked, read_attempt


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("number", "at_start"),
    [
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGTERM, signal.default_int_handler),
        (signal.SIGTERM, signal.SIG_IGN),  # what `fparec run &` inherits in a script
    ],
    ids=["ctrl-c", "kill", "kill-in-background"],
)
def test_a_run_that_is_told_to_stop_stops_with_its_workers(tmp_path, number, at_start):
    data = tiny_root(tmp_path / "data", epochs=1_000_000)
    output, folder = tmp_path / "output", data.trial("tiny", "fparec", 0)
    command = ["run", "--datasets", "tiny", "--models", "fparec", "--seeds", "0", "--device", "cpu"]
    with output.open("w") as file:
        run = subprocess.Popen(
            [sys.executable, "-c", MAIN, *command],
            env=os.environ | {"FPAREC_DATA": str(data.root)},
            stdout=file,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, at_start),
        )
        try:
            wait_until(lambda: read_attempt(folder) is not None, "the trial has begun")
            workers = children(run.pid)
            assert workers and is_locked(folder)
            run.send_signal(number)
            assert run.wait(PATIENCE_S) == 130
        finally:
            run.kill()
    wait_until(lambda: not any(Path(f"/proc/{w}").exists() for w in workers), "workers have ended")
    assert not is_locked(folder)
    assert read_attempt(folder) is not None  # from which the next run goes on
    assert "Traceback" not in output.read_text()


def children(process: int) -> list[str]:
    return Path(f"/proc/{process}/task/{process}/children").read_text().split()


SERVES = """
import signal, sys, time
from fparec_pipeline.running.servers import interrupt_at_the_end
signal.signal(signal.SIGHUP, getattr(signal, sys.argv[1]))
interrupt_at_the_end()
try:
    print("ready", flush=True)
    sys.stdin.readline()
except KeyboardInterrupt:
    print("ends its servers")
else:
    print("goes on")
"""


@pytest.mark.parametrize(
    ("before", "said"), [("SIG_DFL", "ends its servers"), ("SIG_IGN", "goes on")]
)
def test_a_terminal_that_is_closed_ends_the_servers_unless_nohup_was_there(before, said):
    command = [sys.executable, "-c", SERVES, before]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGHUP)
        assert process.communicate("\n", PATIENCE_S)[0] == f"{said}\n"
