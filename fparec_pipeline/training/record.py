"""A trial's folder: what lies in it, how it is written, locked and read back.

Notable:
* `trial.json` is written last and atomically: its presence means that the trial is finished. It
  lists the sha256 of the files beside it.
* `trial.json`, `attempt.json` and the checkpoint hold a checksum of themselves, so that a bit that
  flipped is found before its number stands in a table. Records of before have none.
* A free lock on an unfinished folder is how an interrupted trial is known: the lock is an flock,
  which the kernel frees when its process dies, however it dies.
* Nothing here needs torch, so that whatever only reads trials starts fast.

Here belong the folder's files. What a trial computes belongs to `trial.py`, what is made of many
trials to `results/`.
"""

import datetime
import functools
import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
from filelock import Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open

from fparec_pipeline.config import TrialId
from fparec_pipeline.datasets.files import CHECKSUM, seal, write_atomically
from fparec_pipeline.datasets.locks import is_held, locked
from fparec_pipeline.paths import DataRoot

ATTEMPT = "attempt.json"
RECORD = "trial.json"
CHECKPOINT = "checkpoint.safetensors"
HISTORY = "history.parquet"
RANKS = "ranks.parquet"
LISTS = "lists.parquet"
WEIGHTS = "model.safetensors"
LOCK = ".lock"

# One row an epoch, in `history.parquet` and in a checkpoint's metadata alike.
HISTORY_SCHEMA = {
    "epoch": pl.Int64,
    "loss": pl.Float64,
    "valid_hr_at_10": pl.Float64,
    "valid_ndcg_at_10": pl.Float64,
    "seconds": pl.Float64,
    "targets_per_second": pl.Float64,
}

STATE_SEAL = "state_sha256"  # of the state in a checkpoint's metadata; older ones have none
NO_SEAL = "0" * 64  # stands in a checkpoint's metadata until its checksum is known
_SEAL_KEY = b'"sha256":"'
_PIECE_BYTES = 1 << 20

# A look at a lock (`is_locked`) holds it for an instant; whoever wants it waits that long.
_PATIENCE = 2.0  # seconds


class TrialCorrupt(RuntimeError):
    """A finished trial's folder whose files are missing, damaged or no trial's."""


class PublishedError(RuntimeError):
    """Published results whose files are missing, damaged or contradict one another."""


class TrialLocked(RuntimeError):
    """The trial is being trained by another process."""


class Resumed(BaseModel):
    """From where on a trial was trained by other code, versions, hardware, or in another stack."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int  # the first one; one more than there are, where only the ranks were left to do
    commit: str
    versions: dict[str, str]
    hardware: str
    stacked: int = 1

    @property
    def words(self) -> str:
        """For a reader: "from epoch 58: commit 58b3a7a, torch 2.13.0+cpu, a processor"."""
        made_by = [f"commit {self.commit}", versions_in_words(self.versions), self.hardware]
        stack = [f"a stack of {self.stacked}"] if self.stacked > 1 else []
        return f"from epoch {self.epoch}: {', '.join(made_by + stack)}"


class Attempt(BaseModel):
    """What is known when a trial starts: the content of `attempt.json`."""

    # An unknown key is damage: a bit may have flipped in the name of `checksum`, which is optional.
    model_config = ConfigDict(frozen=True, serialize_by_alias=True, extra="forbid")

    attempt: str  # uuid, hex
    dataset: str
    arm: str = Field(alias="model")  # the key on disk; an untrained reference has one too
    seed: int
    fingerprint: str
    arm_fingerprint: str  # without the seed: what the trials of one median share
    data_hash: str
    hyperparameters: dict[str, Any]  # {} for an untrained reference
    trained: bool
    training_version: int
    commit: str
    versions: dict[str, str]
    hardware: str
    device: str  # where it ended, or trains now
    stacked: int = 1  # how many seeds were trained as one batch of models
    block_parts: int = 1  # 2: memory ran out once, and blocks have half their size since
    started: str  # ISO 8601, UTC
    # Empty (then it does not stand in the file): all was made by what stands above.
    resumed: tuple[Resumed, ...] = Field((), exclude_if=lambda resumed: not resumed)
    published: bool = False  # imported from published results, not trained here
    checksum: str = ""  # the seal of the JSON file, set by `write_sealed`

    @property
    def id(self) -> TrialId:
        return TrialId(self.dataset, self.arm, self.seed)

    @property
    def resumed_words(self) -> str:
        """By what else it was trained, for a reader; "" if by nothing else."""
        return "; ".join(each.words for each in self.resumed)


class TrialRecord(Attempt):
    """What is known when a trial has ended: the content of `trial.json`."""

    finished: str  # ISO 8601, UTC
    seconds: float
    targets_per_second: float | None = None  # none for an untrained reference
    epochs: int = 0
    best_epoch: int = 0
    hit_cap: bool = False  # stopped by max_epochs, not by patience
    metrics: dict[str, float]  # "test/ndcg_at_10" and so on
    files: dict[str, str]  # name -> sha256


SealedT = TypeVar("SealedT", bound=Attempt)


@dataclass(frozen=True)
class TrialView:
    """A trial's folder as it stands: finished, running, or interrupted (neither)."""

    folder: Path
    attempt: dict[str, Any]  # the keys of `Attempt`
    history: pl.DataFrame  # HISTORY_SCHEMA; of an unfinished trial, up to its last checkpoint
    record: TrialRecord | None  # none while unfinished
    running: bool  # some process holds the lock


