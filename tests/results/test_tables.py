"""The tables by their names: the paper's formulas and printed values, shared arms, notes."""

import numpy as np
import polars as pl
import pytest
from tiny import PACKAGED, splits_of
from trial_folders import write_arms, write_splits

from fparec_pipeline.config import load_config
from fparec_pipeline.datasets.splits import training_lengths
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.results.significance import bootstrap_interval
from fparec_pipeline.results.tables import render, rendered_study, table_names
from fparec_pipeline.results.trials import trials_frame
from fparec_pipeline.training.metrics import per_target
from fparec_pipeline.training.record import RANKS

HR = "test/hr_at_10"


def finish(data, config, dataset, values):
    """Trials of these arms with such an HR@10."""
    write_arms(data, config, dataset, {arm: {HR: value} for arm, value in values.items()})


def lines(table):
    (block,) = table.blocks
    return {line.arm: line for line in block.lines}


def test_there_is_a_table_for_each_of_the_papers_and_each_study(config):
    names = table_names(config)
    assert names[:6] == ["table_1", "table_2", "table_3", "table_4", "table_5", "table_6"]
    assert set(names) == {"table_1", "table_2", *config.studies}


def test_the_modules_have_the_parameters_of_table_1(data, config):
    """3d², d² + n², d² + 2kn at d = 50, by hand."""
    _, rows = render("table_1", trials_frame(data, config), config, data)
    counts = {(row["model"], row["n"], row["k"]): row["ours"] for row in rows}
    assert counts["sasrec", 50, 20] == counts["sasrec", 500, 40] == 7_500
    assert counts["parec", 50, 20] == 2_500 + 2_500
    assert counts["parec", 500, 40] == 2_500 + 250_000
    assert counts["fparec", 50, 20] == 2_500 + 2_000
    assert counts["fparec", 200, 40] == 2_500 + 16_000
    assert counts["fparec", 500, 40] == 2_500 + 40_000
    assert all(row["paper"] == row["ours"] for row in rows)


def test_table_2_stands_beside_the_papers_and_names_what_has_no_splits(data, config):
    write_splits(
        data, "beauty", users=22363, items=12101, interactions=198502, average_length=8.8763
    )
    text, rows = render("table_2", trials_frame(data, config), config, data)
    assert (
        "| Amazon Beauty | 22,363 (22,363) | 12,101 (12,101) | 198,502 (0.20M) | 8.88 (8.88) |"
        in text
    )
    assert "Yelp 2019 (`fparec run --datasets yelp` prepares it)" in text
    assert {row["dataset"] for row in rows} == {"beauty"}
    assert rows[0] == {"dataset": "beauty", "statistic": "users", "ours": 22363, "paper": 22363.0}


@pytest.mark.parametrize(
    ("table", "arm", "hr", "ndcg"),
    [
        ("table_5", "fparec_k10", 0.2368, 0.1212),
        ("table_5", "fparec_k60", 0.2412, 0.1243),
        ("table_6", "fparec_blocks1", 0.2275, 0.1126),
        ("table_6", "fparec_blocks3", 0.2500, 0.1303),
        ("table_4", "exponential_annealing", 0.2386, 0.1283),
    ],
)
def test_the_papers_printed_values_stand_beside_ours(table, arm, hr, ndcg, data, config):
    finish(data, config, "ml-1m", {arm: 0.2})
    cells = lines(rendered_study(table, trials_frame(data, config), config, data))[arm].cells
    assert (cells[HR].ours, cells[HR].paper) == (0.2, hr)
    assert cells["test/ndcg_at_10"].paper == ndcg


def test_an_arm_that_studies_share_stands_in_the_table_of_each(data, config):
    """n = 500, k = 40 and two blocks: one training, a row in three tables."""
    finish(data, config, "ml-1m", {"fparec_k40": 0.24})
    for study, arm in (
        ("table_5", "fparec_k40"),
        ("table_6", "fparec_blocks2"),
        ("sequence_length", "fparec_long"),
    ):
        found = lines(rendered_study(study, trials_frame(data, config), config, data))
        assert found[arm].cells[HR].ours == 0.24
        assert found[arm].gap is None
        others = [line for model, line in found.items() if line.trained and model != arm]
        assert all(line.gap for line in others)


def test_on_ml_1m_at_n_200_the_papers_text_is_compared_too(data, config):
    finish(data, config, "ml-1m", {"fparec": 0.2300, "sasrec": 0.22})
    (block,) = rendered_study("table_3", trials_frame(data, config), config, data).blocks
    (note,) = block.notes
    assert "FPARec, n = 200: HR@10 0.2300 (0.2351, -0.0051)" in note
    assert "PARec, n = 200: HR@10 — (0.2243, —)" in note
    assert note in render("table_3", trials_frame(data, config), config, data)[0]


