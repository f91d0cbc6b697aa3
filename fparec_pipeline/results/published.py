"""Published results: finished trials as three kinds of parquet files, and a few trials' weights.

Notable:
* `trials.parquet` has one row a trial (configuration, provenance, costs, metrics of both rankings,
  the command that trains it again); `history.parquet` one row an epoch; `ranks/<dataset>.parquet`
  one row a trial and user. `weights/` has those that the paper's figures show; their sha256 stands
  in the trial's row. Metrics are recomputed from the ranks at every import: one that is
  newer than the publication has its value from there. Those beyond accuracy need the top-k lists,
  which are not published: they are taken as they are, or are null.
* An imported trial is an ordinary folder marked `published`, so that tables, leaderboard, Dagster
  and MLflow need not know where it was trained. It never takes the place of a trial that is there.

Here belong writing and reading those files. The tables of what is published belong to
`published_tables.py`.
"""

import json
import shlex
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from fparec_pipeline.config import DATASET_NAME, TRIAL_KEYS, Config, TrialId, is_name
from fparec_pipeline.datasets.files import write_atomically
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.results.paper_figures import trials_shown
from fparec_pipeline.results.trials import METRICS, data_hash, is_stale
from fparec_pipeline.training.metrics import RANKINGS, metrics_of_table
from fparec_pipeline.training.record import (
    ATTEMPT,
    HISTORY,
    HISTORY_SCHEMA,
    RANKS,
    RECORD,
    WEIGHTS,
    Attempt,
    PublishedError,
    TrialCorrupt,
    TrialRecord,
    lock_trial,
    read_attempt,
    read_record,
    sha256,
    trial_folders,
    write_parquet,
    write_sealed,
)

TRIALS_FILE = "trials.parquet"
JSON_COLUMNS = ("hyperparameters", "versions", "resumed")
TOLERANCE = 1e-12  # of a recomputed metric: the order of a sum may differ
NEAR_TIES = 1e-4  # of one evaluated twice where scores that are nearly equal may change places
BRING_BACK = "Bring the folder back from the repository, for instance with `git checkout`."


@dataclass(frozen=True)
class Imported:
    """What an import did, as lists of "dataset/model/seed=N"."""

    added: list[str]
    kept: list[str]  # a local trial stands there already


def export_results(
    data: DataRoot, config: Config, target: Path, datasets: Iterable[str] | None = None
) -> list[str]:
    """Write the finished trials that are not stale to `target`, replacing what it holds.

    Args:
        data: whose trials are published, untrained references among them.
        config: decides what is stale.
        target: a folder, made when it is not there.
        datasets: only these; None: all.

    Returns:
        "dataset/model/seed=N" of each exported trial.

    Raises:
        TrialCorrupt: a trial's file fails its checksum.
        PublishedError: there is nothing to export.
    """
    wanted = None if datasets is None else set(datasets)
    found = [
        (folder, record)
        for folder in trial_folders(data)
        if wanted is None or folder.parts[-3] in wanted
        if (record := read_record(folder))
        if not is_stale(record, config, data_hash(record.dataset, config, data))
    ]
    if not found:
        raise PublishedError(
            f"{data.trials} holds no finished trial of {', '.join(wanted or ['any dataset'])}; "
            "train some with `fparec run`."
        )
    shown, rows = trials_shown(config), []
    for folder, record in found:
        weights = record.files.get(WEIGHTS) if record.id in shown else None
        if weights:
            _copy(folder / WEIGHTS, _weights_file(target, record.id))
        rows.append(_row(record) | {"weights": weights})
    write_parquet(target / TRIALS_FILE, pl.DataFrame(rows, infer_schema_length=None))
    histories = [_labelled(r, f / HISTORY) for f, r in found if (f / HISTORY).exists()]
    if histories:
        write_parquet(target / HISTORY, pl.concat(histories))
    for dataset in dict.fromkeys(record.dataset for _, record in found):
        ranks = [_labelled(r, f / RANKS) for f, r in found if r.dataset == dataset]
        frame = pl.concat(ranks, how="vertical_relaxed")
        _write_ranks(target / "ranks" / f"{dataset}.parquet", _smallest(frame))
    return [str(record.id) for _, record in found]


