"""The schedule that renews champions on newer data: off by default, tested by its ticks."""

import csv
import datetime

import dagster as dg
import polars as pl
import pytest
from data_roots import tiny_root

from fparec_pipeline.config import REFERENCES, load_config
from fparec_pipeline.datasets.files import DatasetError
from fparec_pipeline.datasets.splits import make_splits, read_splits
from fparec_pipeline.defs.build import build_defs
from fparec_pipeline.defs.resources import Workspace
from fparec_pipeline.results.trials import trials_frame
from fparec_pipeline.serving.champion import read_champion, read_pointer
from fparec_pipeline.serving.refresh import Comparison
from fparec_pipeline.training.record import read_record
from fparec_pipeline.training.trial import run_reference, run_trial

pytestmark = pytest.mark.filterwarnings("ignore:Non-compliant tag keys")

NIGHT = datetime.datetime(2024, 5, 5, 4, tzinfo=datetime.UTC)


@pytest.fixture
def data(tmp_path):
    """A data root whose dataset `tiny` is split and has one arm's trials."""
    root = tiny_root(tmp_path, epochs=1)
    config = load_config(root)
    text = (tmp_path / "datasets.toml").read_text().splitlines()
    kept = [line for line in text if not line.startswith("expected")]
    (tmp_path / "datasets.toml").write_text("\n".join(kept))
    make_splits("tiny", config.datasets["tiny"], tmp_path / "tiny.csv", root)
    splits = read_splits(root.splits("tiny"))
    for reference in REFERENCES:
        run_reference("tiny", reference, splits, root)
    for seed in config.seeds:
        run_trial(config.trial("tiny", "average", seed), splits, root, device="cpu")
    return root


def promoted(data):
    from fparec_pipeline.serving.champion import promote
    from fparec_pipeline.serving.choice import choose

    config = load_config(data)
    choice = choose(trials_frame(data, config), "tiny", config, data)
    return promote(choice, read_splits(data.splits("tiny")), config, data, device="cpu")


def definitions(data):
    return build_defs(load_config(data), {"workspace": Workspace(data_root=str(data.root))})


def tick(data, instance):
    repository = definitions(data).get_repository_def()
    schedule = repository.get_schedule_def("refresh")
    # Left open, the context's own copy of the instance stays Dagster's current one, as a weak
    # reference that dies at any moment.
    with dg.build_schedule_context(
        instance=instance,
        scheduled_execution_time=NIGHT,
        resources={"workspace": Workspace(data_root=str(data.root))},
        repository_def=repository,
    ) as context:
        return schedule.evaluate_tick(context).run_requests


def run(data, request, instance):
    job = definitions(data).get_repository_def().get_job("refresh")
    return job.execute_in_process(
        partition_key=request.partition_key,
        run_config=request.run_config or None,
        instance=instance,
        raise_on_error=True,
    )


def append(data):
    """Newer rows at the end of the file."""
    with (data.root / "tiny.csv").open("a", newline="") as file:
        writer = csv.writer(file)
        for late, user in enumerate(range(0, 60, 3), start=50_000):
            writer.writerow([f"user {user}", f"item {user % 20}", late])


@pytest.fixture
def instance():
    with dg.instance_for_test() as temporary:
        yield temporary


def test_it_is_off_until_somebody_starts_it(data):
    schedule = definitions(data).get_repository_def().get_schedule_def("refresh")
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED


def test_a_tick_asks_for_datasets_with_a_champion_and_a_file_that_changed(data, instance):
    append(data)
    assert tick(data, instance) == []  # no champion
    make_splits("tiny", load_config(data).datasets["tiny"], data.root / "tiny.csv", data)
    trained = read_splits(data.splits("tiny"))
    for reference in REFERENCES:
        run_reference("tiny", reference, trained, data)
    config = load_config(data)
    for seed in config.seeds:
        run_trial(config.trial("tiny", "average", seed), trained, data, device="cpu")
    promoted(data)
    assert tick(data, instance) == []  # nothing has changed
    append(data)
    assert [request.partition_key for request in tick(data, instance)] == ["tiny"]


@pytest.mark.parametrize("worse", [False, True])
def test_a_challenger_is_promoted_unless_it_is_significantly_worse(
    data, instance, worse, monkeypatch
):
    before = promoted(data)
    append(data)
    (request,) = tick(data, instance)
    if worse:
        monkeypatch.setattr(Comparison, "worse", property(lambda self: True))
    result = run(data, request, instance)
    assert result.success
    hash_today = read_splits(data.splits("tiny")).stats["data_hash"]
    assert hash_today != before.data_hash
    # The arm was trained on the newer splits either way.
    assert read_record(data.trial("tiny", "average", 0)).data_hash == hash_today
    after = read_champion("tiny", data)
    checks = {
        check.check_name: check.passed
        for check in result.get_asset_check_evaluations()
        if check.asset_key == dg.AssetKey("champion")
    }
    if worse:
        assert after == before
        assert not checks["not_worse"]
    else:
        assert after.data_hash == hash_today
        assert read_pointer("tiny", data).previous == before.fingerprint
        assert checks["not_worse"]
    assert data.recommendations("tiny").exists()
    assert tick(data, instance) == []


def test_it_recommends_as_the_file_that_is_there_was_made(data, instance):
    promoted(data)
    (data.root / "block.txt").write_text("item 7\n")
    job = definitions(data).get_repository_def().get_job("recommend")
    wanted = {"k": 3, "block": str(data.root / "block.txt")}
    config = {"ops": {"recommendations": {"config": wanted}}}
    job.execute_in_process(partition_key="tiny", run_config=config, instance=instance)
    append(data)
    (request,) = tick(data, instance)
    assert run(data, request, instance).success
    table = pl.read_parquet(data.recommendations("tiny"))
    assert table["rank"].max() == 3
    assert "item 7" not in table["item"]


def test_it_looks_at_names_too_and_leaves_a_run_that_still_goes_alone(data, instance):
    promoted(data)
    text = (data.root / "tiny.csv").read_text()
    (data.root / "tiny.csv").write_text(text.replace(",item 3,", ",item 3b,"))
    make_splits("tiny", load_config(data).datasets["tiny"], data.root / "tiny.csv", data)
    (request,) = tick(data, instance)
    job = definitions(data).get_repository_def().get_job("refresh")
    going = instance.create_run_for_job(
        job, tags={"dagster/partition": "tiny"}, status=dg.DagsterRunStatus.STARTED
    )
    assert tick(data, instance) == []
    instance.report_run_failed(going)
    assert run(data, request, instance).success
    assert tick(data, instance) == []


def test_a_night_that_failed_after_the_splits_is_tried_again(data, instance, monkeypatch):
    before = promoted(data)
    append(data)
    (request,) = tick(data, instance)
    with monkeypatch.context() as patch:
        patch.setattr("fparec_pipeline.training.trial.run_trial", _fail)
        with pytest.raises(dg.Failure):
            run(data, request, instance)
    assert read_champion("tiny", data) == before
    (request,) = tick(data, instance)
    assert run(data, request, instance).success
    assert read_champion("tiny", data) != before
    assert tick(data, instance) == []


def _fail(*args, **kwargs):
    raise DatasetError("no electricity")


def test_a_damaged_pointer_leaves_its_dataset_out_of_the_tick(data, instance, caplog):
    promoted(data)
    (data.champions("tiny") / "current.json").write_text("{")
    append(data)
    assert tick(data, instance) == []
    assert "`fparec promote tiny` makes one" in caplog.text