def test_at_another_n_the_papers_text_says_nothing(tmp_path):
    data = DataRoot(tmp_path)
    (tmp_path / "datasets.toml").write_text("[ml-1m.hyperparameters]\nn = 500\n")
    config = load_config(data)
    finish(data, config, "ml-1m", {"fparec": 0.24})
    assert rendered_study("table_3", trials_frame(data, config), config, data).blocks[0].notes == ()


def write_users(data, dataset, interactions):
    folder = data.splits(dataset)
    folder.mkdir(parents=True, exist_ok=True)
    pl.DataFrame({"interactions": interactions}).write_parquet(folder / "users.parquet")


def test_windows_are_named_and_their_training_targets_counted(data, config):
    finish(data, config, "beauty", {"fparec": 0.08, "fparec_middle": 0.09, "fparec_long": 0.07})
    histories = [5, 60, 130, 500]
    write_users(data, "beauty", histories)
    (block,) = rendered_study("sequence_length", trials_frame(data, config), config, data).blocks
    titles = [line.title for line in block.lines if line.arm.startswith("fparec_")]
    assert titles == [
        "FPARec, short window (n = 50)",
        "FPARec, middle window (n = 100)",
        "FPARec, long window (n = 200)",
    ]
    # A history of m has m − 2 training items and m − 3 targets.
    naive = [sum(min(m - 3, n) for m in histories) for n in (50, 100, 200, 10_000)]
    words = [f"{count:,}" for count in naive]
    assert block.notes == (
        f"Training targets: {words[0]} with n = 50, {words[1]} with n = 100, {words[2]} with "
        f"n = 200, of {words[3]}. A wider window gives more context and more training data at "
        "once.",
    )


def test_the_lengths_on_disk_are_those_of_the_training_sequences(data):
    sequences = [[1, 2, 3, 4], [2, 3, 4], [1, 2, 3, 4, 5, 6]]
    write_users(data, "own", [len(s) for s in sequences])
    splits = splits_of(sequences)
    expected = [b - a for a, b in zip(splits.train_offsets, splits.train_offsets[1:], strict=False)]
    assert training_lengths(data.splits("own")).tolist() == expected


def test_a_study_lists_the_datasets_on_which_it_was_begun(data, config):
    finish(data, config, "ml-latest-small", {"fparec": 0.1})
    finish(data, config, "beauty", {"average": 0.1})  # no arm of Table 3
    table = rendered_study("table_3", trials_frame(data, config), config, data)
    assert [block.dataset for block in table.blocks] == ["ml-latest-small"]


def test_each_median_stands_with_its_interval_over_users(data, config):
    finish(data, config, "beauty", {"fparec": 0.08, "popularity": 0.01})
    text, rows = render("table_3", trials_frame(data, config), config, data)
    ranks = np.array([3, 40])  # those of every trial that `trial_folders` writes
    for model, title, seeds in (("fparec", "FPARec", 3), ("popularity", "Popularity", 1)):
        cells = next(line for line in text.splitlines() if line.startswith(f"| {title} ")).split(
            " | "
        )
        for metric, cell in ((HR, cells[1]), ("test/ndcg_at_10", cells[3])):
            low, high = bootstrap_interval(per_target(np.stack([ranks] * seeds), metric))
            assert cell.endswith(f" [{low:.4f}, {high:.4f}]")
            (row,) = [r for r in rows if (r["model"], r["metric"]) == (model, metric)]
            assert row["interval"] == (low, high)
    assert "| PARec | — | 0.0806 (—) | — | 0.0395 (—) | — | — |" in text


def test_damaged_ranks_leave_the_median_without_its_interval(data, config, caplog):
    finish(data, config, "beauty", {"fparec": 0.08})
    (data.trial("beauty", "fparec", 1) / RANKS).write_bytes(b"no parquet")
    assert (
        "| FPARec | 0.0800 | 0.0821 (-0.0021) |"
        in render("table_3", trials_frame(data, config), config, data)[0]
    )
    assert "No interval" in caplog.text


def test_every_packaged_study_renders_without_any_trial(data):
    for name in table_names(PACKAGED):
        text, rows = render(name, trials_frame(data, PACKAGED), PACKAGED, data)
        assert text.startswith("## ")
        assert isinstance(rows, list)
