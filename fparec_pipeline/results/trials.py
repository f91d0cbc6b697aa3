"""All finished trials as one frame: read from their folders once, and what every result is made of.

How a trial stands today (done, stale, interrupted) belongs here too; medians do not.
"""

import json
import logging
import re
from pathlib import Path
from typing import Any

import polars as pl

from fparec_pipeline.config import (
    REFERENCES,
    Config,
    ConfigError,
    Study,
    Trial,
    known,
    reference_fingerprint,
)
from fparec_pipeline.datasets.splits import statistics_on_disk, why_outdated
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training import beyond
from fparec_pipeline.training.metrics import NAMES
from fparec_pipeline.training.record import (
    RECORD,
    Attempt,
    Resumed,
    TrialCorrupt,
    TrialRecord,
    is_locked,
    read_attempt,
    read_record,
    trial_folders,
    versions_in_words,
    write_parquet,
)

logger = logging.getLogger(__name__)

THEN = ", then "  # between what trained the beginning of a trial and what resumed it
OUTDATED = "outdated"  # in the place of a data hash
# One column each. Those beyond accuracy are null where a trial has no top-k lists (it is older than
# they are), and where no target is of the kind.
METRICS = NAMES + beyond.NAMES

SCHEMA: dict[str, Any] = {
    "dataset": pl.String,
    "model": pl.String,
    "seed": pl.Int64,
    "trained": pl.Boolean,
    "published": pl.Boolean,
    "attempt": pl.String,
    "fingerprint": pl.String,
    "arm_fingerprint": pl.String,
    "data_hash": pl.String,
    "stale": pl.Boolean,
    "hit_cap": pl.Boolean,
    "epochs": pl.Int64,
    "best_epoch": pl.Int64,
    "seconds": pl.Float64,
    "targets_per_second": pl.Float64,
    "device": pl.String,
    "hardware": pl.String,  # one after the other (THEN), where a trial was resumed by another
    "commit": pl.String,  # as hardware
    "versions": pl.String,  # as hardware
    "finished": pl.String,
    "hyperparameters": pl.String,  # JSON
} | dict.fromkeys(METRICS, pl.Float64)


class TrialsMissing(RuntimeError):
    """The frame of a dataset's trials has not been written yet."""


def trials_frame(data: DataRoot, config: Config, dataset: str | None = None) -> pl.DataFrame:
    """One row per finished trial, one column per entry of SCHEMA (METRICS among them).

    Args:
        data: the data root.
        config: decides which trials are stale.
        dataset: only trials of this dataset; None means all.

    A folder whose `trial.json` cannot be read is left out, with a warning: the tables then show a
    gap. Files beside `trial.json` are not read.

    Trials on unlike data are never compared: where a dataset has no splits here, those that are on
    other data than its newest trial are stale.
    """
    records: dict[str, list[TrialRecord]] = {}
    for folder in trial_folders(data):
        if dataset is not None and folder.parts[-3] != dataset:
            continue
        record = _readable_record(folder)
        if record:
            records.setdefault(record.dataset, []).append(record)
    rows = []
    for name, found in records.items():
        today = data_hash(name, config, data) or _newest_data_hash(found, config)
        rows += [_row(record, is_stale(record, config, today)) for record in found]
    frame = pl.DataFrame(rows, schema=SCHEMA)
    # "The last ten items of the history" has no meaning once the history is removed.
    meaningless = pl.col("model") == "last_ten"
    return frame.with_columns(
        pl.when(~meaningless).then(pl.col(name)).alias(name)
        for name in METRICS
        if "_unseen/" in name
    )


def _newest_data_hash(records: list[TrialRecord], config: Config) -> str | None:
    """The data of the newest trial that today's configuration would give; None: there is none."""
    current = [record for record in records if not is_stale(record, config, None)]
    return max(current, key=lambda record: record.finished).data_hash if current else None


def trials_path(data: DataRoot, dataset: str) -> Path:
    """Where the frame of a dataset's trials lies: the asset `trials` writes it."""
    return data.results / "trials" / f"{dataset}.parquet"


def write_trials(data: DataRoot, config: Config, dataset: str) -> pl.DataFrame:
    """Write the frame of a dataset's trials to `trials_path`, and return it."""
    frame = trials_frame(data, config, dataset)
    write_parquet(trials_path(data, dataset), frame)
    return frame


def read_trials(data: DataRoot, dataset: str | None = None) -> pl.DataFrame:
    """What `write_trials` has written, of one dataset or of all.

    A column that a file lacks (a metric that was added later) is null.

    Raises:
        TrialsMissing: a dataset is named for which nothing was written.
    """
    if dataset is not None and not trials_path(data, dataset).exists():
        raise TrialsMissing(
            f"{trials_path(data, dataset)} is not there: `fparec sync` writes it from the folders "
            "of the finished trials."
        )
    paths = sorted(trials_path(data, "any").parent.glob(f"{dataset or '*'}.parquet"))
    if not paths:
        return pl.DataFrame(schema=SCHEMA)
    return pl.scan_parquet(
        paths, schema=SCHEMA, missing_columns="insert", extra_columns="ignore"
    ).collect()