@dataclass(frozen=True)
class Progress:
    """One epoch's news of a trial that trains."""

    trial: TrialId
    epoch: int
    max_epochs: int
    best_epoch: int
    valid_ndcg_at_10: float | None  # None: of a refit, which has no validation
    targets_per_second: float

    @property
    def words(self) -> str:
        """The epoch and how good it is, shortly."""
        value = self.valid_ndcg_at_10
        return f"epoch {self.epoch}" + (f" NDCG@10 {value:.4f}" if value is not None else "")


def write_json(path: Path, content: BaseModel | dict[str, Any]) -> None:
    """`content` as indented JSON, atomically."""
    values = content.model_dump(mode="json") if isinstance(content, BaseModel) else content
    with write_atomically(path) as part:
        part.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_sealed(path: Path, content: SealedT) -> SealedT:
    """`content` with its checksum, written as JSON atomically; returns what was written."""
    checksum = seal(content.model_dump(mode="json"))
    sealed = content.model_copy(update={CHECKSUM: checksum})
    write_json(path, sealed)
    return sealed


def _sealed_fits(text: str) -> bool:
    """Whether the JSON's content is that of its checksum, where it has one."""
    content = json.loads(text)
    return not content.get(CHECKSUM) or seal(content) == content[CHECKSUM]


def text_seal(text: str) -> str:
    """The sha256 of a text in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def write_checkpoint_seal(path: Path) -> None:
    """Puts the file's checksum in the place of NO_SEAL in a safetensors file's metadata."""
    place = _header(path).index(_SEAL_KEY + NO_SEAL.encode()) + len(_SEAL_KEY)
    digest = sha256(path)
    with path.open("r+b") as file:
        file.seek(place)
        file.write(digest.encode())


def checkpoint_fits(path: Path) -> bool:
    """Whether the checkpoint's bytes are those of its checksum; False for a file without one.

    Reads it in pieces: it may be larger than what memory is left beside the trial.

    Raises:
        FileNotFoundError: there is no checkpoint.
    """
    header = _header(path)
    place = header.find(_SEAL_KEY) + len(_SEAL_KEY)
    end = place + len(NO_SEAL)
    digest = hashlib.sha256(header[:place] + NO_SEAL.encode() + header[end:])
    with path.open("rb") as file:
        file.seek(len(header))
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest().encode() == header[place:end]


def _header(path: Path) -> bytes:
    """What stands before the tensors of a safetensors file: its length and its JSON."""
    with path.open("rb") as file:
        length = file.read(8)
        # A length that is damaged may ask for more than there is.
        wanted = min(int.from_bytes(length, "little"), path.stat().st_size)
        return length + file.read(wanted)


def write_parquet(path: Path, frame: pl.DataFrame) -> None:
    """`frame` as parquet, atomically."""
    with write_atomically(path) as part:
        frame.write_parquet(part)


def now() -> str:
    """The time, ISO 8601 in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def sha256(path: Path) -> str:
    """The file's sha256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def lock_trial(folder: Path) -> Iterator[None]:
    """Holds the trial's lock; makes the folder when it is not there.

    Half-written files that a killed process left in the folder are swept away.

    Raises:
        TrialLocked: another process (or thread) holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / LOCK, _PATIENCE))
        except Timeout as error:
            raise TrialLocked(
                f"{folder} is being trained by another process. Wait for it, or end that process: "
                "the trial then resumes from its last checkpoint."
            ) from error
        for part in folder.glob(".*.part"):
            part.unlink()
        yield


def is_locked(folder: Path) -> bool:
    """Whether some process holds the trial's lock just now."""
    return is_held(folder / LOCK)


def read_record(folder: Path, *, verify: bool = True) -> TrialRecord | None:
    """The record of a finished trial, or None when the folder holds none.

    Args:
        folder: the trial's folder.
        verify: compare the files with the checksums in `trial.json` (reads all of them).

    Raises:
        TrialCorrupt: `trial.json` cannot be read, or a file that it lists is missing or changed.
    """
    try:
        text = (folder / RECORD).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise _corrupt(folder, f"{folder / RECORD} is no trial's record: {error}") from error
    try:
        record = TrialRecord.model_validate_json(text)
    except ValidationError as error:
        raise _corrupt(folder, f"{folder / RECORD} is no trial's record: {error}") from error
    if not _sealed_fits(text):
        raise _corrupt(folder, f"{folder / RECORD} is damaged: its checksum does not fit.")
    for name, expected in record.files.items() if verify else ():
        path = folder / name
        if not path.exists():
            raise _corrupt(folder, f"{path} is missing, though trial.json lists it.")
        if sha256(path) != expected:
            raise _corrupt(folder, f"{path} is not the file whose checksum trial.json holds.")
    return record


