"""Ours are chosen so that the differences from the paper's printed numbers can be read off."""

import re

from trial_folders import write_arms

from fparec_pipeline.config import Study
from fparec_pipeline.results import leaderboard
from fparec_pipeline.results.medians import study_medians
from fparec_pipeline.results.study_table import (
    leaderboard_markdown,
    study_table,
    to_markdown,
    to_rows,
)
from fparec_pipeline.results.trials import trials_frame

HR, NDCG = "test/hr_at_10", "test/ndcg_at_10"
MODELS = ("sasrec", "parec", "fparec")


def finish(data, config, dataset, values, **options):
    metrics = {arm: {NDCG: value, HR: 2 * value} for arm, value in values.items()}
    write_arms(data, config, dataset, metrics, **options)


def table(data, config, dataset="beauty"):
    study = Study(title="Table 3", models=MODELS, datasets=(dataset,), seeds=(0, 1, 2))
    medians = study_medians(trials_frame(data, config), study)
    return study_table("table_3", study, medians, config)


def cells(table, metric=NDCG):
    (block,) = table.blocks
    return {line.arm: line.cells[metric] for line in block.lines}


def test_ours_stands_beside_the_papers_with_the_difference(data, config):
    finish(data, config, "beauty", {"fparec": 0.04174, "sasrec": 0.0400})
    found = cells(table(data, config))
    assert (found["fparec"].ours, found["fparec"].paper) == (0.0417, 0.0402)  # Table 3, Beauty
    assert found["fparec"].difference == 0.0015
    assert found["sasrec"].difference == -0.0005
    assert cells(table(data, config), HR)["fparec"].paper == 0.0821


def test_best_and_second_are_found_for_each_metric_among_the_trained(data, config):
    finish(data, config, "beauty", {"sasrec": 0.03, "parec": 0.05, "fparec": 0.04, "last_ten": 0.9})
    marks = {model: cell.mark for model, cell in cells(table(data, config)).items()}
    assert marks == {
        "sasrec": None,
        "parec": "best",
        "fparec": "second",
        "popularity": None,
        "last_ten": None,
        "transitions": None,
    }


def test_what_prints_alike_shares_its_mark(data, config):
    finish(data, config, "beauty", {"sasrec": 0.03, "parec": 0.04001, "fparec": 0.04004})
    found = cells(table(data, config))
    assert [found[model].mark for model in MODELS] == ["second", "best", "best"]


def test_one_model_alone_is_not_called_the_best(data, config):
    finish(data, config, "beauty", {"fparec": 0.04})
    assert cells(table(data, config))["fparec"].mark is None


def test_a_gap_is_a_dash_with_its_reason(data, config):
    finish(data, config, "beauty", {"sasrec": 0.04, "fparec": 0.05})
    text = to_markdown(table(data, config))
    assert "| PARec | — | 0.0806 (—) | — | 0.0395 (—) | — | — |" in text
    assert "* Amazon Beauty, PARec: no finished trial of seed 0, 1, 2" in text
    assert cells(table(data, config))["parec"].difference is None


def test_markdown_of_a_block_by_hand(data, config):
    finish(data, config, "beauty", {"sasrec": 0.03, "parec": 0.04, "fparec": 0.0417})
    finish(data, config, "beauty", {"popularity": 0.001, "last_ten": 0.0, "transitions": 0.02})
    lines = to_markdown(table(data, config)).splitlines()
    start = lines.index("### Amazon Beauty")
    # 0.5 is what every other metric of these trials is
    best = "**0.5000**"
    assert lines[start + 2 : start + 10] == [
        "| model | HR@10 | paper | NDCG@10 | paper | HR@10, history removed "
        "| NDCG@10, history removed |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        f"| SASRec | 0.0600 | 0.0813 (-0.0213) | 0.0300 | 0.0405 (-0.0105) | {best} | {best} |",
        f"| PARec | *0.0800* | 0.0806 (-0.0006) | *0.0400* | 0.0395 (+0.0005) | {best} | {best} |",
        "| FPARec | **0.0834** | 0.0821 (+0.0013) | **0.0417** | 0.0402 (+0.0015) "
        f"| {best} | {best} |",
        "| Popularity | 0.0020 | — | 0.0010 | — | 0.5000 | 0.5000 |",
        "| Last ten items | 0.0000 | — | 0.0000 | — | — | — |",
        "| Transitions | 0.0400 | — | 0.0200 | — | 0.5000 | 0.5000 |",
    ]
    assert "†" not in "".join(lines)


def test_capped_trials_get_a_dagger_and_a_footnote(data, config):
    finish(data, config, "beauty", {"fparec": 0.04}, hit_cap=True)
    text = to_markdown(table(data, config))
    assert "| FPARec† |" in text
    assert "† A trial was stopped by its epoch cap" in text


def test_a_dataset_that_the_paper_does_not_have_stands_alone(data, config):
    finish(data, config, "ml-latest-small", {"fparec": 0.04, "sasrec": 0.03})
    found = table(data, config, "ml-latest-small")
    assert not found.blocks[0].in_paper
    assert "| FPARec | **0.0800** | **0.0400** |" in to_markdown(found)


def test_rows_are_flat_and_complete(data, config):
    finish(data, config, "beauty", {"fparec": 0.0417})
    rows = to_rows(table(data, config))
    assert len(rows) == (3 + 3) * 4  # models and references × metrics
    (row,) = [r for r in rows if (r["model"], r["metric"]) == ("fparec", NDCG)]
    assert row == {
        "dataset": "beauty",
        "model": "fparec",
        "metric": NDCG,
        "ours": 0.0417,
        "paper": 0.0402,
        "difference": 0.0015,
        "interval": None,
        "mark": None,
        "capped": False,
        "gap": None,
    }


def test_the_leaderboard_in_markdown(data, config):
    finish(data, config, "beauty", {"fparec": 0.0417, "last_ten": 0.0}, hit_cap=True)
    folder = data.trial("beauty", "fparec", 2)
    (folder / "trial.json").unlink()
    text = leaderboard_markdown(
        leaderboard("beauty", data=data).to_dicts(), config.titles_on("beauty")
    )
    interval = r"\[0\.\d{4}, \d\.\d{4}\]"  # over the two users of `trial_folders`
    values = r" \| ".join(
        rf"{value} {interval}" for value in ("0.0834", "0.0417", "0.5000", "0.5000")
    )
    assert re.search(rf"\| FPARec† \| {values} \| 0, 1 \(provisional\) \|", text)
    assert re.search(
        rf"\| Last ten items† \| 0.0000 {interval} \| 0.0000 .* — \| untrained \|", text
    )
