"""`fparec dev`: both pages answer, and one Ctrl-C ends everything."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from data_roots import tiny_root

COMMAND = Path(sys.executable).with_name("fparec")
PATIENCE_S = 180.0  # MLflow's server alone may take a minute on two busy cores


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def answers(port: int, path: str, expected: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return expected in response.read().decode()
    except (urllib.error.URLError, OSError):
        return False


def is_open(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket() as client:
        return client.connect_ex((host, port)) == 0


def wait_until(condition: Callable[[], bool], what: str) -> None:
    last = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < last, f"waited in vain: {what}"
        time.sleep(0.2)


@pytest.mark.timeout(600)
def test_both_pages_answer_until_one_interrupt_ends_both(tmp_path):
    data = tiny_root(tmp_path / "data")
    dagster, mlflow = free_ports(2)
    with (tmp_path / "output").open("w") as output:
        command = [COMMAND, "dev", "--dagster-port", str(dagster), "--mlflow-port", str(mlflow)]
        server = subprocess.Popen(
            command,
            env=os.environ | {"FPAREC_DATA": str(data.root)},
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=heed_interrupts,
        )
        try:
            pages = [(dagster, "/server_info", "dagster_version"), (mlflow, "/health", "OK")]
            for page in pages:
                wait_until(lambda p=page: server.poll() is not None or answers(*p), str(page))
            assert server.poll() is None, (tmp_path / "output").read_text()
            assert answers(mlflow, "/", "MLflow")
            # Who listens on every interface of the machine answers there too.
            assert not is_open(dagster, "127.0.0.2") and not is_open(mlflow, "127.0.0.2")
        finally:
            server.send_signal(signal.SIGINT)
            status = server.wait(PATIENCE_S)
    assert status == 0, (tmp_path / "output").read_text()
    wait_until(lambda: not is_open(dagster) and not is_open(mlflow), "both ports are free again")
    assert processes_of(data.root) == []


def heed_interrupts() -> None:
    """What starts the tests in the background may have them ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def processes_of(root: Path) -> list[str]:
    """Command lines of running processes that name the data root."""
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    return [line for line in listing.stdout.splitlines() if str(root) in line]
