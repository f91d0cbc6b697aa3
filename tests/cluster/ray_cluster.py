"""A Ray cluster on loopback, a head and two nodes, each of processes of its own."""

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml
from processes import wait_until
from servers import answers, free_ports

EXAMPLE = Path(__file__).parents[2] / "examples" / "ray" / "dagster.yaml"
RAY = str(Path(sys.executable).with_name("ray"))
HOST = "127.0.0.1"
WORKERS = 2


@dataclass(frozen=True)
class Cluster:
    """Its dashboard's address, and the processes that were started as nodes, the head first."""

    address: str
    nodes: list[subprocess.Popen]

    def raylet(self, node: int) -> psutil.Process:
        """The process that starts and ends what runs on the node."""
        children = psutil.Process(self.nodes[node].pid).children(recursive=True)
        return next(process for process in children if process.name() == "raylet")


@contextmanager
def ray_cluster() -> Iterator[Cluster]:
    """A head that trains nothing, and WORKERS nodes that do, each a run at a time."""
    port, dashboard = free_ports(2)
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    common = ["--node-ip-address", HOST, "--disable-usage-stats", "--block"]
    # Ray's sockets have long names below this folder, for which there are 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        head = ["--head", "--port", str(port), "--temp-dir", folder, "--dashboard-host", HOST]
        head += ["--dashboard-port", str(dashboard), "--num-cpus", "0"]
        nodes: list[subprocess.Popen] = []
        with (Path(folder) / "nodes.log").open("w") as log:

            def start(*options: str) -> None:
                command = [RAY, "start", *options, *common]
                nodes.append(
                    subprocess.Popen(
                        command, env=environment, stdout=log, stderr=log, start_new_session=True
                    )
                )

            try:
                start(*head)
                cluster = Cluster(f"http://{HOST}:{dashboard}", nodes)
                wait_until(lambda: answers(f"{cluster.address}/api/version"), "Ray's dashboard")
                for _ in range(WORKERS):  # one after the other: they choose ports by looking
                    start("--address", f"{HOST}:{port}", "--num-cpus", "1")
                    wait_until(
                        lambda: alive_nodes(cluster.address) == len(nodes), "another node is up"
                    )
                wait_until(lambda: takes_jobs(cluster.address), "an agent takes jobs")
                yield cluster
            finally:
                for node in nodes:
                    with suppress(psutil.NoSuchProcess):
                        for process in psutil.Process(node.pid).children(recursive=True):
                            with suppress(psutil.NoSuchProcess):
                                process.kill()
                    node.kill()
                    node.wait()


def takes_jobs(address: str) -> bool:
    from ray.job_submission import JobSubmissionClient

    try:
        JobSubmissionClient(address).submit_job(entrypoint="true")
    except RuntimeError:  # the nodes are there a while before their agents
        return False
    return True


def alive_nodes(address: str) -> int:
    with urllib.request.urlopen(f"{address}/nodes?view=summary", timeout=30) as answer:  # noqa: S310
        nodes = json.load(answer)["data"]["summary"]
    return sum(node["raylet"].get("state") == "ALIVE" for node in nodes)


def home_on(cluster: Cluster, folder: Path) -> dict[str, str]:
    """The environment of commands whose Dagster instance starts runs on the cluster.

    The instance's settings are the example's, but for its database, of which one machine needs no
    server, and the address.
    """
    settings = yaml.safe_load(EXAMPLE.read_text())
    del settings["storage"]
    launcher = settings["run_launcher"]["config"]["ray"]
    launcher["address"] = cluster.address
    launcher["env_vars"] = ["DAGSTER_HOME", "FPAREC_DATA", "PYTHONPATH"]
    folder.mkdir()
    (folder / "dagster.yaml").write_text(yaml.safe_dump(settings))
    checkout = str(EXAMPLE.parents[2])
    return {"DAGSTER_HOME": str(folder), "PYTHONPATH": checkout}
