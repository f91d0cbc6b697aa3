"""The report: honest about what is missing, escaped, and asking nobody for anything."""

import json
import re

import polars as pl
import pytest
from trial_folders import make_attempt, write_finished, write_splits

from fparec_pipeline.config import load_config
from fparec_pipeline.datasets.audit import audit
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.results.paper_figures import FigureMissing
from fparec_pipeline.results.plots import learning_curves
from fparec_pipeline.results.report import build_report, path_of, write_report
from fparec_pipeline.results.tick import tick_path
from fparec_pipeline.results.trials import trials_frame
from fparec_pipeline.training.record import HISTORY, RANKS
from fparec_pipeline.training.sequential import KEPT

OWN = """
[my-shop.sources.export]
reader = "csv"
address = "orders.csv"
user = "who"
item = "what"
time = "when"
"""
ARMS = ("sasrec", "linear_attention", "token_mixing", "parec", "fparec")


@pytest.fixture(autouse=True)
def _no_weights(monkeypatch):
    """The folders' weights are of no model: the figures that would draw them are gaps."""

    def missing(*arguments):
        raise FigureMissing("nothing to draw")

    monkeypatch.setattr("fparec_pipeline.results.report.draw", missing)


def finish(data, arms, seeds=(0, 1, 2)):
    config = load_config(data)
    return [
        write_finished(data, make_attempt(config, "beauty", arm, seed), {"test/hr_at_10": 0.0834})
        for arm in arms
        for seed in seeds
    ]


def html_of(data, links=None):
    config = load_config(data)
    return build_report(trials_frame(data, config), data, config, links or {}).html


def section_of(html, study):
    return html.partition(f'<section id="{study}">')[2].partition("</section>")[0]


def test_the_first_screen_says_who_wins_and_that_it_is_not_sure(data):
    """All arms have equal ranks: the first by name has the best median, ahead of nobody."""
    finish(data, ARMS)
    first = html_of(data).partition('<section id="winners">')[2].partition("</section>")[0]
    assert re.findall(r'class="name">([^<]+)<', first) == ["FPARec"]
    assert "Not significantly ahead of Linear Attention, PARec, SASRec, Token Mixing." in first
    assert "15 trials: 15 trained here" in first


def test_a_users_own_dataset_comes_first(data):
    (data.root / "datasets.toml").write_text(OWN)
    finish(data, ["fparec"])
    config = load_config(data)
    write_finished(data, make_attempt(config, "my-shop", "sasrec", 0))
    first = html_of(data).partition('<section id="winners">')[2].partition("</section>")[0]
    assert re.findall(r'href="#dataset-([^"]+)"', first) == ["my-shop", "beauty"]
    assert "your own" in first


def test_a_failed_tick_of_the_schedule_stands_at_the_top(data):
    tick = {"tick": "2024-05-05", "runs": 4, "failed": []}
    tick_path(data).parent.mkdir(parents=True)
    tick_path(data).write_text(json.dumps(tick))
    assert "2024-05-05" not in html_of(data)
    tick["failed"] = [{"partition": "tiny", "stage": "prepare", "run": "1", "reason": "no <disk>"}]
    tick_path(data).write_text(json.dumps(tick))
    html = html_of(data)
    assert "2024-05-05: 1 of 4 runs failed" in html
    assert "prepare tiny: no &lt;disk&gt;" in html


def test_of_nothing_it_says_that_nothing_was_run(data):
    html = html_of(data)
    assert re.search(r"0 held.*0 reversed.*9 undecided", html, re.DOTALL)
    assert "fparec run --study table_3 --datasets beauty" in html
    assert "No trial has finished yet." in html


