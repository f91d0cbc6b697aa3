"""The corpus of nasty files: each row and file is kept, counted and set aside, or a clear error."""

import polars as pl
import pytest
from nasty import ASIDE, KEPT, NOTHING, ROWS, SOURCES, files, good_rows, packed, text_of
from reading import collected

from fparec_pipeline.config import Dataset
from fparec_pipeline.datasets.files import DatasetError
from fparec_pipeline.datasets.splits import make_splits

GOOD = good_rows()


def written(tmp_path, content):
    path = tmp_path / "raw[1]"  # a name that a pattern would take for another
    path.write_bytes(content)
    return path


def make(data, reader, path):
    return make_splits("shop", Dataset(core=3, sources={"only": SOURCES[reader]}), path, data)


def refused(data, reader, path, reason):
    with pytest.raises(DatasetError) as caught:
        make(data, reader, path)
    message = str(caught.value)
    assert reason in message
    assert len(message) < 1000
    return message


@pytest.mark.fault("rows")
@pytest.mark.parametrize("reader", ROWS)
def test_a_nasty_row_among_good_ones_is_kept_set_aside_or_named(reader, data, tmp_path, harm):
    lines = text_of(reader, GOOD).splitlines(keepends=True)
    for nasty, fate in ROWS[reader].items():
        text = b"".join([*lines[:50], nasty, b"\n", *lines[50:]])
        path = written(tmp_path, packed(reader, text))
        harm()
        if fate not in (KEPT, ASIDE, NOTHING):
            refused(data, reader, path, fate)
            continue
        quarantine = tmp_path / "quarantine.parquet"
        found = collected(path, SOURCES[reader], quarantine)
        more = max(1, len(nasty.split()) - 1) if reader == "sequences" else 1
        kept = len(GOOD) + more * (fate == KEPT)
        assert (found.table.height, found.set_aside) == (kept, fate == ASIDE), nasty[:80]
        if found.set_aside:
            assert pl.read_parquet(quarantine)["record"].null_count() == 0


CASES = [(reader, *case) for reader in SOURCES for case in files(reader)]


@pytest.mark.fault("rows")
@pytest.mark.parametrize(
    ("reader", "name", "content", "fate"), CASES, ids=[" ".join(case[:2]) for case in CASES]
)
def test_a_nasty_file_is_read_to_the_last_row_or_refused(
    reader, name, content, fate, data, tmp_path
):
    path = written(tmp_path, content)
    if fate != KEPT:
        message = refused(data, reader, path, fate)
        assert "shop: " in message or str(path) in message
        return
    splits = make(data, reader, path)
    assert splits.stats["quarantined_rows"] == 0
    assert splits.stats["interactions"] == len(GOOD) * (2 if name == "duplicates" else 1)
