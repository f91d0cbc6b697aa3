"""From a number back to the folders it was made of; no other data or settings are mixed in."""

import csv
import html.parser
import statistics

import pytest
from data_roots import tiny_root

from fparec_pipeline.config import load_config
from fparec_pipeline.datasets.sources import fetch_raw
from fparec_pipeline.datasets.splits import make_splits
from fparec_pipeline.results import leaderboard
from fparec_pipeline.results.report import build_report
from fparec_pipeline.results.tables import render
from fparec_pipeline.results.trials import trial_status, trials_frame
from fparec_pipeline.training.record import read_record
from fparec_pipeline.training.trial import run_trial

METRIC = "test/ndcg_at_10"
SEEDS = (0, 1, 2)


def splits(data):
    dataset = load_config(data).datasets["tiny"]
    return make_splits("tiny", dataset, fetch_raw("tiny", dataset, data), data)


def train(data, *seeds):
    config = load_config(data)
    made = splits(data)
    return [run_trial(config.trial("tiny", "fparec", s), made, data, device="cpu") for s in seeds]


@pytest.fixture
def data(tmp_path):
    root = tiny_root(tmp_path, epochs=1)
    train(root, *SEEDS)
    return root


class Cells(html.parser.HTMLParser):
    """The rows of every table of a page, as texts, by the section's id."""

    def __init__(self, page):
        super().__init__()
        self.rows, self.section, self.open = {}, "", False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        if tag == "section":
            self.section = dict(attributes)["id"]
        if tag == "tr":
            self.rows.setdefault(self.section, []).append([])
        if tag in ("td", "th"):
            self.rows[self.section][-1].append("")
        self.open = self.open or tag in ("td", "th")

    def handle_endtag(self, tag):
        self.open = self.open and tag not in ("td", "th")

    def handle_data(self, text):
        if self.open:
            self.rows[self.section][-1][-1] += text


def html_of(data):
    config = load_config(data)
    return build_report(trials_frame(data, config), data, config, {}).html


def report(data):
    return Cells(html_of(data)).rows


def median_in_the_table(data):
    config = load_config(data)
    _, rows = render("table_3", trials_frame(data, config), config, data)
    (row,) = (
        r for r in rows if (r["dataset"], r["model"], r["metric"]) == ("tiny", "fparec", METRIC)
    )
    return row["ours"], row["gap"]


def test_a_median_is_traced_to_folders_that_say_data_commit_and_configuration(data):
    heads, *rows = report(data)["trials"]
    assert len(rows) == len(SEEDS)
    values = []
    for row in (dict(zip(heads, row, strict=True)) for row in rows):
        record = read_record(data.root / row["folder"])
        values.append(record.metrics[METRIC])
        assert row["seed"] == str(record.seed)
        assert row["commit"] == record.commit[:12]
        assert row["data hash"] == record.data_hash[:12] == splits(data).stats["data_hash"][:12]
        assert row["fingerprint"] == record.fingerprint
        for name, value in record.hyperparameters.items():
            assert f"{name} = {value}" in row["configuration"]
        again = load_config(data).trial("tiny", "fparec", record.seed)
        assert again.fingerprint(record.data_hash) == record.fingerprint
    assert median_in_the_table(data) == (round(statistics.median(values), 4), None)


def other_data(data):
    with (data.root / "tiny.csv").open("a", newline="") as file:
        csv.writer(file).writerow(["user 1", "item 1", 10**6])
    path = data.root / "datasets.toml"
    path.write_text(path.read_text().replace("expected", "# expected"))
    splits(data)


def other_configuration(data):
    path = data.root / "datasets.toml"
    path.write_text(path.read_text().replace("k = 4", "k = 3"))


@pytest.mark.parametrize("change", [other_data, other_configuration])
def test_what_was_trained_before_a_change_is_called_stale_and_mixed_into_nothing(change, data):
    change(data)
    config = load_config(data)
    trial = config.trial("tiny", "fparec", 0)
    assert trial_status(trial, config, data) == "stale"
    assert median_in_the_table(data) == (None, "stale: seed 0, 1, 2")
    assert leaderboard("tiny", data=data).is_empty()
    heads, *rows = report(data)["trials"]
    assert [row[heads.index("stale")] for row in rows] == ["stale"] * 3
    assert "stale: seed 0, 1, 2" in html_of(data)

    (new,) = train(data, 1)
    assert median_in_the_table(data) == (None, "stale: seed 0, 2")
    (row,) = leaderboard("tiny", data=data).to_dicts()
    assert (row["seeds"], row[METRIC]) == ([1], new.metrics[METRIC])

    values = [record.metrics[METRIC] for record in train(data, *SEEDS)]
    assert median_in_the_table(data) == (round(statistics.median(values), 4), None)