def test_a_partly_run_arm_is_a_gap_with_its_seeds_values_and_no_median(data):
    finish(data, ["fparec"], seeds=(0,))
    html = html_of(data)
    assert "FPARec: no finished trial of seed 1, 2" in html
    assert "0: 0.0834" in html
    table = html.partition('<section id="table_3">')[2].partition("</section>")[0]
    assert 'data-value="0.0834"' not in table
    assert "Provisional: fewer than three seeds." in html  # it stands with its dataset all the same


def test_a_finished_arm_has_median_paper_difference_and_interval(data):
    finish(data, ARMS)
    html = html_of(data)
    assert 'data-value="0.0834"' in html
    assert "+0.0013" in html  # 0.0834 against the paper's 0.0821
    assert "0.0000–1.0000" in html  # two users, one hit


def test_the_rivals_are_tested_against_the_studys_own_hero(data):
    """The one that it names, against every other arm."""
    study = '[widths]\ntitle = "Widths"\nmodels = ["fparec"]\ndatasets = ["beauty"]\nseeds = [0]\n'
    variants = 'hero = "fparec_wide"\nvariants.wide = { d = 64 }\nvariants.narrow = { d = 32 }\n'
    (data.root / "studies.toml").write_text(study + variants)
    finish(data, ["fparec_wide", "fparec_narrow"])
    section = html_of(data).partition('<section id="widths">')[2].partition("</section>")[0]
    tested = re.findall(r"<td>HR@10</td><td>([^<]+)</td><td>([^<]+)</td>", section)
    assert tested == [("FPARec, d = 64", "FPARec, d = 32")]


def test_a_study_that_names_pairs_tests_those(data):
    """Each model without its position embedding against itself with it; plain FPARec has none."""
    finish(data, ["fparec", "fparec_with_position", "parec", "parec_with_position"])
    html = html_of(data)
    section = html.partition('<section id="position_embedding">')[2].partition("</section>")[0]
    tested = re.findall(r"<td>HR@10</td><td>([^<]+)</td><td>([^<]+)</td>", section)
    assert tested == [
        (f"{model}, without position embedding", f"{model}, with position embedding")
        for model in ("FPARec", "PARec")
    ]


def test_tables_1_and_2_have_words_and_units_for_headings_and_titles_for_names(data):
    stats = {"users": 22363, "items": 12101, "interactions": 198502, "average_length": 8.8763}
    write_splits(data, "beauty", **stats)
    html = html_of(data)
    first, second = (html.partition(f'<section id="table_{n}">')[2] for n in (1, 2))
    for word in ("<th>width d</th>", "<th>window n (items)</th>", "<td>FPARec</td>", "d² + 2kn"):
        assert word in first
    assert "Yelp 2019 (<code>fparec run --datasets yelp</code>)" in second  # not prepared
    line = next(line for line in second.splitlines() if "<td>Amazon Beauty</td>" in line)
    ours, printed = ("22,363", "12,101", "198,502"), ("22,363", "12,101", "200,000")
    pairs = [cell for pair in zip(ours, printed, strict=True) for cell in pair]
    expected = ["Amazon Beauty", *pairs, "8.88", "8.88"]
    assert re.findall(r">([^<>]+)</td>", line) == expected


def test_each_claim_and_table_says_at_which_window(data):
    finish(data, ["fparec", "fparec_long"])
    html = html_of(data)
    assert "MovieLens 1M (n = 200), Amazon Beauty (n = 50)" in html
    assert "<h3>Amazon Beauty, n = 50</h3>" in html
    section = section_of(html, "sequence_length")
    assert "<h3>Amazon Beauty</h3>" in section
    assert "FPARec, long window (n = 200)" in section


