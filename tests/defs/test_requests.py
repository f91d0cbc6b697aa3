"""Which run trains which trials, as the command and the weekly schedule ask for them."""

import dagster as dg
import pytest
from data_roots import tiny_root

from fparec_pipeline.config import load_config
from fparec_pipeline.defs import gpus
from fparec_pipeline.defs.build import build_defs
from fparec_pipeline.defs.requests import training_requests

STUDIES = """
[table_3]
datasets = ["tiny"]
seeds = [0, 1, 2, 3]
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    root = tiny_root(tmp_path_factory.mktemp("data"))
    (root.root / "studies.toml").write_text(STUDIES)
    return load_config(root)


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setenv(gpus.VISIBLE, "")


def asked_for(config, seeds, **options):
    trials = config.trials(["tiny"], ["fparec", "sasrec"], seeds)
    return list(training_requests(trials, config, **options))


def seeds_of(found):
    return [(of[0].arm, [trial.seed for trial in of]) for _, of in found]


def test_without_a_gpu_a_run_trains_one_trial(config):
    found = asked_for(config, [0, 1])
    assert seeds_of(found) == [("fparec", [0]), ("sasrec", [0]), ("fparec", [1]), ("sasrec", [1])]
    assert seeds_of(asked_for(config, [0, 1], device="cpu")) == seeds_of(found)
    request, _ = found[0]
    assert request.partition_key == "tiny|0"
    assert request.tags == {"dataset": "tiny", "arm": "fparec", "seed": "0"}
    assert request.run_config == {}  # as the page's button asks for it


def test_on_a_gpu_a_run_trains_the_seeds_of_an_arm_and_none_between_them(config, monkeypatch):
    monkeypatch.setenv(gpus.VISIBLE, "0")
    found = asked_for(config, [0, 1, 3])
    assert seeds_of(found) == [
        ("fparec", [0, 1]),
        ("fparec", [3]),
        ("sasrec", [0, 1]),
        ("sasrec", [3]),
    ]
    request, _ = found[0]
    assert request.tags["seed"] == "0, 1"
    job = build_defs(config).resolve_job_def(request.job_name)
    partitions = job.asset_layer.get(request.asset_selection[0]).partitions_def
    keys = [request.tags[f"dagster/asset_partition_range_{end}"] for end in ("start", "end")]
    assert partitions.get_partition_keys_in_range(dg.PartitionKeyRange(*keys)) == keys


def test_a_run_has_three_seeds_at_most(config):
    found = asked_for(config, [0, 1, 2, 3], device="cuda")
    assert seeds_of(found)[:2] == [("fparec", [0, 1, 2]), ("fparec", [3])]


def test_a_backfill_of_the_page_has_as_many_seeds_a_run(config, monkeypatch):
    def policy():
        assets = build_defs(config).resolve_asset_graph()
        return assets.get(dg.AssetKey(["trained", "fparec"])).backfill_policy

    assert policy() is None  # a run for each partition
    monkeypatch.setenv(gpus.VISIBLE, "0")
    assert policy() == dg.BackfillPolicy.multi_run(3)


def test_the_configuration_says_what_is_not_the_default(config):
    request, _ = asked_for(config, [0], device="cpu", retrain=True)[0]
    assert request.run_config == {
        "ops": {"trained__fparec": {"config": {"retrain": True}}},
        "resources": {"workspace": {"config": {"device": "cpu"}}},
    }
    job = build_defs(config).resolve_job_def(request.job_name)
    dg.validate_run_config(job, request.run_config)
