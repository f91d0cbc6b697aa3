"""Archives that would write elsewhere, fill the memory, or are none."""

import gzip
import zipfile

import pytest
from reading import rows_of

from fparec_pipeline.config import source_of
from fparec_pipeline.datasets import unpacking
from fparec_pipeline.datasets.sources import RawDataError

ZIP = source_of(reader="movielens", address="https://example.org/ml.zip")
AMAZON = source_of(reader="amazon", address="https://example.org/a.json.gz")


@pytest.mark.fault("archive")
@pytest.mark.parametrize("member", ["../ml-1m/ratings.dat", "/ml-1m/ratings.dat", "a/../../r"])
def test_members_of_other_names_are_neither_read_nor_written(member, tmp_path):
    path = tmp_path / "inner" / "ml.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, "1::1::1::1")
    with pytest.raises(RawDataError, match="holds none of"):
        rows_of(path, ZIP)
    assert sorted(tmp_path.rglob("*")) == [path.parent, path]


@pytest.mark.fault("archive")
def test_a_zip_bomb_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "UNPACKED_BYTES", 1 << 20)
    path = tmp_path / "ml.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ml-1m/ratings.dat", bytes(1 << 24))
    with pytest.raises(RawDataError, match=r"unpacks to more than [0-9,]+ bytes"):
        rows_of(path, ZIP)


@pytest.mark.fault("archive")
def test_a_gzip_bomb_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "UNPACKED_BYTES", 1 << 20)
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(bytes(1 << 26)))
    with pytest.raises(RawDataError, match=r"unpacks to more than [0-9,]+ bytes"):
        rows_of(path, AMAZON)


@pytest.mark.fault("archive")
@pytest.mark.parametrize("content", [b"\x1f\x8bgarbage", gzip.compress(b"{}\n" * 99, mtime=0)[:-9]])
def test_gzip_garbage_and_a_cut_off_gzip_are_named(content, tmp_path):
    path = tmp_path / "a.json.gz"
    path.write_bytes(content)
    with pytest.raises(RawDataError, match=r"a\.json\.gz.*no intact gzip"):
        rows_of(path, AMAZON)
