"""Which GPU a run sees; no GPU is needed to show it."""

import pytest
from processes import python, said

from fparec_pipeline.defs import gpus
from fparec_pipeline.defs.gpus import VISIBLE, own_gpu

HOLD = """
import os
from fparec_pipeline.defs.gpus import VISIBLE, own_gpu
with own_gpu():
    print(os.environ[VISIBLE], flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """One whose locks lie in a folder of the test's own."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv(VISIBLE, "4,7")


def test_runs_at_the_same_time_see_a_gpu_each_and_a_killed_one_frees_its_own():
    with python(HOLD) as first, python(HOLD) as second:
        seen = {process.stdout.readline().strip(): process for process in (first, second)}
        assert set(seen) == {"4", "7"}
        with own_gpu() as third:
            assert third in ("4", "7")  # all are taken: one is shared
        seen["7"].kill()
        seen["7"].wait()
        with python(HOLD) as next_one:
            said(next_one, "7")
            next_one.kill()
        seen["4"].kill()


def test_the_environment_comes_back(monkeypatch):
    import os

    with own_gpu() as gpu:
        assert os.environ[VISIBLE] == gpu == "4"
    assert os.environ[VISIBLE] == "4,7"


def test_gpus_that_nobody_named_are_those_of_the_driver(tmp_path, monkeypatch):
    monkeypatch.delenv(VISIBLE)
    monkeypatch.setattr(gpus, "DRIVER", tmp_path / "gpus")
    with own_gpu() as gpu:
        assert gpu is None
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / "gpus" / name).mkdir(parents=True)
    with own_gpu() as gpu:
        assert gpu == "0"


def test_one_gpu_is_left_as_it_is(monkeypatch):
    monkeypatch.setenv(VISIBLE, "3")
    with own_gpu() as gpu:
        assert gpu is None