def test_a_study_does_not_repeat_the_tables_above_it(data):
    """FPARec is an arm of the studies `sequence_length` and `benchmark` too."""
    finish(data, ["fparec"])
    html = html_of(data)
    assert "<h3>Amazon Beauty, n = 50</h3>" in section_of(html, "table_3")
    for study in ("sequence_length", "benchmark"):
        section = section_of(html, study)
        assert "<h3>" not in section
        assert f"<code>fparec run --study {study} --datasets beauty</code>" in section
    finish(data, ["average"])  # Beauty is no dataset of Table 4
    assert "<h3>Amazon Beauty, n = 50</h3>" in section_of(html_of(data), "benchmark")
    again = 'title = "Again"\nmodels = ["fparec"]\ndatasets = ["beauty"]\nseeds = [0, 1, 2]\n'
    (data.root / "studies.toml").write_text(f"[again]\n{again}")
    section = section_of(html_of(data), "again")
    assert "In the tables above: Amazon Beauty." in section and "<table" not in section


def test_a_trial_with_damaged_ranks_has_no_interval(data, caplog):
    for folder in finish(data, ["fparec"]):
        (folder / RANKS).write_bytes(b"no parquet")
    assert "0.0000–1.0000" not in html_of(data)
    assert "No interval" in caplog.text


def test_what_comes_from_configuration_and_data_is_escaped(data):
    evil = "<script>alert(1)</script>"
    (data.root / "datasets.toml").write_text(f'[beauty]\ntitle = "{evil}"\n')
    (data.root / "studies.toml").write_text(f'[table_3]\ntitle = "{evil}"\n')
    (data.root / "models.toml").write_text(f'[fparec]\ntitle = "{evil}"\n')
    config = load_config(data)
    attempt = make_attempt(config, "beauty", "fparec", 0, hardware=evil, commit=evil)
    write_finished(data, attempt)
    html = html_of(data, {attempt.attempt: 'javascript:alert("x")'})
    assert evil not in html
    assert "&lt;script&gt;" in html
    assert "javascript:" not in html


def test_it_loads_nothing_from_elsewhere_and_links_to_mlflow(data):
    config = load_config(data)
    finish(data, ["fparec"])
    attempt = make_attempt(config, "beauty", "fparec", 0).attempt
    html = html_of(data, {attempt: "http://127.0.0.1:5000/#/experiments/1/runs/2"})
    assert 'href="http://127.0.0.1:5000/#/experiments/1/runs/2"' in html
    assert not re.search(r'(src|srcset)="(?!data:)', html)
    assert "<link" not in html.replace('<link rel="icon" href="data:,">', "")
    assert "@import" not in html


def test_each_trial_says_how_it_was_made(data):
    finish(data, ["fparec"])
    html = html_of(data)
    record = make_attempt(load_config(data), "beauty", "fparec", 2)
    assert record.fingerprint in html and record.commit[:12] in html
    assert "fparec run --datasets beauty --models fparec --seeds 2 --device cpu --retrain" in html


def test_a_trial_that_another_machine_went_on_with_names_both(data):
    other = {"epoch": 2, "commit": "d" * 40, "hardware": "another processor"}
    other["versions"] = {"torch": "2.11.0"}
    attempt = make_attempt(load_config(data), "beauty", "fparec", 0, resumed=[other])
    write_finished(data, attempt)
    html = html_of(data)
    short = f"<code>{'c' * 12}</code>, then <code>{'d' * 12}</code>"
    assert f"<td>{short}</td>" in html
    assert f"Trained by commits {short.replace('then ', '')}." in html
    assert ">a processor, 2 cores, then another processor<" in html
    assert ">python 3.11, then torch 2.11.0<" in html


def test_it_is_written_to_the_results_and_equal_trials_give_equal_bytes(data):
    finish(data, ARMS)
    first = write_report(trials_frame(data, load_config(data)), data, load_config(data), {})
    assert path_of(data).read_text(encoding="utf-8") == first.html
    assert html_of(data) == first.html


def test_its_numbers_are_those_that_it_prints(data):
    finish(data, ARMS)
    report = write_report(trials_frame(data, load_config(data)), data, load_config(data), {})
    printed = re.findall(r'class="verdict (\w+)">(\d+) \1<', report.html)
    assert {f"claims/{verdict}": float(count) for verdict, count in printed} == {
        name: value for name, value in report.numbers.items() if name.startswith("claims/")
    }
    assert report.numbers["trials/here"] == 15
    assert "15 were trained here" in report.html


