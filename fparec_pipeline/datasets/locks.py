"""Locks that the kernel frees when their process dies, however it dies.

Here belongs how a file is locked; what a lock stands for is said where it is taken. There is no
fall-back to a lock that is a mere file: a killed process would leave it for ever.
"""

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

MISSING = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


class NoFlock(OSError):
    """The file system has no flock."""


@contextmanager
def locked(path: Path, timeout: float = -1) -> Iterator[None]:
    """Hold the flock of a file, which is made when it is not there and stays.

    Args:
        path: the file.
        timeout: seconds to wait for another process; for ever by default.

    Raises:
        filelock.Timeout: another process holds it.
        NoFlock: the file system cannot lock files.
    """
    lock = FileLock(path, timeout=timeout, fallback_to_soft=False)
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in MISSING:
            raise
        raise NoFlock(
            f"{path} cannot be locked: its file system has no flock. Put the data root "
            "($FPAREC_DATA) on a local disk or on a shared file system with flock, such as NFS "
            "version 4 or Lustre mounted with `flock`."
        ) from error
    try:
        yield
    finally:
        lock.release()


def is_held(path: Path) -> bool:
    """Whether some process holds the file's flock; a file that is not there is held by none.

    Whoever may read the file may ask.
    """
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
