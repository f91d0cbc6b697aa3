"""Readers and splits on drawn files, against a naive reading; on mutated files, never a crash."""

import csv
import io
import json
import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nasty import HEADER, LINES, SOURCES, files, good_rows, packed, text_of, zipped
from raw_formats import naive_core, naive_sequences
from reading import collected, rows_of

from fparec_pipeline.config import Dataset
from fparec_pipeline.datasets import collecting
from fparec_pipeline.datasets.files import DatasetError
from fparec_pipeline.datasets.splits import make_splits
from fparec_pipeline.paths import DataRoot

# As a file may have them -> as they are to be understood; None is no identifier, or no time.
NAMES = {"a": "a", " b ": "b", "c": "c", "é,\"'": "é,\"'", "-1": "-1", "9" * 30: "9" * 30}
NO_NAMES = {"": None, "NaN": None, " ": None}
TIMES = {"1": 1, "2": 2, "-3": -3, "4.0": 4, " 5": 5, "9223372036854775807": 2**63 - 1}
NO_TIMES = {"": None, "NaN": None, "x": None, "9" * 25: None, "1e400": None}

names = st.sampled_from([*NAMES] * 4 + [*NO_NAMES])
times = st.sampled_from([*TIMES] * 4 + [*NO_TIMES])
ROWS = st.lists(st.tuples(names, names, times), max_size=60)


def understood(rows):
    """The rows that are well-formed, as (user, item, time)."""
    known = NAMES | NO_NAMES, NAMES | NO_NAMES, TIMES | NO_TIMES
    read = [tuple(words[word] for words, word in zip(known, row, strict=True)) for row in rows]
    return [row for row in read if None not in row]


def csv_text(rows):
    file = io.StringIO(newline="")
    writer = csv.writer(file, quoting=csv.QUOTE_ALL)
    writer.writerows([("u", "i", "t"), *rows])
    return file.getvalue().encode()


def amazon_text(rows):
    keys = ("reviewerID", "asin", "unixReviewTime")
    lines = [json.dumps(dict(zip(keys, row, strict=True))) for row in rows]
    return "\n".join(lines).encode()


def movielens_file(rows):
    return zipped("\n".join(f"{u}::{i}::3::{t}" for u, i, t in rows).encode("latin-1"))


def parquet_file(rows):
    file = io.BytesIO()
    schema = dict.fromkeys(("u", "i", "t"), pl.String)
    pl.DataFrame(rows, schema=schema, orient="row").write_parquet(file)
    return file.getvalue()


WRITERS = {
    "csv": csv_text,
    "amazon": amazon_text,
    "movielens": movielens_file,
    "parquet": parquet_file,
}


def sequences_of(splits, folder):
    """User -> items in order, under the names of the raw file."""
    tables = [pl.read_parquet(folder / f"{name}.parquet") for name in ("users", "items")]
    users, items = (table["source_id"].to_list() for table in tables)
    train, offsets = splits.train_items, splits.train_offsets
    return {
        users[u]: [
            items[item - 1]
            for item in (*train[offsets[u] : offsets[u + 1]], splits.valid[u], splits.test[u])
        ]
        for u in range(splits.n_users)
    }


@pytest.mark.fault("rows")
@pytest.mark.parametrize("reader", WRITERS)
@given(rows=ROWS, core=st.integers(1, 3))
@settings(max_examples=60)
def test_rows_are_kept_set_aside_or_below_the_core_and_none_is_lost(reader, rows, core):
    kept = understood(rows)
    sequences = naive_sequences(naive_core(kept, core))
    items = {item for sequence in sequences.values() for item in sequence}
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(collecting, "MAX_MALFORMED", 1.0)
        patch.setattr(collecting, "MAX_MISSING", 1.0)
        data, path = DataRoot(Path(folder) / "data"), Path(folder) / "raw"
        path.write_bytes(WRITERS[reader](rows))
        dataset = Dataset(core=core, sources={"only": SOURCES[reader]})
        if len(sequences) < 2 or len(items) < 2 or min(map(len, sequences.values())) < 3:
            with pytest.raises(DatasetError, match=r"shop: .*(at least 2|leave-one-out|no rows)"):
                make_splits("shop", dataset, path, data)
            return
        splits = make_splits("shop", dataset, path, data)
        assert splits.stats["quarantined_rows"] == len(rows) - len(kept)
        assert sequences_of(splits, data.splits("shop")) == sequences


# Titles that nobody asks for, and that quotes may stand in: as a program writes them, and by hand.
TITLES = st.text(st.sampled_from('a ",\n\t0'), max_size=8)


