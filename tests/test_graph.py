"""The whole Dagster graph on a tiny dataset of a user's own, on an ephemeral instance."""

import datetime
import random
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from fparec_pipeline.definitions import build_defs
from fparec_pipeline.defs.automation import STAGE, TICK, due_stage
from fparec_pipeline.defs.resources import Workspace
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training.record import read_record

OWN = """
[tiny.sources.export]
reader = "csv"
address = "tiny.csv"
user = "who"
item = "what"
time = "when"
[tiny.hyperparameters]
n = 8
d = 8
k = 4
batch_size = 16
min_epochs = 1
max_epochs = 3
"""
STUDIES = """
[table_3]
datasets = ["tiny"]
[benchmark]
datasets = ["tiny"]
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataRoot:
    root = tmp_path_factory.mktemp("data")
    draw = random.Random(0)
    rows = [
        {"who": f"u{user}", "what": f"i{draw.randrange(12)}", "when": 1000 * user + step}
        for user in range(40)
        for step in range(10)
    ]
    pl.DataFrame(rows).write_csv(root / "tiny.csv")
    (root / "datasets.toml").write_text(OWN)
    (root / "studies.toml").write_text(STUDIES)
    return DataRoot(root)


@pytest.fixture(scope="module")
def instance() -> dg.DagsterInstance:
    return dg.DagsterInstance.ephemeral()


def materialize(
    data: DataRoot, instance: dg.DagsterInstance, keys: list[str], partition: str | None
) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        build_defs(data).assets,
        selection=[dg.AssetKey(key.split("/")) for key in keys],
        instance=instance,
        partition_key=partition,
        resources={"workspace": Workspace(data_root=str(data.root)), "listener": lambda p: None},
        raise_on_error=False,
    )


@pytest.fixture(scope="module")
def trained(data: DataRoot, instance: dg.DagsterInstance) -> list[dg.ExecuteInProcessResult]:
    data_run = materialize(data, instance, ["raw", "splits", "references"], "tiny")
    runs = [
        materialize(
            data,
            instance,
            ["trained/fparec", "trained/sasrec"],
            dg.MultiPartitionKey({"dataset": "tiny", "seed": str(seed)}),
        )
        for seed in (0, 1, 2)
    ]
    rest = materialize(data, instance, ["medians", "leaderboard"], "tiny")
    return [data_run, *runs, rest, materialize(data, instance, ["table_3"], None)]


def test_every_run_of_the_graph_succeeds(trained: list[dg.ExecuteInProcessResult]) -> None:
    assert [run.success for run in trained] == [True] * 6
    checks = trained[0].get_asset_check_evaluations()
    assert len(checks) == 5
    assert all(check.passed for check in checks)


def test_a_trial_shows_metrics_costs_curve_and_mlflow(
    trained: list[dg.ExecuteInProcessResult], data: DataRoot
) -> None:
    (event,) = trained[1].asset_materializations_for_node("trained__fparec")
    record = read_record(data.trial("tiny", "fparec", 0))
    assert record is not None
    for name in ("test/hr_at_10", "test/ndcg_at_10"):
        assert event.metadata[name].value == record.metrics[name]
    assert event.metadata["best_epoch"].value == record.best_epoch
    assert {"seconds", "targets_per_second"} <= event.metadata.keys()
    assert event.metadata["learning_curve"].value.startswith("![](data:image/png;base64,")
    assert "/#/experiments/" in event.metadata["mlflow_run"].value


def test_table_3_takes_the_median_and_leaves_gaps(
    trained: list[dg.ExecuteInProcessResult], data: DataRoot
) -> None:
    (event,) = trained[5].asset_materializations_for_node("table_3")
    text = event.metadata["table"].value
    assert text == (data.results / "table_3.md").read_text()
    values = [
        read_record(data.trial("tiny", "fparec", seed)).metrics["test/hr_at_10"]
        for seed in (0, 1, 2)
    ]
    line = next(row for row in text.splitlines() if row.startswith("| FPARec"))
    assert f"{sorted(values)[1]:.4f}" in line
    gap = next(row for row in text.splitlines() if row.startswith("| PARec"))
    assert "—" in gap and "0." not in gap


def test_a_failed_blocking_check_stops_what_is_downstream(data: DataRoot, tmp_path: Path) -> None:
    (tmp_path / "tiny.csv").write_bytes((data.root / "tiny.csv").read_bytes())
    expected = "[tiny]\nexpected = { users = 1, items = 1, interactions = 1 }\n"
    (tmp_path / "datasets.toml").write_text(expected + OWN)
    with dg.DagsterInstance.ephemeral() as instance:
        keys = ["raw", "splits", "references"]
        run = materialize(DataRoot(tmp_path), instance, keys, "tiny")
    assert not run.success
    assert run.asset_materializations_for_node("splits")
    assert not run.asset_materializations_for_node("references")


def test_all_definitions_load_and_trials_are_dataset_by_seed(data: DataRoot) -> None:
    definitions = build_defs(data)
    dg.Definitions.validate_loadable(definitions)
    partitions = definitions.resolve_assets_def(["trained", "fparec"]).partitions_def
    assert isinstance(partitions, dg.MultiPartitionsDefinition)
    keys = partitions.get_partition_keys()
    assert dg.MultiPartitionKey({"dataset": "tiny", "seed": "2"}) in keys
    assert {key.keys_by_dimension["seed"] for key in keys} == {"0", "1", "2"}


def tick_of(data: DataRoot, instance: dg.DagsterInstance) -> list[dg.RunRequest]:
    repository = build_defs(data).get_repository_def()
    schedule = repository.get_schedule_def("weekly_benchmark")
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
    when = datetime.datetime(2026, 11, 22, 3, tzinfo=datetime.UTC)
    context = dg.build_schedule_context(
        instance=instance, scheduled_execution_time=when, repository_def=repository
    )
    return list(schedule.evaluate_tick(context).run_requests or [])


def test_the_schedule_retrains_every_partition_with_the_date_in_the_run_key(data: DataRoot) -> None:
    with dg.instance_for_test() as instance:
        requests = tick_of(data, instance)
    assert [request.run_key for request in requests] == [f"2026-11-22/tiny/{s}" for s in (0, 1, 2)]
    job = build_defs(data).resolve_job_def("train_benchmark")
    for request in requests:
        assert request.run_config["ops"]["trained__fparec"] == {"config": {"retrain": True}}
        dg.validate_run_config(job, request.run_config)


def test_the_schedule_skips_while_the_last_tick_still_runs(data: DataRoot) -> None:
    with dg.instance_for_test() as instance:
        job = build_defs(data).resolve_job_def("render_tables")
        tags = {TICK: "2026-11-15", STAGE: "train"}
        run = instance.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.STARTED)
        assert tick_of(data, instance) == []
        instance.report_run_failed(run)
        assert len(tick_of(data, instance)) == 3


@pytest.mark.parametrize(
    ("train", "medians", "tables", "due"),
    [
        ("", "", "", None),
        ("ss", "", "", None),  # the third run has not been launched
        ("sst", "", "", None),
        ("ssf", "", "", "medians"),  # a failed run has ended too
        ("sss", "t", "", None),
        ("sss", "f", "", "tables"),
        ("sss", "s", "s", None),  # once
    ],
)
def test_tables_are_due_once_when_every_run_of_the_tick_has_ended(
    train: str, medians: str, tables: str, due: str | None
) -> None:
    status = {
        "s": dg.DagsterRunStatus.SUCCESS,
        "f": dg.DagsterRunStatus.FAILURE,
        "t": dg.DagsterRunStatus.STARTED,
    }

    def runs(letters: str) -> list[dg.DagsterRun]:
        return [dg.DagsterRun(job_name="any", status=status[letter]) for letter in letters]

    stages = {"train": runs(train), "medians": runs(medians), "tables": runs(tables)}
    assert due_stage(stages, {"train": 3, "medians": 1}) == due
