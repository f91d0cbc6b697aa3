"""The whole Dagster graph on a tiny dataset of a user's own, on an ephemeral instance."""

from pathlib import Path

import dagster as dg
import pytest
from data_roots import tiny_root

from fparec_pipeline.config import load_config
from fparec_pipeline.datasets.checks import CHECKS
from fparec_pipeline.defs.build import build_defs
from fparec_pipeline.defs.resources import Workspace
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training.record import read_record


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataRoot:
    return tiny_root(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def instance() -> dg.DagsterInstance:
    return dg.DagsterInstance.ephemeral()


def materialize(
    data: DataRoot, instance: dg.DagsterInstance, keys: list[str], partition: str | None
) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        build_defs(load_config(data)).assets,
        selection=[dg.AssetKey(key.split("/")) for key in keys],
        instance=instance,
        partition_key=partition,
        resources={"workspace": Workspace(data_root=str(data.root))},
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
    rest = materialize(data, instance, ["trials", "medians", "leaderboard"], "tiny")
    return [data_run, *runs, rest, materialize(data, instance, ["table_3"], None)]


def test_every_run_of_the_graph_succeeds(trained: list[dg.ExecuteInProcessResult]) -> None:
    assert [run.success for run in trained] == [True] * 6
    checks = trained[0].get_asset_check_evaluations()
    assert len(checks) == len(CHECKS)
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
    assert "#/experiments/" in event.metadata["mlflow_run"].value


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


def test_the_report_shows_the_trials_and_is_found_in_mlflow(
    trained: list[dg.ExecuteInProcessResult], data: DataRoot, instance: dg.DagsterInstance
) -> None:
    (event,) = materialize(data, instance, ["report"], None).asset_materializations_for_node(
        "report"
    )
    html = Path(event.metadata["path"].value).read_text(encoding="utf-8")
    record = read_record(data.trial("tiny", "fparec", 0))
    assert record.fingerprint in html
    assert "#/experiments/" in html  # the trials' own runs
    assert "/artifacts/report.html" in event.metadata["report"].value


def test_a_failed_blocking_check_stops_what_is_downstream(tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        keys = ["raw", "splits", "references"]
        run = materialize(tiny_root(tmp_path, expected_users=1), instance, keys, "tiny")
    assert not run.success
    assert run.asset_materializations_for_node("splits")
    assert not run.asset_materializations_for_node("references")


# A study that shares an arm: n = 8 is the dataset's own, so that `fparec_eight` is `fparec`.
STUDY = """
[windows]
title = "Windows"
models = ["fparec"]
datasets = ["tiny"]
seeds = [0]
variants.eight = { n = 8 }
variants.five = { n = 5 }
"""


def test_an_arm_that_studies_share_is_trained_once_and_shown_in_both(tmp_path: Path) -> None:
    data = tiny_root(tmp_path)
    with (tmp_path / "studies.toml").open("a") as file:
        file.write(STUDY)
    with dg.DagsterInstance.ephemeral() as instance:
        materialize(data, instance, ["raw", "splits", "references"], "tiny")
        seed_0 = dg.MultiPartitionKey({"dataset": "tiny", "seed": "0"})
        assert materialize(data, instance, ["trained/fparec"], seed_0).success
        folder = data.trial("tiny", "fparec", 0)
        attempt = read_record(folder).attempt
        for arm in ("fparec_eight", "fparec_five"):
            key = dg.MultiPartitionKey({"dataset": "tiny", "trial": f"{arm}·0"})
            assert materialize(data, instance, ["trained/windows_arms"], key).success
        materialize(data, instance, ["trials"], "tiny")
        run = materialize(data, instance, ["windows"], None)
    assert read_record(folder).attempt == attempt
    assert not data.trial("tiny", "fparec_eight", 0).exists()
    five = read_record(data.trial("tiny", "fparec_five", 0))
    assert five.hyperparameters["n"] == 5
    (event,) = run.asset_materializations_for_node("windows")
    text = event.metadata["table"].value
    for title, record in (("| FPARec, n = 8", read_record(folder)), ("| FPARec, n = 5", five)):
        line = next(row for row in text.splitlines() if title in row)
        assert f"{record.metrics['test/hr_at_10']:.4f}" in line