def import_results(
    source: Path, data: DataRoot, on_trial: Callable[[int, int], None] | None = None
) -> Imported:
    """Bring the published trials in `source` into the trial store, each as a folder of its own.

    A trial that is there already, in whatever state, is left as it is; but what an import left
    that was interrupted is written again.

    Args:
        source: a folder that `export_results` wrote.
        data: where the trials go.
        on_trial: told after each trial how many are done, and of how many.

    Raises:
        PublishedError: a file is missing, damaged or no published one, or ranks or epochs are not
            those of the published metrics.
    """
    trials = read_published(source)
    history = _read(source / HISTORY) if trials["trained"].any() else None
    added: list[str] = []
    kept: list[str] = []
    for (dataset,), rows in trials.group_by("dataset", maintain_order=True):
        ranks = _read(source / "ranks" / f"{dataset}.parquet")
        for row in rows.to_dicts():
            trial = _trial(row)
            folder = data.trial(*trial)
            if _is_there(folder):
                kept.append(str(trial))
            else:
                try:
                    of_trial = _of_trial(ranks, row), _of_trial(history, row)
                    _write_trial(folder, row, *of_trial, source)
                except (KeyError, TypeError, ValueError, pl.exceptions.PolarsError) as error:
                    problem = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
                    raise PublishedError(
                        f"{trial} cannot be read from {source}: it is not what `fparec results "
                        f"export` writes ({problem}). {BRING_BACK}"
                    ) from error
                added.append(str(trial))
            if on_trial:
                on_trial(len(added) + len(kept), trials.height)
    return Imported(added, kept)


def _is_there(folder: Path) -> bool:
    """Whether a trial stands there, and not only the beginning of an import."""
    if not (folder / ATTEMPT).exists() or (folder / RECORD).exists():
        return (folder / ATTEMPT).exists()
    try:
        begun = read_attempt(folder)
    except TrialCorrupt:
        return True
    return begun is not None and not begun.published


def read_published(source: Path) -> pl.DataFrame:
    """The published trials, one row each.

    Raises:
        PublishedError: the file is missing or damaged, or names what no trial is called.
    """
    path = source / TRIALS_FILE
    if not path.exists():
        raise PublishedError(
            f"{path} is not there: no results are published in {source}. "
            "`fparec results export` makes such a folder from finished trials."
        )
    trials = _read(path)
    wanted = {name: trials.schema.get(name, pl.Null) for name in (*TRIAL_KEYS, "trained")}
    dataset, model, seed, trained = wanted.values()
    if not (dataset == model == pl.String and seed.is_integer() and trained == pl.Boolean):
        raise PublishedError(
            f"{path} is no table of published trials: it needs the columns {', '.join(wanted)}. "
            f"{BRING_BACK}"
        )
    for dataset, model, seed in trials.select(TRIAL_KEYS).iter_rows():
        named = is_name(dataset or "", DATASET_NAME) and is_name(model or "")
        if not named or seed is None or seed < 0:  # they become folders
            raise PublishedError(
                f"{path}: {dataset}/{model}/seed={seed} is no trial's name: dataset and model are "
                "ASCII letters, digits and _, a dataset has - and . too, and a seed is at least 0. "
                f"{BRING_BACK}"
            )
    return trials


