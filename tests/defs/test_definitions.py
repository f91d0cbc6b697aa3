"""The code location as a whole."""

import json
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from data_roots import tiny_root

from fparec_pipeline.config import TrialId, load_config
from fparec_pipeline.defs.build import build_defs
from fparec_pipeline.defs.requests import training_job
from fparec_pipeline.defs.training import places

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_root(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def defs(data):
    return build_defs(load_config(data))


def asset(defs, *path):
    return defs.resolve_assets_def(dg.AssetKey(list(path)))


def test_all_definitions_load_together(defs):
    dg.Definitions.validate_loadable(defs)


def test_dagster_validates_the_checkouts_workspace(data):
    result = subprocess.run(
        [Path(sys.executable).with_name("dagster"), "definitions", "validate"],
        cwd=CHECKOUT,
        env=os.environ | {"FPAREC_DATA": str(data.root)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_loading_the_definitions_imports_neither_torch_nor_mlflow(data):
    code = (
        "import json, sys, fparec_pipeline.definitions;"
        "print(json.dumps([name for name in ('torch', 'mlflow') if name in sys.modules]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"FPAREC_DATA": str(data.root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(result.stdout) == []


def test_a_trial_is_one_partition_of_its_arms_asset(defs):
    for model in ("fparec", "sasrec", "exponential_annealing"):
        partitions = asset(defs, "trained", model).partitions_def
        dimensions = {d.name: d.partitions_def for d in partitions.partitions_defs}
        assert set(dimensions) == {"dataset", "seed"}
        assert "tiny" in dimensions["dataset"].get_partition_keys()
        assert "beauty" in dimensions["dataset"].get_partition_keys()
        assert dimensions["seed"].get_partition_keys() == ["0", "1", "2"]


@pytest.mark.parametrize(
    "name", ["raw", "splits", "references", "trials", "medians", "leaderboard"]
)
def test_the_other_steps_are_by_dataset(defs, data, name):
    partitions = asset(defs, name).partitions_def
    assert partitions.get_partition_keys() == list(load_config(data).datasets)


def test_a_table_has_no_partitions(defs):
    assert asset(defs, "table_3").partitions_def is None


GROUPS = ("data", "benchmark_arms", "study_arms", "results", "tables", "figures", "serving")


def test_every_asset_says_what_it_is(defs, data):
    specs = {spec.key: spec for spec in defs.resolve_all_asset_specs()}
    config = load_config(data)
    arms = set(config.arms) - set(config.variants)
    studies = {f"{study}_arms" for study in config.variants.values()}
    others = {"raw", "splits", "references", "trials", "medians", "leaderboard"}
    results = {"table_1", "table_2", "figure_1", "figure_3", "figure_4", "report", *config.studies}
    serving = {"champion", "recommendations"}
    assert {key.to_user_string() for key in specs} == others | results | serving | {
        f"trained/{name}" for name in arms | studies
    }
    for spec in specs.values():
        assert spec.description
        assert spec.owners
        assert spec.kinds
        assert spec.code_version
        assert spec.group_name in GROUPS


def test_training_waits_in_the_pool(defs):
    assert asset(defs, "trained", "fparec").op.pool == "training"


def test_trials_depend_on_every_arm_and_the_references(defs, data):
    parents = defs.resolve_asset_graph().get(dg.AssetKey("trials")).parent_keys
    config = load_config(data)
    arms = set(config.arms) - set(config.variants)
    trained = {dg.AssetKey(["trained", model]) for model in arms}
    studies = {dg.AssetKey(["trained", f"{name}_arms"]) for name in config.variants.values()}
    assert parents == trained | studies | {dg.AssetKey("references")}


VARYING = ("table_5", "table_6", "sequence_length", "position_embedding")  # studies with variants


@pytest.mark.parametrize("study", VARYING)
def test_a_study_with_variants_is_one_asset_by_dataset_and_arm_with_seed(defs, data, study):
    partitions = asset(defs, "trained", f"{study}_arms").partitions_def
    dimensions = {d.name: d.partitions_def for d in partitions.partitions_defs}
    assert set(dimensions) == {"dataset", "trial"}
    config = load_config(data)
    assert dimensions["trial"].get_partition_keys() == [
        f"{arm}·{seed}" for arm in config.studies[study].arms for seed in (0, 1, 2)
    ]
    job = defs.resolve_job_def(f"train_{study}").asset_layer
    assert job.executable_asset_keys == {dg.AssetKey(["trained", f"{study}_arms"])}


def test_a_trial_is_shown_in_every_study_that_has_its_arm(data):
    """n = 500, k = 40 and two blocks stand in three studies; the first of them trains it."""
    shown = places(load_config(data), TrialId("ml-1m", "fparec_k40", 1))
    assert [(key.path[-1], str(partition)) for key, partition in shown] == [
        ("table_5_arms", "ml-1m|fparec_k40·1"),
        ("table_6_arms", "ml-1m|fparec_blocks2·1"),
        ("sequence_length_arms", "ml-1m|fparec_long·1"),
    ]


def test_what_the_configuration_does_not_know_is_shown_nowhere(data):
    config = load_config(data)
    assert places(config, TrialId("no_dataset", "fparec", 0)) == []
    assert places(config, TrialId("beauty", "no_arm", 0)) == []
    assert places(config, TrialId("beauty", "fparec", 99)) == []


def test_the_report_is_rendered_with_the_tables(defs, data):
    job = defs.resolve_job_def("render_tables").asset_layer
    expected = {"table_1", "table_2", *load_config(data).studies, "report"}
    assert {key.to_user_string() for key in job.executable_asset_keys} == expected


def test_each_study_has_a_training_job(defs):
    for study in ("table_3", "table_4", "benchmark"):
        assert defs.resolve_job_def(f"train_{study}")
    arms = defs.resolve_job_def("train_table_4").asset_layer.executable_asset_keys
    assert arms == {
        dg.AssetKey(["trained", model])
        for model in (
            "fparec",
            "parec",
            "sasrec",
            "average",
            "linear_annealing",
            "exponential_annealing",
        )
    }


def test_an_arm_that_no_study_names_has_a_job(tmp_path):
    data = tiny_root(tmp_path)
    (tmp_path / "models.toml").write_text('[mine]\nmixer = "average"\n')
    config = load_config(data)
    key = dg.AssetKey(["trained", "mine"])
    made = build_defs(config)
    job = made.resolve_job_def(training_job(config, key))
    assert key in job.asset_layer.executable_asset_keys
    assert training_job(config, dg.AssetKey(["trained", "fparec"])) == "train_benchmark"