def test_accuracy_stands_beside_coverage_where_trials_have_lists(data):
    config = load_config(data)
    write_splits(data, "beauty")
    finished = make_attempt(config, "beauty", "fparec", 0)
    write_finished(data, finished, {"test_unseen/ndcg_at_10": 0.05})
    assert 'id="beyond"' not in html_of(data)
    values = {"test_unseen/ndcg_at_10": 0.05, "test_unseen/coverage_at_10": 0.4}
    write_finished(data, make_attempt(config, "beauty", "fparec", 1), values)
    section = html_of(data).partition('<section id="beyond">')[2].partition("</section>")[0]
    assert section.count("<img") == 1
    assert "Test NDCG@10 against coverage of the catalogue, Amazon Beauty" in section


def test_a_kept_audit_is_shown_and_who_has_none_says_how_to_make_one(data):
    write_splits(data, "beauty")
    write_finished(data, make_attempt(load_config(data), "beauty", "fparec", 0))
    section = html_of(data).partition('<section id="audit">')[2].partition("</section>")[0]
    assert "Not audited: Amazon Beauty (<code>fparec dataset check beauty</code>)" in section
    folder = data.splits("beauty")
    found = audit(pl.DataFrame({"user": [1, 1, 1], "item": [1, 2, 1], "time": [0, 1, 2]}), "s")
    found |= {"transitions": 0.25, "transitions_shuffled": 0.125}
    data_hash = json.loads((folder / "stats.json").read_text())["data_hash"]
    (folder / KEPT).write_text(json.dumps({"data_hash": data_hash, "audit": found}))
    section = html_of(data).partition('<section id="audit">')[2].partition("</section>")[0]
    assert "33.3% of the interactions are with an item that the user had before" in section
    assert "NDCG@10 0.2500, and 0.1250 with each history in training shuffled" in section
    assert "Not audited" not in section


def test_models_of_one_title_are_rows_and_curves_of_their_own(data, monkeypatch):
    mine = '[mine]\nmixer = "factorized_positional"\nk = 7\ntitle = "FPARec"\n'
    (data.root / "models.toml").write_text(mine)
    study = 'title = "Own"\ndatasets = ["beauty"]\nmodels = ["fparec", "mine"]\nseeds = [0, 1, 2]\n'
    (data.root / "studies.toml").write_text(f"[own]\n{study}")
    finish(data, ["fparec", "mine"])
    drawn = []
    monkeypatch.setattr(
        "fparec_pipeline.results.report.learning_curves",
        lambda histories, title: drawn.append(list(histories)) or learning_curves(histories, title),
    )
    table = section_of(html_of(data), "own")
    assert drawn == [["FPARec (fparec)", "FPARec (mine)"]]
    assert "FPARec (mine)" in table


def test_a_damaged_history_leaves_its_curve_out(data, caplog):
    folder = finish(data, ["fparec", "sasrec"])[0]
    (folder / HISTORY).write_bytes(b"no parquet")
    curves = section_of(html_of(data), "curves")
    assert "<img" in curves
    assert f"No learning curve: {folder / HISTORY} cannot be read" in caplog.text


def test_a_forest_plot_says_how_many_models_it_has_no_room_for(data):
    arms = [f"mine{k}" for k in range(1, 19)]
    overlay = (f'[{a}]\nmixer = "factorized_positional"\nk = {a[4:]}\nd = 8\n' for a in arms)
    (data.root / "models.toml").write_text("".join(overlay))
    finish(data, arms, seeds=(0,))
    html = html_of(data)
    assert html.count('<g class="mark') == 16
    assert "2 more in the table." in html
    assert "more in the table" not in html_of(DataRoot(data.root / "other"))
