"""Published results: out and in again, and what is refused."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from data_roots import tiny_root

from fparec_pipeline.config import load_config
from fparec_pipeline.datasets.sources import fetch_raw
from fparec_pipeline.datasets.splits import make_splits, read_splits
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.results import published as published_module
from fparec_pipeline.results.paper_figures import read_weights
from fparec_pipeline.results.published import export_results, import_results
from fparec_pipeline.results.trials import METRICS, trials_frame
from fparec_pipeline.training.metrics import NAMES
from fparec_pipeline.training.record import (
    RECORD,
    PublishedError,
    Resumed,
    read_record,
    write_sealed,
)
from fparec_pipeline.training.trial import run_reference, run_trial


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """A data root in which two trials of one epoch, one of them resumed, and a reference are."""
    data = tiny_root(tmp_path_factory.mktemp("origin"), epochs=1)
    config = load_config(data)
    dataset = config.datasets["tiny"]
    splits = make_splits("tiny", dataset, fetch_raw("tiny", dataset, data), data)
    for seed in (0, 1):
        run_trial(config.trial("tiny", "fparec", seed), splits, data, device="cpu")
    other = Resumed(epoch=1, commit="b" * 40, versions={"torch": "2.11.0"}, hardware="another")
    record = read_record(data.trial("tiny", "fparec", 1)).model_copy(update={"resumed": (other,)})
    write_sealed(data.trial("tiny", "fparec", 1) / RECORD, record)
    run_reference("tiny", "popularity", splits, data)
    return data


@pytest.fixture(scope="module")
def published(origin, tmp_path_factory):
    target = tmp_path_factory.mktemp("published")
    names = export_results(origin, load_config(origin), target)
    assert sorted(names) == ["tiny/fparec/seed=0", "tiny/fparec/seed=1", "tiny/popularity/seed=0"]
    return target


@pytest.fixture
def elsewhere(origin, tmp_path):
    """A data root of the same configuration and without any trial."""
    for name in ("datasets.toml", "studies.toml"):
        (tmp_path / name).write_bytes((origin.root / name).read_bytes())
    return DataRoot(tmp_path)


def test_imported_trials_are_those_exported_but_for_weights_lists_and_the_mark(
    origin, published, elsewhere
):
    assert len(import_results(published, elsewhere).added) == 3
    for name in ("fparec/seed=0", "fparec/seed=1", "popularity/seed=0"):
        there, here = (read_record(root.trials / "tiny" / name) for root in (origin, elsewhere))
        expected = there.model_dump(exclude={"checksum"}) | {"published": True}
        found = here.model_dump(exclude={"checksum"})
        files = expected.pop("files").keys() - {"model.safetensors", "lists.parquet"}
        assert found.pop("files").keys() == files
        assert found == expected
        for file in files:
            first, second = (
                pl.read_parquet(root.trials / "tiny" / name / file) for root in (origin, elsewhere)
            )
            assert first.equals(second)


@pytest.fixture
def with_weights(origin, tmp_path):
    """Published where the paper's figures are about this dataset, at the window of the trials."""
    config = load_config(origin)
    n = config.trial("tiny", "fparec", 0).hyperparameters.n
    target = tmp_path / "with_weights"
    export_results(origin, config.model_copy(update={"figure_windows": {"tiny": (n,)}}), target)
    return target


def test_weights_that_a_figure_shows_are_published_and_no_others(origin, with_weights, elsewhere):
    import_results(with_weights, elsewhere)
    shown, other = (elsewhere.trials / f"tiny/fparec/seed={seed}" for seed in (0, 1))
    expected = (origin.trials / "tiny/fparec/seed=0/model.safetensors").read_bytes()
    assert (shown / "model.safetensors").read_bytes() == expected
    assert "model.safetensors" in read_record(shown).files
    assert not (other / "model.safetensors").exists()
    trial = load_config(elsewhere).trial("tiny", "fparec", 0)
    assert read_weights(trial, load_config(elsewhere), elsewhere)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"other weights")])
