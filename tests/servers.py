"""`fparec dev` in a process of its own, and whether something answers."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processes import PATIENCE_S, wait_until

MAIN = "from fparec_pipeline.cli import main; main()"


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def answers(url: str, expected: str = "") -> bool:
    """Whether the address answers, with the expected text in what it says."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310
            return expected in response.read().decode()
    except OSError:
        return False


def graphql(dagster: str, query: str, **variables: Any) -> dict[str, Any]:
    """What Dagster's page is answered when it asks its server."""
    body = json.dumps({"query": query, "variables": variables}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{dagster}/graphql", body, headers)  # noqa: S310
    with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
        (answer,) = json.load(response)["data"].values()
    return answer


def is_open(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket() as client:
        return client.connect_ex((host, port)) == 0


@dataclass(frozen=True)
class Served:
    """`fparec dev` while it serves: the addresses of both pages, and their ports."""

    dagster: str
    mlflow: str
    ports: tuple[int, int]


@contextmanager
def served(root: Path) -> Iterator[Served]:
    """Both pages of a data root, until one interrupt ends both; what they print is in dev.log."""
    ports = dagster, mlflow = free_ports(2)
    options = ["--dagster-port", str(dagster), "--mlflow-port", str(mlflow)]
    pages = Served(f"http://127.0.0.1:{dagster}", f"http://127.0.0.1:{mlflow}", tuple(ports))
    log = root / "dev.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-c", MAIN, "dev", *options],
            env=os.environ | {"FPAREC_DATA": str(root)},
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=_heed_interrupts,
        )
        try:
            for page, text in (
                (f"{pages.dagster}/server_info", "dagster_version"),
                (f"{pages.mlflow}/health", "OK"),
            ):
                wait_until(lambda p=page, t=text: server.poll() is not None or answers(p, t), page)
            assert server.poll() is None, log.read_text()
            yield pages
        finally:
            server.send_signal(signal.SIGINT)
            status = server.wait(PATIENCE_S)
    assert status == 0, log.read_text()


def _heed_interrupts() -> None:
    """What starts the tests in the background may have them ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
