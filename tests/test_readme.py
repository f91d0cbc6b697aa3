"""The figures of the README and of docs/results.md are those of the published trials."""

import polars as pl

from fparec_pipeline.config import load_config
from fparec_pipeline.paths import CHECKOUT, PUBLISHED, DataRoot
from fparec_pipeline.results.published import import_results, read_published
from fparec_pipeline.results.published_tables import published_tables
from fparec_pipeline.results.tables import render
from fparec_pipeline.results.trials import trials_frame


def test_the_readmes_table_is_that_of_the_published_trials(tmp_path):
    data = DataRoot(tmp_path)
    import_results(PUBLISHED, data)
    config = load_config(data)
    table, _ = render("table_3", trials_frame(data, config), config, data)
    assert table in (CHECKOUT / "README.md").read_text(encoding="utf-8")


def test_the_results_pages_tables_are_those_of_the_published_trials(tmp_path):
    data = DataRoot(tmp_path)
    import_results(PUBLISHED, data)
    page = (CHECKOUT / "docs" / "results.md").read_text(encoding="utf-8")
    tables = list(published_tables(data, load_config(data)))
    assert tables
    for table in tables:
        assert table in page


def test_no_published_trial_is_stale(tmp_path):
    data = DataRoot(tmp_path)
    import_results(PUBLISHED, data)
    assert not trials_frame(data, load_config(data))["stale"].any()


def test_published_trials_of_a_seed_are_of_one_commit_that_was_not_changed():
    by_seed = read_published(PUBLISHED).group_by("dataset", "seed")
    for *trials, commit in by_seed.agg(pl.col("commit").unique()).iter_rows():
        assert len(commit) == 1, trials  # what a table compares was trained by one code
        assert len(commit[0]) == 40, trials  # no "-dirty"