def view_trial(folder: Path) -> TrialView | None:
    """The trial's folder as it stands, or None when nothing was started in it.

    Raises:
        TrialCorrupt: a file of the folder cannot be read, or fails its checksum.
    """
    running = is_locked(folder)  # first: who finishes after this look is seen as finished below
    record = read_record(folder)
    if record:
        path = folder / HISTORY
        history = pl.read_parquet(path) if path.exists() else pl.DataFrame(schema=HISTORY_SCHEMA)
        attempt = record.model_dump(include=set(Attempt.model_fields))
    else:
        started = read_attempt(folder)
        if started is None:
            return None
        attempt = started.model_dump()
        history = checkpoint_history(folder)
    return TrialView(folder, attempt, history, record, running)


def trial_folders(data: DataRoot) -> list[Path]:
    """Every folder `<dataset>/<arm>/seed=<seed>` in which a trial was started, sorted."""
    found = (path.parent for path in data.trials.glob(f"*/*/seed=*/{ATTEMPT}"))
    return sorted(folder for folder in found if re.fullmatch(r"seed=\d+", folder.name))


def read_attempt(folder: Path) -> Attempt | None:
    """The attempt that was started in the folder, or None when none was.

    Raises:
        TrialCorrupt: `attempt.json` cannot be read.
    """
    try:
        text = (folder / ATTEMPT).read_text(encoding="utf-8")
        attempt = Attempt.model_validate_json(text)
    except FileNotFoundError:
        return None
    except (ValidationError, UnicodeDecodeError) as error:
        raise _corrupt(folder, f"{folder / ATTEMPT} is no attempt's record: {error}") from error
    if not _sealed_fits(text):
        raise _corrupt(folder, f"{folder / ATTEMPT} is damaged: its checksum does not fit.")
    return attempt


def checkpoint_history(folder: Path) -> pl.DataFrame:
    """The epochs that an unfinished trial's checkpoint knows; none where there is no checkpoint.

    Reads the header alone, which has a checksum of its own: the tensors may be gigabytes.

    Raises:
        TrialCorrupt: the checkpoint is damaged.
    """
    path = folder / CHECKPOINT
    try:
        with safe_open(path, framework="numpy") as checkpoint:
            metadata = checkpoint.metadata()
        state, expected = metadata["state"], metadata.get(STATE_SEAL)
        fits = text_seal(state) == expected if expected else checkpoint_fits(path)
        if not fits:
            raise _corrupt(folder, f"{path} is damaged: its checksum does not fit.")
        rows = json.loads(state)["history"]
    except FileNotFoundError:  # no checkpoint yet, or the trial ended just now
        rows = []
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise _corrupt(folder, f"{path} is no checkpoint: {error!r}") from error
    return pl.DataFrame(rows, schema=HISTORY_SCHEMA)


def _corrupt(folder: Path, problem: str) -> TrialCorrupt:
    is_trial = folder.name.startswith("seed=")  # a champion's folder has another name
    again = f"`{TrialId.of(folder).command}`" if is_trial else "the same command"
    return TrialCorrupt(
        f"{problem} Delete the folder {folder}, or bring back an intact copy of it; then {again} "
        "trains what is missing."
    )


@functools.cache
def commit() -> str:
    """The checkout's commit, with `-dirty` when tracked files are changed; else the version.

    A copy of a checkout without its history is told its commit by `FPAREC_COMMIT`.
    """
    if told := os.environ.get("FPAREC_COMMIT"):
        return told
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / ".git").exists():
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        try:
            answer = subprocess.run(  # noqa: S603
                command, cwd=checkout, capture_output=True, text=True, check=True
            )
            return answer.stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            pass  # no git here, or a checkout of another user: the version has to do
    return f"version {metadata.version('fparec_pipeline')}"


def versions() -> dict[str, str]:
    """The versions of what a trial's numbers depend on."""
    packages = ("fparec_pipeline", "torch", "numpy", "polars")
    return {"python": platform.python_version()} | {p: metadata.version(p) for p in packages}


def versions_in_words(versions: dict[str, str]) -> str:
    """ "python 3.11.7, torch 2.13.0+cpu" and so on."""
    return ", ".join(f"{package} {version}" for package, version in versions.items())


def hardware(device: str = "cpu") -> str:
    """The machine in words: processor, number of cores, and the GPU when `device` is one."""
    words = f"{_processor()}, {os.cpu_count()} cores"
    if device.startswith("cuda"):
        import torch

        words += f", {torch.cuda.get_device_name(device)}"
    return words


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    text = information.read_text() if information.exists() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1) if found else platform.processor() or platform.machine()
