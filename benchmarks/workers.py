"""The driver's side of the benchmark: environments of the peers, and workers that take turns.

Each peer lives in an environment of its own under `~/.cache/fparec_pipeline/bench` (or
`$FPAREC_BENCH`), because the peers' requirements conflict with ours and with one another's.
"""

import hashlib
import json
import os
import select
import subprocess
import sys
import uuid
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TORCH = "torch==2.13.0"  # one version for all; from PyPI it is the build that pip chooses
INSTALL_SECONDS = 1200
ANSWER_SECONDS = 180


class WorkerFailed(RuntimeError):
    """A worker cannot be had or has died; the message is the row's reason."""


@dataclass(frozen=True)
class Peer:
    """A library, how it is installed, and its worker."""

    title: str
    script: str
    requirements: tuple[str, ...]


RECTOOLS = ("RecTools[torch]==0.19.0", TORCH, "numpy==1.26.4", "pandas==2.2.3")
PEERS = {
    "recbole": Peer(
        "RecBole SASRec",
        "recbole_sasrec.py",
        ("recbole==1.2.1", TORCH, "numpy==1.26.4", "pandas==2.2.3", "setuptools<81"),
    ),
    "rectools": Peer("RecTools SASRec", "rectools_sasrec.py", RECTOOLS),
    "rectools_flat": Peer("RecTools FlatSASRecNet", "rectools_flat_sasrec.py", RECTOOLS),
    "plain": Peer("plain PyTorch SASRec", "plain_sasrec.py", (TORCH, "numpy==1.26.4")),
    "replay": Peer(
        "RePlay SASRec",
        "replay_sasrec.py",
        (
            "replay-rec==0.22.0",
            TORCH,
            "lightning==2.5.2",
            "pytorch-optimizer>=3.8,<4",
            "numpy==1.26.4",
            "pandas==2.2.3",
        ),
    ),
}


def environment(name: str) -> Path:
    """The python of a peer's environment, which is made at the first call.

    Raises:
        WorkerFailed: pip cannot install the peer, for instance without a network.
    """
    peer = PEERS[name]
    default = Path.home() / ".cache" / "fparec_pipeline" / "bench"
    mark = hashlib.sha256("\n".join(peer.requirements).encode()).hexdigest()[:8]
    library = name.partition("_")[0]  # its workers share an environment
    folder = Path(os.environ.get("FPAREC_BENCH", default)) / f"{library}-{mark}"
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if (folder / "installed").exists():
        return python
    venv.create(folder, with_pip=True, clear=True)
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        done = subprocess.run(  # noqa: S603
            [*command, *peer.requirements],
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise WorkerFailed(f"pip took longer than {INSTALL_SECONDS} s") from None
    if done.returncode:
        raise WorkerFailed(f"pip cannot install it: {_last_line(done.stderr)}")
    (folder / "installed").touch()
    return python


class Worker:
    """A process that trains on order and answers in JSON; see `peers/gate.py`."""

    def __init__(self, python: Path | str, script: str, *arguments: object, folder: Path) -> None:
        """Starts the process; `folder` is where it works and where its log is written."""
        self.log = folder / f"{Path(script).stem}-{uuid.uuid4().hex[:8]}.log"
        with self.log.open("w") as errors:
            self.process = subprocess.Popen(  # noqa: S603
                [str(python), str(HERE / "peers" / script), *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=folder,
            )
        self.facts: dict[str, Any] = {}

    def ready(self) -> None:
        """Wait until it is prepared. Raises `WorkerFailed`."""
        self.facts = self._answer()

    def order(self, order: str) -> dict[str, Any]:
        """The answer to one order. Raises `WorkerFailed`."""
        if self.process.stdin is None:
            raise AssertionError
        try:
            print(order, file=self.process.stdin, flush=True)
        except BrokenPipeError:
            raise WorkerFailed(self._reason("ended")) from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        output = self.process.stdout
        if output is None:
            raise AssertionError
        if not select.select([output], [], [], ANSWER_SECONDS)[0]:
            self.process.kill()
            raise WorkerFailed(f"no answer within {ANSWER_SECONDS} s")
        line = output.readline()
        if not line:
            raise WorkerFailed(self._reason("ended"))
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _reason(self, what: str) -> str:
        return f"the worker {what}: {_last_line(self.log.read_text(errors='replace'))}"

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


def own_worker(dataset: str, model: str, epochs: int, threads: int, folder: Path) -> Worker:
    """A worker of this project, in this environment."""
    return Worker(sys.executable, "own.py", dataset, model, epochs, threads, folder=folder)


def peer_worker(name: str, threads: int, folder: Path) -> Worker:
    """A peer's worker in its own environment. Raises `WorkerFailed`."""
    return Worker(environment(name), PEERS[name].script, folder, threads, folder=folder)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no message"
