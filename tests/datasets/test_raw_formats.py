"""From a raw file in its publisher's own format: the splits of the published file."""

import polars as pl
import pytest
import raw_formats as raw
from raw_formats import Event

from fparec_pipeline.config import Counts, Dataset, source_of
from fparec_pipeline.datasets.checks import check_splits
from fparec_pipeline.datasets.splits import make_splits

URL = "https://example.org/file"
COLUMNS = {"user": "who", "item": "what", "time": "when"}
YEAR = {"from_date": "2019-01-01", "to_date": "2019-12-31"}
FORMATS = {
    "movielens": ("ml-1m.zip", raw.write_movielens, source_of(reader="movielens", address=URL)),
    "amazon": ("a_5.json.gz", raw.write_amazon, source_of(reader="amazon", address=URL)),
    "yelp": ("review.json", raw.write_yelp, source_of(reader="yelp", address=URL, **YEAR)),
    "csv": ("own.csv", raw.write_csv, source_of(reader="csv", address="own.csv", **COLUMNS)),
    "parquet": (
        "o.parquet",
        raw.write_parquet,
        source_of(reader="parquet", address="o", **COLUMNS),
    ),
}


def made(data, source, path, core=5):
    data.root.mkdir(parents=True, exist_ok=True)
    dataset = Dataset(core=core, sources={"only": source})
    return make_splits("shop", dataset, path, data), dataset


def in_source_names(folder, part):
    """User -> items of one part, under the names that the raw file gives them."""
    users = pl.read_parquet(folder / "users.parquet").select("user", user_name="source_id")
    items = pl.read_parquet(folder / "items.parquet").select("item", item_name="source_id")
    table = pl.read_parquet(folder / f"{part}.parquet").with_row_index()
    named = table.join(users, on="user").join(items, on="item").sort("index")
    grouped = named.group_by("user_name").agg("item_name")
    return dict(zip(grouped["user_name"], grouped["item_name"].to_list(), strict=True))


def expected(sequences, part):
    part_of = {"train": slice(None, -2), "valid": slice(-2, -1), "test": slice(-1, None)}[part]
    return {
        raw.user_name(number): [raw.item_name(item) for item in sequence[part_of]]
        for number, sequence in enumerate(sequences, start=1)
    }


@pytest.mark.parametrize("format_name", FORMATS)
def test_raw_files_give_the_published_splits_up_to_relabelling(format_name, data, tmp_path):
    file, write, source = FORMATS[format_name]
    sequences = raw.published_sequences()
    events = raw.shuffled_events(sequences)
    strangers = [Event(f"99{n}", f"88{n}", raw.START, 0) for n in range(9)]  # below the core
    write(tmp_path / file, strangers[:4] + events + strangers[4:])
    splits, dataset = made(data, source, tmp_path / file)
    folder = data.splits("shop")
    for part in ("train", "valid", "test"):
        assert in_source_names(folder, part) == expected(sequences, part)
    assert splits.stats["quarantined_rows"] == 0
    counts = Counts(
        users=len(sequences),
        items=len({item for sequence in sequences for item in sequence}),
        interactions=sum(map(len, sequences)),
    )
    results = check_splits(folder, dataset.model_copy(update={"expected": counts}))
    assert [result.name for result in results if not result.passed] == []


@pytest.mark.parametrize(
    ("reader", "write"), [("sequences", raw.write_sequences), ("pairs", raw.write_pairs)]
)
def test_published_files_keep_their_ids_and_order(reader, write, data, tmp_path):
    sequences = raw.published_sequences()
    write(tmp_path / "p.txt", sequences)
    splits, _ = made(data, source_of(reader=reader, address=URL), tmp_path / "p.txt")
    train, offsets = splits.train_items, splits.train_offsets
    found = [
        [*train[offsets[user] : offsets[user + 1]], splits.valid[user], splits.test[user]]
        for user in range(splits.n_users)
    ]
    assert found == sequences


def test_a_raw_file_in_the_published_order_gives_the_published_ids(data, tmp_path):
    sequences = raw.published_sequences()
    events = [
        Event(raw.user_name(number), raw.item_name(item), raw.START, place)
        for number, sequence in enumerate(sequences, start=1)
        for place, item in enumerate(sequence)
    ]
    raw.write_amazon(tmp_path / "a.json.gz", events)
    numbered, _ = made(data, FORMATS["amazon"][2], tmp_path / "a.json.gz")
    raw.write_sequences(tmp_path / "p.txt", sequences)
    published, _ = made(data, source_of(reader="sequences", address=URL), tmp_path / "p.txt")
    assert numbered.stats["data_hash"] == published.stats["data_hash"]


def test_rows_outside_the_date_range_do_not_count(data, tmp_path):
    sequences = raw.published_sequences()
    events = raw.shuffled_events(sequences)
    late = [
        Event(e.user, e.item, e.time + 366 * raw.DAY, e.position)
        for e in events
        if e.time < raw.START + 3 * raw.DAY
    ]
    raw.write_yelp(tmp_path / "y.json", late + events)
    splits, _ = made(data, FORMATS["yelp"][2], tmp_path / "y.json")
    assert late
    assert splits.stats["interactions"] == len(events)
