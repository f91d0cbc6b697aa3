"""Finished trials that Dagster does not know are shown in every asset that has their arm."""

import dagster as dg
import pytest
from trial_folders import make_attempt, write_finished, write_splits

from fparec_pipeline.config import load_config
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.running.reporting import report_missing

# Where FPARec with the packaged n = 50, k = 20 and two blocks stands.
PLACES = {
    "trained/fparec": "ml-latest-small|0",
    "trained/table_6_arms": "ml-latest-small|fparec_blocks2·0",
    "trained/sequence_length_arms": "ml-latest-small|fparec_short·0",
    "trained/wide_arms": "ml-latest-small|fparec_d50·0",
    "trained/ml_latest_small_recipe_arms": "ml-latest-small|fparec_rate1·0",
    "trained/position_embedding_arms": "ml-latest-small|fparec_without_position·0",
    "trained/formulation_arms": "ml-latest-small|fparec_ours·0",
}


# Dagster's own: `·` in a tag is not what its cloud service allows.
@pytest.mark.filterwarnings("ignore:Non-compliant tag keys")
def test_a_shared_arm_is_reported_once_in_each_of_its_assets(tmp_path):
    data = DataRoot(tmp_path)
    config = load_config(data)
    write_splits(data, "ml-latest-small")
    folder = write_finished(data, make_attempt(config, "ml-latest-small", "fparec", 0))
    with dg.DagsterInstance.ephemeral() as on:
        assert report_missing([folder], config, on) == len(PLACES)
        assert report_missing([folder], config, on) == 0
        for key, partition in PLACES.items():
            wanted = dg.AssetRecordsFilter(dg.AssetKey(key.split("/")))
            (record,) = on.fetch_materializations(wanted, limit=9).records
            assert record.partition_key == partition
            assert record.asset_materialization.metadata["test/hr_at_10"].value == 0.5
