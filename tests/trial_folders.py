"""Writes trials' folders as training leaves them, without training anything."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors.numpy import save_file

from fparec_pipeline.config import REFERENCES, TRAINING_VERSION, Config, reference_fingerprint
from fparec_pipeline.datasets.splits import TABLES
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training.record import (
    ATTEMPT,
    CHECKPOINT,
    HISTORY,
    NO_SEAL,
    RANKS,
    RECORD,
    WEIGHTS,
    Attempt,
    TrialRecord,
    sha256,
    write_checkpoint_seal,
    write_json,
    write_parquet,
)

DATA_HASH = "d" * 16
RANKINGS = ("valid", "valid_unseen", "test", "test_unseen")


def write_splits(
    data: DataRoot, dataset: str, data_hash: str = DATA_HASH, **statistics: float
) -> None:
    """As much of a splits folder as these layers look at."""
    numbers = {"users": 2, "items": 4, "interactions": 8, "average_length": 4.0} | statistics
    files = dict.fromkeys((f"{table}.parquet" for table in TABLES), "")
    stats = {"dataset": dataset, "data_hash": data_hash, "files": files} | numbers
    data.splits(dataset).mkdir(parents=True, exist_ok=True)
    (data.splits(dataset) / "stats.json").write_text(json.dumps(stats))


def make_attempt(config: Config, dataset: str, model: str, seed: int, **changes: Any) -> Attempt:
    """An attempt as today's configuration would start it, but for the `changes`."""
    trained = model not in REFERENCES
    if trained:
        trial = config.trial(dataset, model, seed)
        prints = trial.fingerprint(DATA_HASH), trial.fingerprint(DATA_HASH, with_seed=False)
        hyperparameters = trial.hyperparameters.model_dump()
    else:
        prints = (reference_fingerprint(dataset, model, DATA_HASH),) * 2
        hyperparameters = {}
    values = {
        "attempt": f"{dataset}-{model}-{seed}".encode().hex(),
        "dataset": dataset,
        "model": model,
        "seed": seed,
        "fingerprint": prints[0],
        "arm_fingerprint": prints[1],
        "data_hash": DATA_HASH,
        "hyperparameters": hyperparameters,
        "trained": trained,
        "training_version": TRAINING_VERSION,
        "commit": "c" * 40,
        "versions": {"python": "3.11"},
        "hardware": "a processor, 2 cores",
        "device": "cpu",
        "started": "2024-05-01T10:00:00+00:00",
    }
    return Attempt.model_validate(values | changes)


def make_history(epochs: int) -> list[dict[str, Any]]:
    """One row an epoch of 2 s, each better than the one before."""
    return [
        {
            "epoch": epoch,
            "loss": 9.0 - epoch / 10,
            "valid_hr_at_10": 0.08 + epoch / 1000,
            "valid_ndcg_at_10": 0.04 + epoch / 1000,
            "seconds": 2.0,
            "targets_per_second": 20_000.0,
        }
        for epoch in range(1, epochs + 1)
    ]


def write_unfinished(data: DataRoot, attempt: Attempt, epochs: int = 2) -> Path:
    """An unfinished trial with a checkpoint after so many epochs (none: no checkpoint yet)."""
    folder = data.trial(*attempt.id)
    write_json(folder / ATTEMPT, attempt)
    if epochs:
        state = {"epoch": epochs, "history": make_history(epochs)}
        weights = {"model.weight": np.zeros(3, np.float32)}
        save_file(weights, folder / CHECKPOINT, {"state": json.dumps(state), "sha256": NO_SEAL})
        write_checkpoint_seal(folder / CHECKPOINT)
    return folder


def write_finished(
    data: DataRoot,
    attempt: Attempt,
    metrics: dict[str, float] | None = None,
    *,
    epochs: int = 3,
    hit_cap: bool = False,
) -> Path:
    """A finished trial; `metrics` are laid over 0.5 for every metric of every part."""
    folder = data.trial(*attempt.id)
    write_json(folder / ATTEMPT, attempt)
    users = {"user": [1, 2]} | {part: [3, 40] for part in RANKINGS}
    write_parquet(folder / RANKS, pl.DataFrame(users))
    files = [RANKS]
    if attempt.trained:
        write_parquet(folder / HISTORY, pl.DataFrame(make_history(epochs)))
        save_file({"weight": np.zeros(3, np.float32)}, folder / WEIGHTS)
        files += [HISTORY, WEIGHTS]
    cutoffs = [f"{name}_at_{k}" for name in ("hr", "ndcg") for k in (1, 5, 10, 20, 50)]
    names = [f"{part}/{metric}" for part in RANKINGS for metric in [*cutoffs, "mrr"]]
    record = TrialRecord(
        **attempt.model_dump(),
        finished="2024-05-01T10:05:00+00:00",
        seconds=300.0,
        targets_per_second=20_000.0 if attempt.trained else None,
        epochs=epochs if attempt.trained else 0,
        best_epoch=epochs if attempt.trained else 0,
        hit_cap=hit_cap,
        metrics=dict.fromkeys(names, 0.5) | (metrics or {}),
        files={name: sha256(folder / name) for name in files},
    )
    (folder / CHECKPOINT).unlink(missing_ok=True)
    write_json(folder / RECORD, record)
    return folder


def write_arms(
    data: DataRoot,
    config: Config,
    dataset: str,
    metrics: dict[str, dict[str, float]],
    **options: Any,
) -> None:
    """Splits, and finished trials of every seed of these arms and references, all seeds alike."""
    write_splits(data, dataset)
    for arm, values in metrics.items():
        for seed in (0, 1, 2) if arm in config.arms else (0,):
            write_finished(data, make_attempt(config, dataset, arm, seed), values, **options)
