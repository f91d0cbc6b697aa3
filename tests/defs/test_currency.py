"""What Dagster's page says of splits whose raw file has changed."""

import os

import dagster as dg
from data_roots import tiny_root

from fparec_pipeline.config import load_config
from fparec_pipeline.datasets.sources import fetch_raw
from fparec_pipeline.datasets.splits import make_splits
from fparec_pipeline.defs.currency import CHECK, SPLITS, currency_check, currency_sensor
from fparec_pipeline.defs.resources import Workspace


def test_the_page_says_that_splits_are_outdated_without_a_run(tmp_path):
    data = tiny_root(tmp_path / "data")
    dataset = load_config(data).datasets["tiny"]
    make_splits("tiny", dataset, fetch_raw("tiny", dataset, data), data)
    workspace = Workspace(data_root=str(data.root))
    sensor, cursor = currency_sensor(), None
    key = dg.AssetCheckKey(SPLITS, CHECK)
    with dg.DagsterInstance.ephemeral() as instance:
        seen = []
        for change in (False, False, True):
            if change:
                path = data.root / "tiny.csv"
                path.write_text(path.read_text() + "user 1,item 1,9999\n")
                os.utime(path, (0, 0))
            context = dg.build_sensor_context(
                instance=instance, cursor=cursor, resources={"workspace": workspace}
            )
            answer = sensor(context)
            cursor = context.cursor
            records = instance.event_log_storage.get_asset_check_execution_history(key, limit=9)
            seen.append((answer.skip_message, len(records)))
    assert [count for _, count in seen] == [1, 1, 2]  # reported when the answer has changed
    assert seen[0][0] == "all current"
    assert "tiny" in seen[2][0]
    assert "tiny.csv is not the file" in seen[2][0]
    result = currency_check()(workspace)
    assert (result.passed, set(result.metadata)) == (False, {"tiny"})
