"""`fparec dataset check` and `add`, as a newcomer uses them."""

import os
import tomllib

import polars as pl
import pytest
from typer.testing import CliRunner

from fparec_pipeline.cli import app
from fparec_pipeline.config import ConfigError, load_config
from fparec_pipeline.datasets.files import DatasetError
from fparec_pipeline.datasets.splits import make_splits
from fparec_pipeline.paths import DataRoot

ROWS = [(f"c{c}", f"p{p}", 1_600_000_000 + 60 * (10 * c + p)) for c in range(8) for p in range(8)]


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("FPAREC_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def exported(path, separator=",", header=("customer_id", "title", "sku", "ordered_at"), extra=""):
    lines = [separator.join(header)]
    lines += [separator.join((c, "x", p, str(t))) for c, p, t in ROWS]
    path.write_text("\n".join(lines) + "\n" + extra)
    return path


def fparec(*arguments, **options):
    return CliRunner().invoke(app, ["dataset", *map(str, arguments)], **options)


def test_check_says_what_is_in_a_file(root, tmp_path):
    file = exported(tmp_path / "orders.csv", extra="NULL,x,p1,1600000000\n")
    chosen = ("--item", "sku", "--time", "ordered_at")
    answer = fparec("add", file, *chosen)
    assert answer.exit_code == 0, answer.output
    again = fparec("check", "orders")
    assert again.exit_code == 0
    for words in ("rows", "65", "set aside", "no user", "seconds since 1970", "2020-09-13 12:26:40",
                  "5 (chosen)", "customer_id", "c0, in order of time"):  # fmt: skip
        assert words in again.output
        assert words in answer.output
    assert not (root / "splits").exists()
    assert "fparec run --datasets orders" in again.output
    assert [line for line in again.output.splitlines() if len(line) > 200] == []


def test_add_guesses_and_writes_an_entry_that_loads(root, tmp_path):
    names = ("user_id", "title", "product_id", "timestamp")
    file = exported(tmp_path / "my orders.tsv", "\t", names)
    (root / "datasets.toml").write_text("# mine\n[beauty]\ncore = 5")
    answer = fparec("add", file, "--core", "3")
    assert answer.exit_code == 0, answer.output
    text = (root / "datasets.toml").read_text()
    assert text.startswith("# mine\n[beauty]\ncore = 5\n\n[my-orders]")
    assert tomllib.loads(text)["my-orders"] == {
        "core": 3,
        "sources": {
            "own": {
                "reader": "csv", "address": str(file), "separator": "\t",
                "user": "user_id", "item": "product_id", "time": "timestamp",
            }
        },
    }  # fmt: skip
    assert load_config(DataRoot(root)).datasets["my-orders"].core == 3


@pytest.mark.parametrize(
    "header",
    [
        ("customer_id", "order", "sku", "ordered_at"),
        ("visitorId", "format", "productId", "viewedAt"),
        ("user", "stat", "article", "event_time"),
        ("customer_id", "units", "sku", "order_date"),
        ("customer_id", "item_price", "product_id", "ordered_at"),
        ("visitor_id", "user_agent", "product_id", "event_ts"),
    ],
)
def test_add_guesses_what_shops_call_their_columns(root, tmp_path, header):
    assert fparec("add", exported(tmp_path / "o.csv", header=header), "--yes").exit_code == 0
    source = load_config(DataRoot(root)).datasets["o"].active_source
    assert (source.user, source.item, source.time) == (header[0], header[2], header[3])


@pytest.mark.parametrize("separator", [",", ";", "|", "::"])
def test_add_finds_the_separator(root, tmp_path, separator):
    file = exported(tmp_path / "o.csv", separator, ("user_id", "title", "movieId", "timestamp"))
    answer = fparec("add", file)
    assert answer.exit_code == 0
    assert "Reload definitions" in answer.output.splitlines()[-1]  # for who looks at Dagster's page
    assert load_config(DataRoot(root)).datasets["o"].active_source.separator == separator


def test_add_names_what_it_cannot_tell_and_writes_nothing(root, tmp_path):
    answer = fparec("add", exported(tmp_path / "orders.csv", header=("a", "b", "c", "d")))
    assert isinstance(answer.exception, ConfigError)
    assert "--user" in str(answer.exception)
    assert "a, b, c, d" in str(answer.exception)
    assert not (root / "datasets.toml").exists()


def test_add_writes_no_entry_that_others_could_not_read(root, tmp_path):
    file = exported(tmp_path / "orders.csv", header=("user", "t", "item", "time"))
    answer = fparec("add", file, "--user", "item", "--yes")
    assert isinstance(answer.exception, ConfigError), answer.output
    assert not (root / "datasets.toml").exists()


def test_add_keeps_the_name_of_a_link_which_may_lead_elsewhere_tomorrow(root, tmp_path):
    dated = exported(tmp_path / "2024-05-01.csv", header=("user", "t", "item", "time"))
    (tmp_path / "orders.csv").symlink_to(dated)
    assert fparec("add", tmp_path / "orders.csv", "--yes").exit_code == 0
    source = load_config(DataRoot(root)).datasets["orders"].active_source
    assert source.address == str(tmp_path / "orders.csv")


def test_add_writes_through_a_link(root, tmp_path):
    (tmp_path / "mine.toml").write_text("[beauty]\ncore = 5\n")
    (root / "datasets.toml").symlink_to(tmp_path / "mine.toml")
    file = exported(tmp_path / "orders.csv", header=("user", "t", "item", "time"))
    assert fparec("add", file, "--yes").exit_code == 0
    assert "[orders]" in (tmp_path / "mine.toml").read_text()


def test_add_names_a_file_that_toml_cannot(root, tmp_path):
    file = exported(tmp_path / os.fsdecode(b"caf\xe9.csv"))
    answer = fparec("add", file, "--yes")
    assert "cannot stand in datasets.toml" in str(answer.exception)


def test_add_takes_the_separator_that_is_given(root, tmp_path):
    file = exported(tmp_path / "o.csv", "~", ("user_id", "title", "movieId", "timestamp"))
    assert fparec("add", file, "--separator", "~", "--yes").exit_code == 0
    assert load_config(DataRoot(root)).datasets["o"].active_source.item == "movieId"


def test_add_refuses_a_name_that_is_taken(root, tmp_path):
    file = exported(tmp_path / "beauty.csv", header=("user", "t", "item", "time"))
    answer = fparec("add", file)
    assert "'beauty' already" in str(answer.exception)


def test_status_and_leaderboard_say_at_once_that_the_file_has_changed(root, tmp_path):
    file = exported(tmp_path / "orders.csv", header=("user", "t", "item", "time"))
    assert fparec("add", file).exit_code == 0
    data = DataRoot(root)
    dataset = load_config(data).datasets["orders"]
    make_splits("orders", dataset, file, data)
    exported(file, header=("user", "t", "item", "time"), extra="c1,x,p1,1700000000\n")
    os.utime(file, (0, 0))
    for command in (["status", "--datasets", "orders"], ["leaderboard", "--dataset", "orders"]):
        answer = CliRunner().invoke(app, command)
        assert "orders: the splits are outdated" in answer.output
        assert "fparec run --datasets orders" in answer.output


def test_add_reads_the_columns_of_any_parquet_file_and_names_a_damaged_one(root, tmp_path):
    users, items, times = zip(*ROWS, strict=True)
    frame = pl.DataFrame({"customer_id": users, "sku": items, "ordered_at": times})
    frame.write_parquet(tmp_path / "orders[1].parquet")
    answer = fparec("add", tmp_path / "orders[1].parquet", "--item", "sku", "--yes")
    assert answer.exit_code == 0, answer.output
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1PAR1")
    with pytest.raises(DatasetError, match=r"damaged\.parquet begins like a parquet file"):
        raise fparec("add", tmp_path / "damaged.parquet", "--yes").exception


def test_add_splits_a_quoted_header_as_the_reader_does(root, tmp_path):
    file = exported(
        tmp_path / "orders.csv", header=('"id, of customer"', "title", "sku", "ordered_at")
    )
    answer = fparec("add", file, "--user", "id, of customer", "--item", "sku", "--yes")
    assert answer.exit_code == 0, answer.output