def known_trials(trials: pl.DataFrame, config: Config) -> pl.DataFrame:
    """Those of datasets and models that the configuration has, which others may have left."""
    models = [*config.arms, *REFERENCES]
    return trials.filter(
        pl.col("dataset").is_in(list(config.datasets)), pl.col("model").is_in(models)
    )


def under_arm_names(trials: pl.DataFrame, study: Study, config: Config) -> pl.DataFrame:
    """The trials of a study, each under every name that the study has for its arm, and references.

    An arm that comes to the hyper-parameters of an earlier one is trained under that one's name.
    """
    names = [
        (dataset, arm, config.trained_as(dataset, arm))
        for dataset in study.datasets
        for arm in study.arms
    ]
    aliases = pl.DataFrame(names, schema=["dataset", "arm", "model"], orient="row")
    own = trials.join(aliases, on=["dataset", "model"]).with_columns(model=pl.col("arm"))
    references = trials.filter(~pl.col("trained"), pl.col("dataset").is_in(study.datasets))
    return pl.concat([own.select(trials.columns), references])


def data_hash(dataset: str, config: Config, data: DataRoot) -> str | None:
    """The logical data hash of today's splits, or None when there are none.

    OUTDATED, which no trial has, where they are not of today's raw file or configuration: what
    hash they would have is not known before they are made again.

    Raises:
        SplitsError: their `stats.json` is damaged.
    """
    stats = statistics_on_disk(data.splits(dataset))
    if dataset in config.datasets and why_outdated(dataset, config.datasets[dataset], data):
        return OUTDATED
    return None if stats is None else str(stats["data_hash"])


def is_stale(attempt: Attempt, config: Config, data_hash: str | None) -> bool:
    """Whether today's configuration, training code or splits would give another trial.

    Args:
        attempt: of a trial finished or not.
        config: today's configuration; a dataset or arm that it does not know makes stale.
        data_hash: of today's splits. None (no splits here, as where a trial was only copied to)
            leaves the data out of the comparison.
    """
    hash_today = data_hash or attempt.data_hash
    dataset, arm = attempt.dataset, attempt.arm
    try:
        if attempt.trained:
            today = config.trial(*attempt.id).fingerprint(hash_today)
        else:
            known(dataset, config.datasets, "dataset")
            known(arm, REFERENCES, "reference")
            today = reference_fingerprint(dataset, arm, hash_today)
    except ConfigError:
        return True
    return today != attempt.fingerprint


def _readable_record(folder: Path) -> TrialRecord | None:
    try:
        return read_record(folder, verify=False)
    except TrialCorrupt as error:
        logger.warning("Left out of the results: %s", error)
        return None


def _row(record: TrialRecord, stale: bool) -> dict[str, Any]:
    values = record.model_dump() | {"stale": stale} | record.metrics
    values["hyperparameters"] = json.dumps(record.hyperparameters)
    makers: list[TrialRecord | Resumed] = [record, *record.resumed]
    values["hardware"] = THEN.join(dict.fromkeys(maker.hardware for maker in makers))
    values["commit"] = THEN.join(dict.fromkeys(maker.commit for maker in makers))
    values["versions"] = THEN.join(
        dict.fromkeys(versions_in_words(maker.versions) for maker in makers)
    )
    return {name: values.get(name) for name in SCHEMA}


def trial_status(trial: Trial, config: Config, data: DataRoot) -> str:
    """ "done", "stale", "running", "interrupted" or "missing": how a trial stands today."""
    folder = data.trial(*trial.id)
    attempt = read_attempt(folder)
    if attempt is None:
        return "missing"
    if is_locked(folder):
        return "running"
    if _readable_record(folder) is None:
        return "interrupted"
    today = trial.fingerprint(data_hash(trial.dataset, config, data) or attempt.data_hash)
    return "done" if attempt.fingerprint == today else "stale"


def disposable(data: DataRoot, config: Config) -> list[tuple[Path, str]]:
    """Folders that stand in no table and are not being trained, with the reason.

    Among them those in which a new attempt was begun beside an older result (`next_folder`).
    """
    begun = (path for path in data.trials.glob("*/*/seed=*.next") if path.is_dir())
    again = sorted(path for path in begun if re.fullmatch(r"seed=\d+\.next", path.name))
    return [
        (folder, reason)
        for folder in [*trial_folders(data), *again]
        if not is_locked(folder) and (reason := why_disposable(folder, data, config))
    ]


def why_disposable(folder: Path, data: DataRoot, config: Config) -> str | None:
    """ "interrupted", "stale", or None: the trial is shown in tables, or there is none.

    Whether it is being trained is not asked: hold its lock. A new attempt that is finished but
    does not stand in the older one's place yet is not disposable: `fparec run` puts it there.
    """
    if folder.name.endswith(".next"):
        return None if (folder / RECORD).exists() or not folder.exists() else "interrupted"
    attempt = read_attempt(folder)
    if attempt is None:
        return None
    if not (folder / RECORD).exists():
        return "interrupted"
    stale = is_stale(attempt, config, data_hash(attempt.dataset, config, data))
    return "stale" if stale else None
