"""Which trials the report shows, and whether those are today's finished trials.

The report carries a digest for each dataset in its head. What belongs here: writing and comparing
them. What is in the report otherwise belongs to `report`.
"""

import hashlib
import json
import re
from html import unescape

import polars as pl

from fparec_pipeline.paths import DataRoot

META = "fparec-trials"  # the name of the report's element that carries the digests
_HEAD = 20_000  # characters: the element stands before the styles


def digests(trials: pl.DataFrame) -> dict[str, str]:
    """Dataset → a digest of its trials' attempts and of which are stale.

    Args:
        trials: `trials_frame`.
    """
    return {
        str(dataset): hashlib.sha256(
            json.dumps(rows.select("attempt", "stale").sort("attempt").rows()).encode()
        ).hexdigest()[:16]
        for (dataset,), rows in trials.sort("dataset").group_by("dataset", maintain_order=True)
    }


def outdated_report(trials: pl.DataFrame, data: DataRoot) -> dict[str, str]:
    """What the report on disk does not show: dataset → why. Empty where it is current.

    Args:
        trials: `trials_frame`, of today.
        data: whose report is read.
    """
    path = data.results / "report.html"
    today = digests(trials)
    if not path.exists():
        return dict.fromkeys(today, "the report has not been written since it has trials")
    with path.open(encoding="utf-8") as file:
        found = re.search(rf'<meta name="{META}" content="([^"]*)"', file.read(_HEAD))
    shown = json.loads(unescape(found[1])) if found else {}
    return {
        dataset: "its finished trials are others than the report shows"
        for dataset in sorted(today.keys() | shown.keys())
        if today.get(dataset) != shown.get(dataset)
    }