@pytest.mark.fault("rows")
@given(titles=st.lists(TITLES, min_size=12, max_size=12), at=st.integers(0, 3))
@settings(max_examples=150)
def test_what_is_written_as_csv_is_read_whatever_a_column_of_titles_holds(titles, at):
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    rows = [[f"u{n % 3}", f"i{n % 4}", str(n)] for n in range(12)]
    for row, title in zip([["u", "i", "t"], *rows], ["title", *titles], strict=True):
        writer.writerow([*row[:at], title, *row[at:]])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "raw"
        path.write_text(file.getvalue())
        found = collected(path, SOURCES["csv"], Path(folder) / "quarantine")
    table = found.table.select(pl.col("user", "item", "time").cast(pl.String))
    assert (table.rows(), found.set_aside) == ([tuple(row) for row in rows], 0)


@pytest.mark.fault("rows")
@given(titles=st.lists(st.text(st.sampled_from('a "'), max_size=6), min_size=12, max_size=12))
@settings(max_examples=150)
def test_of_rows_written_without_quoting_none_is_lost(titles):
    rows = [(f"u{n % 3}", f"i{n % 4}", str(n)) for n in range(12)]
    lines = ["\t".join((*row, title)) for row, title in zip(rows, titles, strict=True)]
    source = SOURCES["csv"].model_copy(update={"separator": "\t"})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "raw"
        path.write_text("\n".join(["u\ti\tt\ttitle", *lines]))
        found = collected(path, source, Path(folder) / "quarantine")
    table = found.table.select(pl.col("user", "item", "time").cast(pl.String))
    assert (table.rows(), found.set_aside) == (rows, 0)


# Mutated files

SMALL = {reader: text_of(reader, good_rows(4, 3)) for reader in (*LINES, "sequences")}
PIECES = st.one_of(
    st.sampled_from(
        [b"\n", b"\r", b'"', b",", b"::", b"\x00", b"\xff", b"NaN", b"-", b"\xef\xbb\xbf"]
    ),
    st.binary(max_size=4),
)
EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 8), PIECES), min_size=1, max_size=6)

WHITE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)


def edited(content, edits):
    """At each place, so many bytes are replaced by the piece."""
    for place, length, piece in edits:
        start = int(place * len(content))
        content = content[:start] + piece + content[start + length :]
    return content


def lines_in(reader, text):
    """How many rows a naive reading finds in the text; None where lines are not rows.

    A line of separators alone is no row; of white space alone, none but in a table of one's own.
    """
    text = text.removeprefix(b"\xef\xbb\xbf")
    if reader == "csv" and b'"' in text:
        return None
    lines = text.decode("latin-1" if reader == "movielens" else "utf-8", "replace").split("\n")
    if reader == "csv":
        return sum(bool(line.removesuffix("\r").replace(",", "")) for line in lines) - 1
    separator = "::" if reader == "movielens" else ""
    return sum(bool(line.replace(separator, "").strip(WHITE)) for line in lines)


@pytest.mark.fault("rows")
@pytest.mark.parametrize("reader", SMALL)
@given(edits=EDITS)
@example(edits=[(0.0, 1, b"::")])  # of MovieLens, a row without user and item
@example(edits=[(0.0, 0, b"\n"), (0.0, 0, b"::")])  # a line of separators alone
@example(edits=[(0.0, 0, b" ::::5\n")])
@settings(max_examples=80)
def test_of_a_mutated_text_every_row_is_kept_or_set_aside_or_the_file_is_refused(reader, edits):
    header = HEADER if reader == "csv" else b""
    text = edited(header + SMALL[reader], edits)
    content = text if reader == "csv" else packed(reader, text)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(collecting, "MAX_MALFORMED", 1.0)
        patch.setattr(collecting, "MAX_MISSING", 1.0)
        path = Path(folder) / "raw"
        path.write_bytes(content)
        try:
            found = collected(path, SOURCES[reader], Path(folder) / "quarantine")
        except DatasetError:
            return
        rows = rows_of(path, SOURCES[reader]).filter(pl.col("problem").is_null())
        kept = rows["row"].n_unique()
        assert found.table.height >= kept
        assert found.rows == kept + found.set_aside
        assert lines_in(reader, text) in (found.rows, None)


@pytest.mark.fault("rows")
@pytest.mark.parametrize("reader", SOURCES)
@given(edits=EDITS)
@settings(max_examples=20)
def test_a_mutated_file_gives_splits_or_a_clear_error(reader, edits):
    content = next(content for name, content, _ in files(reader) if name == "good")
    with tempfile.TemporaryDirectory() as folder:
        data, path = DataRoot(Path(folder) / "data"), Path(folder) / "raw"
        path.write_bytes(edited(content, edits))
        dataset = Dataset(core=3, sources={"only": SOURCES[reader]})
        try:
            splits = make_splits("shop", dataset, path, data)
        except DatasetError as error:
            assert "shop" in str(error) or str(path) in str(error)
            assert "panicked" not in str(error)
        else:
            assert splits.stats["interactions"] >= 0.9 * len(good_rows())
