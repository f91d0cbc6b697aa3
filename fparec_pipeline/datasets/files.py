"""Checksums, seals and atomic writes, and the errors of the datasets layer.

Here belongs what any file of the data root needs. What a file holds belongs to whoever writes it.
"""

import errno
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
from safetensors import SafetensorError

CHECKSUM = "checksum"  # the key of a JSON file under which its seal stands


class DatasetError(RuntimeError):
    """A dataset cannot be had, read or used; the message says which and what to do next."""


class CannotWrite(OSError):
    """A file cannot be written, for a full disk most often; the message names it."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turns what goes wrong while `path` is written into a `CannotWrite` that names it.

    What reads as well as writes must not stand inside: its errors would be blamed on `path`.
    """
    try:
        yield
    except CannotWrite:
        raise
    except (OSError, SafetensorError, pl.exceptions.PolarsError) as error:
        raise CannotWrite(
            f"{path} cannot be written: {error}. What was there before is as it was. Free some "
            "space, or see who may write there, and run the same command again."
        ) from error


def disk_is_full(error: Exception) -> bool:
    """Whether the error, of Python or of Polars, says that nothing more can be written."""
    found = re.search(r"os error (\d+)", str(error))
    number = int(found.group(1)) if found else getattr(error, "errno", None)
    return number in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


def seal(content: dict[str, Any]) -> str:
    """The sha256 in hex of a JSON object's content, its own seal left out."""
    plain = {key: value for key, value in content.items() if key != CHECKSUM}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def digest(path: Path, algorithm: str = "sha256") -> str:
    """The file's checksum in hex; `algorithm` is a name that hashlib knows."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


@contextmanager
def atomic(target: Path) -> Iterator[Path]:
    """A temporary path beside `target` that is moved onto it when the block ends well.

    After a crash at any moment `target` holds the old content or the new, never a part of it; on an
    exception it stays as it was and the temporary file is removed. The file's mode is what the
    process's umask makes of it, whatever was copied.
    """
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    with naming(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
    try:
        yield temporary
        with naming(target):
            temporary.chmod(mode)  # safetensors replaces the file by one that only we may read
            _sync(temporary)
            temporary.replace(target)
            _sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """`atomic` for a block that only writes: whatever goes wrong in it is a `CannotWrite`."""
    path.parent.mkdir(parents=True, exist_ok=True)  # where that fails, space is not what is missing
    with naming(path), atomic(path) as part:
        yield part