def test_weights_that_are_not_those_of_the_trial_are_refused(damage, with_weights, elsewhere):
    (path,) = with_weights.glob("weights/*/*")
    damage(path)
    with pytest.raises(PublishedError, match=f"{path.name} is missing or not what was published"):
        import_results(with_weights, elsewhere)
    assert read_record(elsewhere.trials / "tiny/fparec/seed=0") is None


def test_results_published_before_a_metric_was_there_have_none_of_it(
    published, elsewhere, tmp_path
):
    older = tmp_path / "older"
    shutil.copytree(published, older)
    trials = pl.read_parquet(older / "trials.parquet")
    trials.select(pl.exclude(set(METRICS) - set(NAMES))).write_parquet(older / "trials.parquet")
    import_results(older, elsewhere)
    frame = trials_frame(elsewhere, load_config(elsewhere))
    assert frame.select(NAMES).null_count().sum_horizontal().item() == 0
    assert frame["test/coverage_at_10"].null_count() == frame.height == 3


def test_results_are_computed_from_imported_trials_as_from_ones_own(origin, published, elsewhere):
    import_results(published, elsewhere)
    frames = [
        trials_frame(root, load_config(root)).sort("model", "seed") for root in (origin, elsewhere)
    ]
    assert frames[0].select(METRICS).equals(frames[1].select(METRICS))
    assert frames[1]["published"].all()
    assert not frames[1]["stale"].any()


def test_a_metric_newer_than_the_publication_is_computed_from_its_ranks(
    origin, published, elsewhere, tmp_path
):
    older = tmp_path / "older"
    shutil.copytree(published, older)
    trials = pl.read_parquet(older / "trials.parquet")
    trials.drop("test/mrr", "valid/hr_at_5").write_parquet(older / "trials.parquet")
    import_results(older, elsewhere)
    for name in ("fparec/seed=1", "popularity/seed=0"):
        found, expected = (
            read_record(root.trials / "tiny" / name).metrics for root in (elsewhere, origin)
        )
        assert found == pytest.approx(expected, rel=1e-12)


def test_the_command_that_remakes_a_trial_stands_in_its_row(published):
    trials = pl.read_parquet(published / "trials.parquet")
    row = trials.row(by_predicate=(pl.col("model") == "fparec") & (pl.col("seed") == 1), named=True)
    command = "fparec run --datasets tiny --models fparec --seeds 1 --device cpu"
    assert row["command"] == command
    assert json.loads(row["hyperparameters"])["mixer"] == "factorized_positional"


def test_a_trial_that_is_there_is_left_as_it_is(origin, published, elsewhere):
    import_results(published, elsewhere)
    again = import_results(published, elsewhere)
    assert (len(again.added), len(again.kept)) == (0, 3)
    before = read_record(origin.trials / "tiny/fparec/seed=0")
    import_results(published, origin)
    assert read_record(origin.trials / "tiny/fparec/seed=0") == before


@pytest.fixture
def half_imported(published, elsewhere, monkeypatch):
    """The folder of a trial whose import ended between its two records."""
    write = published_module.write_sealed

    def interrupted(path, content):
        if path.name == "trial.json":
            raise KeyboardInterrupt
        return write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(published_module, "write_sealed", interrupted)
        with pytest.raises(KeyboardInterrupt):
            import_results(published, elsewhere)
    (attempt,) = elsewhere.trials.glob("*/*/*/attempt.json")
    return attempt.parent


def test_an_interrupted_import_is_finished_by_the_next(half_imported, published, elsewhere):
    assert len(import_results(published, elsewhere).added) == 3
    assert read_record(half_imported).published


def test_a_trial_trained_where_an_import_was_interrupted_is_not_called_published(
    half_imported, origin, elsewhere
):
    shutil.copytree(origin.splits("tiny"), elsewhere.splits("tiny"))
    assert half_imported == elsewhere.trial("tiny", "fparec", 0)
    trial = load_config(elsewhere).trial("tiny", "fparec", 0)
    splits = read_splits(elsewhere.splits("tiny"))
    assert not run_trial(trial, splits, elsewhere, device="cpu").published


