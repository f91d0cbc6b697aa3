"""The tables of docs/results.md show the models that have a median, and no others."""

from trial_folders import make_attempt, write_arms, write_finished

from fparec_pipeline.results.published_tables import published_tables


def test_models_with_stale_trials_are_left_out_and_seeds_beyond_the_studys_are_ignored(
    data, config
):
    arms = ("fparec", "parec", "sasrec", "popularity", "transitions")
    write_arms(data, config, "beauty", {arm: {} for arm in arms})
    write_finished(data, make_attempt(config, "beauty", "fparec", 3))
    for arm in ("sasrec", "transitions"):
        write_finished(data, make_attempt(config, "beauty", arm, 0, fingerprint="other"))
    text = next(t for t in published_tables(data, config) if "Beauty: HR@10\n" in t)
    titles = [line.split(" | ")[0].strip("| ") for line in text.splitlines()[4:]]
    assert titles == ["PARec", "FPARec", "Popularity"]
