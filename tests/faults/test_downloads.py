"""Servers that misbehave, and a disk that is full while a file comes."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from bad_server import GOOD
from processes import with_small_disk

from fparec_pipeline.config import Dataset, source_of
from fparec_pipeline.datasets import sources
from fparec_pipeline.datasets.sources import RawDataError, fetch_raw
from fparec_pipeline.paths import DataRoot

SHA256 = "sha256:" + hashlib.sha256(GOOD).hexdigest()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(sources, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(sources, "TIMEOUT_S", (5.0, 1.0))
    command = [sys.executable, str(Path(__file__).with_name("bad_server.py"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        process.url = f"http://127.0.0.1:{process.stdout.readline().strip()}"
        yield process
        process.kill()


def asked(server):
    server.kill()
    return len(server.stdout.read().splitlines())


def shop(server, answer, **changes):
    source = {"reader": "sequences", "address": f"{server.url}/{answer}/shop.txt", "hash": SHA256}
    return Dataset(sources={"web": source_of(**source | {"bytes": len(GOOD)} | changes)})


HARMS = {  # answer -> requests, and what the error says
    "truncated": (4, "IncompleteRead"),
    "wrong": (1, "SHA256 hash of downloaded file"),
    "broken": (4, "500 Server Error"),
    "elsewhere": (1, "another host, localhost"),
    "stalled": (4, "timed out"),
    "endless": (1, "longer than the 1,000 bytes"),
    "huge": (1, "longer than the 1,000 bytes"),
}


@pytest.mark.fault("download")
@pytest.mark.parametrize("answer", HARMS)
def test_a_bad_answer_is_refused_with_the_reason_and_the_old_file_stays(
    answer, server, tmp_path, harm
):
    requests, reason = HARMS[answer]
    data = DataRoot(tmp_path)
    old = data.raw("shop") / "shop.txt"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"an older edition")
    with pytest.raises(RawDataError, match=reason):
        fetch_raw("shop", shop(server, answer), data)
    assert asked(server) == requests
    harm(requests)
    assert old.read_bytes() == b"an older edition"
    assert list(old.parent.iterdir()) == [old]


@pytest.mark.fault("download")
def test_without_checksum_and_size_an_endless_answer_ends_too(server, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_BYTES", 1_000_000)
    with pytest.raises(RawDataError, match="longer than the 1,000,000 bytes"):
        fetch_raw("shop", shop(server, "endless", hash=None, bytes=None), DataRoot(tmp_path))


def test_a_redirect_within_the_host_is_followed(server, tmp_path):
    assert fetch_raw("shop", shop(server, "here"), DataRoot(tmp_path)).read_bytes() == GOOD


FETCH = """
from pathlib import Path
from fparec_pipeline.config import Dataset
from fparec_pipeline.datasets.sources import fetch_raw
from fparec_pipeline.paths import DataRoot
fetch_raw("shop", Dataset.model_validate_json(sys.argv[1]), DataRoot(Path(sys.argv[2])))
"""


@pytest.mark.fault("disk")
def test_a_full_disk_ends_the_download_by_name_and_the_next_one_succeeds(server, tmp_path):
    data, dataset = DataRoot(tmp_path), shop(server, "good")
    said = with_small_disk(FETCH, 500, dataset.model_dump_json(), tmp_path)
    assert said.startswith(f"CannotWrite {data.raw('shop') / 'shop.txt'} cannot be written: ")
    assert "File too large" in said
    assert list(data.raw("shop").iterdir()) == []
    assert fetch_raw("shop", dataset, data).read_bytes() == GOOD
