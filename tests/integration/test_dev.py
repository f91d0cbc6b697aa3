"""`fparec dev`: both pages answer, and one Ctrl-C ends everything."""

import socket
import subprocess
from pathlib import Path

import pytest
from data_roots import tiny_root
from processes import wait_until
from servers import answers, free_ports, is_open, served

from fparec_pipeline.running.servers import PortTaken, serve


@pytest.mark.timeout(600)
def test_both_pages_answer_until_one_interrupt_ends_both(tmp_path):
    data = tiny_root(tmp_path / "data")
    with served(data.root) as pages:
        assert answers(pages.mlflow, "MLflow")
        log = data.root / "dev.log"
        wait_until(lambda: f"Dagster: {pages.dagster}" in log.read_text(), "the addresses are told")
        # Who listens on every interface of the machine answers there too.
        assert not any(is_open(port, "127.0.0.2") for port in pages.ports)
    wait_until(lambda: not any(map(is_open, pages.ports)), "both ports are free again")
    assert processes_of(data.root) == []


def processes_of(root: Path) -> list[str]:
    """Command lines of running processes that name the data root."""
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    return [line for line in listing.stdout.splitlines() if str(root) in line]


def test_a_taken_port_is_one_line_before_anything_starts(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        data = tiny_root(tmp_path / "data")
        with pytest.raises(PortTaken, match="choose another port with --mlflow-port"):
            serve(data, free_ports(1)[0], taken.getsockname()[1])
    assert not data.mlflow.exists()
