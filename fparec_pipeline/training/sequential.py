"""How sequential a dataset is: what shuffling every history costs the transitions row.

Belongs to the audit (`datasets.audit`), and stands here because it ranks.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fparec_pipeline.datasets.audit import audit
from fparec_pipeline.datasets.files import write_atomically
from fparec_pipeline.datasets.splits import (
    PARTS,
    TARGET,
    Splits,
    Window,
    read_splits,
    statistics_on_disk,
)
from fparec_pipeline.models.untrained import transitions_scorer
from fparec_pipeline.training.evaluation import EvaluationSet, rank_targets
from fparec_pipeline.training.metrics import metrics_from_ranks

KEPT = "audit.json"  # in the folder of the splits
USERS = 2000  # of which the test targets are ranked, at most


def audit_of(folder: Path) -> dict[str, Any]:
    """`datasets.audit.audit` of splits on disk, with `sequentiality`.

    Args:
        folder: `data/splits/<dataset>/`.

    Raises:
        SplitsError: a file is missing or damaged.
    """
    splits = read_splits(folder)
    parts = [pl.read_parquet(folder / f"{part}.parquet") for part in PARTS]
    rows = pl.concat([part.drop(TARGET, strict=False) for part in parts])
    unit = splits.stats.get("time", {}).get("unit")
    return audit(rows.sort("user", maintain_order=True), unit) | sequentiality(splits)


def keep_audit(folder: Path) -> dict[str, Any]:
    """`audit_of`, kept beside the splits for who shows it; raises as that does."""
    found = audit_of(folder)
    stats = statistics_on_disk(folder) or {}
    with write_atomically(folder / KEPT) as part:
        part.write_text(json.dumps({"data_hash": stats["data_hash"], "audit": found}) + "\n")
    return found


def kept_audit(folder: Path) -> dict[str, Any] | None:
    """What `keep_audit` has kept; None where it has not, or of other splits, or it is damaged.

    Raises:
        SplitsError: `stats.json` cannot be read or is incomplete.
    """
    stats = statistics_on_disk(folder)
    try:
        kept = json.loads((folder / KEPT).read_text())
        if stats is not None and kept["data_hash"] == stats["data_hash"]:
            return dict(kept["audit"])
    except (OSError, ValueError, TypeError, KeyError):
        pass
    return None


def sequentiality(splits: Splits, seed: int = 0) -> dict[str, float]:
    """Test NDCG@10 of the transitions row, as `transitions`; and as `transitions_shuffled`, where
    the training items of every user are shuffled (what is held out stays).

    At most USERS users are ranked, drawn by the seed.
    """
    draw = np.random.default_rng(seed)
    users = np.repeat(np.arange(splits.n_users), np.diff(splits.train_offsets))
    order = np.lexsort((draw.random(len(users)), users))
    shuffled = dataclasses.replace(splits, train_items=splits.train_items[order])
    tested = np.unique(splits.cases("test").users)
    chosen = draw.permutation(tested)[:USERS]
    return {
        "transitions": _ndcg(splits, chosen),
        "transitions_shuffled": _ndcg(shuffled, chosen),
    }


def _ndcg(splits: Splits, users: np.ndarray) -> float:
    """Of the transitions row, over the test targets of these users (counted from 0)."""
    each = np.arange(splits.n_users + 1)  # one interaction a user
    offsets = splits.windows["test"].offsets if splits.windows else each
    owners = np.repeat(np.arange(splits.n_users), np.diff(offsets))
    targets = np.isin(owners, users)
    if splits.windows:
        targets &= splits.windows["test"].targets
    none = np.zeros(len(splits.valid), bool)
    valid = splits.windows["valid"].offsets if splits.windows else each
    few = dataclasses.replace(
        splits, windows={"valid": Window(valid, none), "test": Window(offsets, targets)}
    )
    # The row looks at the last item only.
    ranks = rank_targets(transitions_scorer(splits), EvaluationSet(few, "test", 1))
    return metrics_from_ranks(ranks.kept, ranks.users)["ndcg_at_10"]
