"""`fparec dev`: Dagster and an MLflow server side by side, ended by one Ctrl-C.

Here belongs how processes are started, watched and ended together. What the pages show does not.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

from fparec_pipeline.paths import DataRoot, dagster_home
from fparec_pipeline.running.context import open_instance
from fparec_pipeline.running.home import prepare_dagster_home
from fparec_pipeline.tracking import PAGE, Medians, Tracker

HOST = "127.0.0.1"
POLL_SECONDS = 0.5
GRACE_SECONDS = 30
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, kill, a terminal that is closed
SCRIPTS = Path(sys.executable).parent  # with `dagster`, `mlflow` and what these start by name


class PortTaken(OSError):
    """A port that a server was to listen on is in use."""


def require_free(port: int, option: str) -> None:
    """Raises `PortTaken`, naming the option that chooses another, where the port is in use."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise PortTaken(
                f"Port {port} of {HOST} is taken ({error.strerror}). End what listens there, or "
                f"choose another port with {option}."
            ) from error


def serve(
    data: DataRoot,
    dagster_port: int,
    mlflow_port: int,
    on_ready: Callable[[dict[str, str]], None] | None = None,
) -> int:
    """Run both servers until a signal or until one of them ends; returns the exit status.

    Args:
        data: the data root that they show.
        dagster_port: of Dagster's page.
        mlflow_port: of MLflow's page.
        on_ready: told once, when all answer: the name and the address of each.

    Raises:
        PortTaken: before anything is started.
    """
    tracker = Tracker(None, data)
    remote = tracker.uri.startswith(("http://", "https://"))  # it has a page of its own
    require_free(dagster_port, "--dagster-port")
    if not remote:
        require_free(mlflow_port, "--mlflow-port")
    tracker.initialise()
    home = str(dagster_home() or prepare_dagster_home(data))
    environment = with_scripts() | {"DAGSTER_HOME": home, "FPAREC_DATA": str(data.root)}
    environment["MLFLOW_BACKEND_STORE_URI"] = tracker.uri  # with its password: not for `ps`
    environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # eight processes of no use here
    os.environ[PAGE] = f"http://{HOST}:{mlflow_port}"
    environment[PAGE] = os.environ[PAGE]  # for the links that Dagster's runs record
    dagster = [str(SCRIPTS / "dagster"), "dev", "-h", HOST, "-p", str(dagster_port)]
    dagster += ["-m", "fparec_pipeline.definitions"]
    mlflow = [str(SCRIPTS / "mlflow"), "server", "--host", HOST, "--port", str(mlflow_port)]
    mlflow += ["--workers", "1"]
    commands = [dagster] if remote else [dagster, mlflow]
    interrupt_at_the_end()
    servers: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            # A session of its own: Ctrl-C reaches this process alone, which passes it on once.
            server = subprocess.Popen(command, env=environment, start_new_session=True)  # noqa: S603
            servers.append(server)
        waiting = {f"http://{HOST}:{dagster_port}/server_info"}
        if not remote:
            waiting.add(f"http://{HOST}:{mlflow_port}/health")
        while all(server.poll() is None for server in servers):
            if waiting:
                waiting = {address for address in waiting if not _answers(address)}
                if not waiting and on_ready:
                    on_ready({"Dagster": f"http://{HOST}:{dagster_port}"} | _leaderboards(tracker))
            time.sleep(POLL_SECONDS)
        return next(server.returncode or 1 for server in servers if server.poll() is not None)
    except KeyboardInterrupt:
        return 0
    finally:
        end(servers)
        with open_instance(data) as instance:  # the next command serves the queue at once
            instance.wipe_daemon_heartbeats()


def _leaderboards(tracker: Tracker) -> dict[str, str]:
    """The address of MLflow's page, and those of the leaderboards that it has."""
    medians = Medians(tracker)
    names = medians.datasets()
    start = {"MLflow": medians.url() if names else tracker.server}
    return start | {f"  {name}": medians.url(name) for name in names}


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2) as response:  # noqa: S310
            return response.status == 200  # type: ignore[no-any-return]
    except OSError:
        return False


def with_scripts() -> dict[str, str]:
    """This process's environment with the interpreter's programs first on PATH.

    Nobody need have activated the virtual environment: `mlflow models serve` has a shell look for
    `uvicorn`.
    """
    return os.environ | {"PATH": os.pathsep.join([str(SCRIPTS), os.environ.get("PATH", "")])}


def interrupt_at_the_end() -> None:
    """Whatever is to end this process raises KeyboardInterrupt, so that it ends its servers too."""
    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup does
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def end(servers: list[subprocess.Popen[bytes]]) -> None:
    """Interrupt the servers, and kill what is left of their sessions after GRACE_SECONDS."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave one behind
    for server in servers:
        if server.poll() is None:
            server.send_signal(signal.SIGINT)
    last = time.monotonic() + GRACE_SECONDS
    for server in servers:
        with suppress(subprocess.TimeoutExpired):
            server.wait(max(0.0, last - time.monotonic()))
        with suppress(ProcessLookupError):  # whatever of its session is left
            os.killpg(server.pid, signal.SIGKILL)