def test_stale_trials_are_not_exported(origin, tmp_path, elsewhere):
    changed = (origin.root / "datasets.toml").read_text().replace("d = 8", "d = 4")
    (elsewhere.root / "datasets.toml").write_text(changed)
    names = export_results(origin, load_config(elsewhere), tmp_path / "out")
    assert names == ["tiny/popularity/seed=0"]


def test_nothing_to_export_is_an_error_that_says_where(elsewhere, tmp_path):
    with pytest.raises(PublishedError, match="no finished trial"):
        export_results(elsewhere, load_config(elsewhere), tmp_path / "out")


def test_metrics_that_the_ranks_do_not_give_are_refused(published, elsewhere, tmp_path):
    source = tmp_path / "tampered"
    shutil.copytree(published, source)
    better = pl.read_parquet(published / "trials.parquet").with_columns(
        pl.col("test/ndcg_at_10") + 0.001
    )
    better.write_parquet(source / "trials.parquet")
    with pytest.raises(PublishedError, match="do not give its published metrics"):
        import_results(source, elsewhere)


@pytest.mark.parametrize("damaged", ["trials.parquet", "ranks/tiny.parquet", "history.parquet"])
def test_a_damaged_file_is_named(damaged, published, elsewhere, tmp_path):
    source = tmp_path / "damaged"
    (source / "ranks").mkdir(parents=True)
    for name in ("trials.parquet", "ranks/tiny.parquet", "history.parquet"):
        (source / name).write_bytes((published / name).read_bytes())
    (source / damaged).write_bytes(b"no parquet")
    with pytest.raises(PublishedError, match=damaged):
        import_results(source, elsewhere)


def rewritten(path, change):
    change(pl.read_parquet(path)).write_parquet(path)


TRIALS, EPOCHS, TINY = "trials.parquet", "history.parquet", "ranks/tiny.parquet"


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (EPOCHS, lambda f: f.filter(pl.col("seed") == 1), "history.parquet does not have the ep"),
        (EPOCHS, lambda f: f.with_columns(epoch=2), "does not have the epochs of tiny/fparec/seed"),
        (EPOCHS, lambda f: f.with_columns(pl.col("valid_ndcg_at_10") + 1e-9), "have the epochs"),
        (EPOCHS, lambda f: f.drop("valid_ndcg_at_10"), r"cannot be read from .*ColumnNotFound"),
        (TRIALS, lambda f: f.select("attempt"), "needs the columns dataset, model, seed, trained"),
        (
            TRIALS,
            lambda f: f.with_columns(model=pl.lit("../../evil")),
            r"evil/seed=. is no trial's",
        ),
        (TRIALS, lambda f: f.with_columns(dataset=pl.lit("..")), "is no trial's name"),
        (TRIALS, lambda f: f.with_columns(seed=-1), "seed=-1 is no trial's name"),
        (TRIALS, lambda f: f.drop("versions"), "tiny/fparec/seed=0 cannot be read from"),
        (TRIALS, lambda f: f.drop("commit"), r"not what `fparec results export` writes \(Valid"),
        (TRIALS, lambda f: f.with_columns(hyperparameters=pl.lit("{")), "JSONDecodeError"),
        (TINY, lambda f: f.drop("valid"), r"cannot be read from .*ColumnNotFoundError"),
    ],
)
def test_what_is_no_publication_is_refused_in_one_line_and_nothing_is_written(
    file, change, message, published, elsewhere, tmp_path
):
    source = tmp_path / "a" / "b" / "source"
    shutil.copytree(published, source)
    rewritten(source / file, change)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(PublishedError, match=message) as error:
        import_results(source, elsewhere)
    assert len(str(error.value).splitlines()) == 1
    assert set(tmp_path.rglob("*")) == before


def test_missing_epochs_are_an_error_that_names_the_file(published, elsewhere, tmp_path):
    shutil.copytree(published, tmp_path / "source")
    (tmp_path / "source" / EPOCHS).unlink()
    with pytest.raises(PublishedError, match=r"history\.parquet cannot be read"):
        import_results(tmp_path / "source", elsewhere)


def test_an_empty_folder_is_an_error_that_says_how_one_is_made(elsewhere, tmp_path):
    with pytest.raises(PublishedError, match="fparec results export"):
        import_results(tmp_path / "nothing", elsewhere)
