"""The figures of the README and of docs/results.md are those of the published trials."""

import json
import os
import re
import subprocess
import sys

import polars as pl

from fparec_pipeline.config import load_config
from fparec_pipeline.paths import CHECKOUT, PUBLISHED, DataRoot
from fparec_pipeline.results.published import import_results, read_published
from fparec_pipeline.results.published_tables import published_tables, readme_table
from fparec_pipeline.results.trials import trials_frame


def test_the_readmes_table_is_that_of_the_published_trials(tmp_path):
    data = DataRoot(tmp_path)
    import_results(PUBLISHED, data)
    config = load_config(data)
    assert readme_table(data, config) in (CHECKOUT / "README.md").read_text(encoding="utf-8")


def test_the_results_pages_tables_are_those_of_the_published_trials(tmp_path):
    data = DataRoot(tmp_path)
    import_results(PUBLISHED, data)
    page = (CHECKOUT / "docs" / "results.md").read_text(encoding="utf-8")
    tables = list(published_tables(data, load_config(data)))
    assert tables
    for table in tables:
        assert table in page


def test_the_results_page_shows_what_its_own_tests_print(tmp_path):
    import_results(PUBLISHED, DataRoot(tmp_path))
    page = (CHECKOUT / "docs" / "results.md").read_text(encoding="utf-8")
    section = page.partition("## Tests that no study makes")[2]
    code, printed = re.findall(r"```(?:python)?\n(.*?)```", section, re.DOTALL)[:2]
    root = os.environ | {"FPAREC_DATA": str(tmp_path)}
    assert subprocess.check_output([sys.executable, "-c", code], env=root, text=True) == printed
    assert printed.count("minus") == 27


def test_the_recipe_of_ml_1m_is_that_of_the_log():
    page = (CHECKOUT / "docs" / "results.md").read_text(encoding="utf-8")
    log = (CHECKOUT / "benchmarks" / "measured" / "h100" / "train.jsonl").read_text().splitlines()
    trials = {line["arm"]: line for line in map(json.loads, log) if "arm" in line}
    recipes = {f"rate{r}_dropout{p}": f"| {r}e-3 | 0.{p} | 50 |" for r in (1, 2) for p in (1, 2)}
    recipes |= {f"wide_dropout{p}": f"| 1e-3 | 0.{p} | 128 |" for p in (2, 3)}
    means = {}
    for recipe, row in recipes.items():
        found = [trials[f"{arm}_{recipe}"] for arm in ("fparec", "sasrec")]
        for trial in found:
            row += f" {trial['valid'][0]:.4f} (epoch {trial['best'][0]}) |"
        means[recipe] = sum(trial["valid"][0] for trial in found) / 2
        assert f"{row} {means[recipe]:.4f} |" in page
    h = load_config().hyperparameters("ml-1m", "fparec")
    assert max(means, key=lambda recipe: "wide" not in recipe and means[recipe]) == (
        f"rate{h.learning_rate * 1e3:.0f}_dropout{h.dropout * 10:.0f}"
    )


def test_no_published_trial_is_stale(tmp_path):
    data = DataRoot(tmp_path)
    import_results(PUBLISHED, data)
    assert not trials_frame(data, load_config(data))["stale"].any()


def test_published_trials_of_a_seed_are_of_one_commit_that_was_not_changed():
    """By device, and on a GPU by day: it is lent for minutes, and runs the code of that day.

    Yelp's fixed patterns (Table 4) are the one exception: the commit of its Table 3's seed 0 cannot
    train on AMD. They too are of one commit.
    """
    patterns = ["average", "linear_annealing", "exponential_annealing"]
    later = (pl.col("dataset") == "yelp") & pl.col("model").is_in(patterns)
    trained = read_published(PUBLISHED).filter(pl.col("trained"))
    assert trained.filter(later)["commit"].n_unique() == 1
    lent = pl.when(pl.col("device") == "cuda").then(pl.col("started").str.head(10))
    by_seed = trained.group_by(
        "dataset", "seed", "device", later.alias("later"), lent.alias("lent")
    )
    for *trials, commit in by_seed.agg(pl.col("commit").unique()).iter_rows():
        assert len(commit) == 1, trials  # what a table compares was trained by one code
        assert len(commit[0]) == 40, trials  # no "-dirty"
    # What went on at another commit than it began at: docs/results.md says so of this one.
    resumed = trained.filter(pl.col("resumed") != "[]").select("dataset", "model", "seed")
    assert resumed.rows() == [("ml-1m", "sasrec_d128", 2)]