def _read(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise PublishedError(
            f"{path} cannot be read ({str(error).partition(chr(10))[0]}). {BRING_BACK}"
        ) from error


def _trial(row: dict[str, Any]) -> TrialId:
    return TrialId(*(row[name] for name in TRIAL_KEYS))


def _row(record: TrialRecord) -> dict[str, Any]:
    """A trial as one flat row."""
    values = record.model_dump(exclude={"metrics", "files", "published", "checksum"})
    values |= {"resumed": [each.model_dump() for each in record.resumed]}
    for column in JSON_COLUMNS:
        values[column] = json.dumps(values[column], sort_keys=True)
    return (
        values | {"command": command(values)} | {name: record.metrics.get(name) for name in METRICS}
    )


def command(trial: dict[str, Any]) -> str:
    """What trains the trial, or ranks the untrained rows of its dataset, where it is not there."""
    if trial["trained"]:
        return f"{_trial(trial).command} --device {trial['device']}"
    return shlex.join(["fparec", "run", "--datasets", trial["dataset"]])


def _labelled(record: TrialRecord, path: Path) -> pl.DataFrame:
    labels = [pl.lit(v).alias(name) for name, v in zip(TRIAL_KEYS, record.id, strict=True)]
    return pl.read_parquet(path).select(*labels, pl.all())


def _smallest(frame: pl.DataFrame) -> pl.DataFrame:
    """Integers in the smallest type that holds them."""
    return pl.DataFrame([column.shrink_dtype() for column in frame])


def _write_ranks(path: Path, frame: pl.DataFrame) -> None:
    """Two thirds of what Polars writes: a dictionary of ranks is larger than the ranks."""
    encodings = {"user": "DELTA_BINARY_PACKED"} | dict.fromkeys(RANKINGS, "BYTE_STREAM_SPLIT")
    with write_atomically(path) as part:
        pq.write_table(
            frame.to_arrow(compat_level=pl.CompatLevel.oldest()),
            part,
            compression="zstd",
            compression_level=9,
            use_dictionary=list(TRIAL_KEYS),
            column_encoding=encodings,
        )


def _of_trial(frame: pl.DataFrame | None, row: dict[str, Any]) -> pl.DataFrame | None:
    if frame is None:
        return None
    return frame.filter(*(pl.col(name) == row[name] for name in TRIAL_KEYS)).drop(TRIAL_KEYS)


def _weights_file(published: Path, trial: TrialId) -> Path:
    return published / "weights" / trial.dataset / f"{trial.arm}-seed-{trial.seed}.safetensors"


def _import_weights(source: Path, row: dict[str, Any], folder: Path) -> list[str]:
    """Bring the published weights of a trial, if there are any; the names of files written."""
    expected, path = row.get("weights"), _weights_file(source, _trial(row))
    if expected is None:
        return []
    if not path.is_file() or sha256(path) != expected:
        raise PublishedError(f"{path} is missing or not what was published. {BRING_BACK}")
    _copy(path, folder / WEIGHTS)
    return [WEIGHTS]


def _copy(source: Path, target: Path) -> None:
    with write_atomically(target) as part:
        shutil.copyfile(source, part)


def _write_trial(
    folder: Path,
    row: dict[str, Any],
    ranks: pl.DataFrame | None,
    history: pl.DataFrame | None,
    source: Path,
) -> None:
    """The folder of one published trial, its record last."""
    computed = {} if ranks is None else metrics_of_table(ranks)
    published = {name: row[name] for name in METRICS if row.get(name) is not None}
    if ranks is None or not _agree(computed, published):
        raise PublishedError(
            f"The published ranks of {_trial(row)} do not give its published metrics. {BRING_BACK}"
        )
    if row["trained"] and (history is None or not _fits(history, row, computed)):
        raise PublishedError(
            f"{source / HISTORY} does not have the epochs of {_trial(row)}. {BRING_BACK}"
        )
    parsed = {name: json.loads(row[name]) for name in JSON_COLUMNS if name in row}
    values = row | parsed | {"published": True}
    values |= {"metrics": computed | published, "files": {}}
    attempt = Attempt.model_validate(_keys_of(Attempt, values))
    record = TrialRecord.model_validate(_keys_of(TrialRecord, values))
    with lock_trial(folder):
        write_parquet(folder / RANKS, _smallest(ranks))
        files = [RANKS, *_import_weights(source, row, folder)]
        if row["trained"] and history is not None:
            write_parquet(folder / HISTORY, history.cast(HISTORY_SCHEMA))  # type: ignore[arg-type]
            files.append(HISTORY)
        write_sealed(folder / ATTEMPT, attempt)
        sums = {name: sha256(folder / name) for name in files}
        write_sealed(folder / RECORD, record.model_copy(update={"files": sums}))


def _keys_of(kind: type[Attempt], values: dict[str, Any]) -> dict[str, Any]:
    """The values that a record of this kind has: a published row has columns of its own too."""
    keys = {field.alias or name for name, field in kind.model_fields.items()}
    return {key: value for key, value in values.items() if key in keys}


def _fits(history: pl.DataFrame, row: dict[str, Any], computed: dict[str, float]) -> bool:
    """Whether the epochs are the trial's: as many, and the best one as good as its ranks."""
    best = history.filter(pl.col("epoch") == row["best_epoch"])["valid_ndcg_at_10"].to_list()
    # The best weights are evaluated again at the end: exactly alike on one CPU in equal blocks.
    one_cpu = row["device"] == "cpu" and row.get("resumed") in (None, "[]")
    alike = one_cpu and row.get("block_parts", 1) == 1
    tolerance = TOLERANCE if alike else NEAR_TIES
    near = len(best) == 1 and abs(best[0] - computed["valid/ndcg_at_10"]) <= tolerance
    return near and history["epoch"].sort().to_list() == list(range(1, row["epochs"] + 1))


def _agree(computed: dict[str, float], published: dict[str, float]) -> bool:
    there = computed.keys() & published.keys()
    return all(abs(computed[name] - published[name]) <= TOLERANCE for name in there)
