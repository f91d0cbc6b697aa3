"""Locks: freed with their process, and never a mere file."""

import fcntl

import pytest
from filelock import Timeout
from processes import python, said

from fparec_pipeline.datasets.locks import NoFlock, is_held, locked

HOLD = """
from pathlib import Path
from fparec_pipeline.datasets.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_lock_is_held_until_its_process_is_killed(tmp_path):
    path = tmp_path / "lock"
    assert not is_held(path)
    with python(HOLD, path) as process:
        said(process, "held")
        assert is_held(path)
        with pytest.raises(Timeout), locked(path, timeout=0):
            pass
        process.kill()
    assert not is_held(path)
    with locked(path, timeout=0):
        assert is_held(path)


def test_a_file_system_without_flock_is_named_and_no_file_stands_for_the_lock(
    tmp_path, monkeypatch
):
    def missing(*arguments):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", missing)
    path = tmp_path / "lock"
    with pytest.raises(NoFlock, match="has no flock") as error, locked(path, timeout=0):
        pass
    assert str(path) in str(error.value)
