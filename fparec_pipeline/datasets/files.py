"""Checksums and atomic writes, and the errors of the datasets layer."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class DatasetError(RuntimeError):
    """A dataset cannot be had, read or used; the message says which and what to do next."""


def digest(path: Path, algorithm: str = "sha256") -> str:
    """The file's checksum in hex; `algorithm` is a name that hashlib knows."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


@contextmanager
def atomic(target: Path) -> Iterator[Path]:
    """A temporary path beside `target` that is moved onto it when the block ends well.

    On an exception `target` stays as it was and the temporary file is removed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)  # mkstemp's 0600 would keep a shared data root from being shared
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
