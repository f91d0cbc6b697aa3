"""A dataset's champion on disk: its folder, the previous one, and how one becomes the champion.

`data/champions/<dataset>/` holds a folder for each champion, named by its fingerprint, and
`current.json`, which says which of them is the champion and which was it before. In a champion's
folder lie the three files of `serving.model` (`champion.json`, written last, is its record), the
learning curve of its refit, and the weights of the trial that was chosen where it has some: a later
challenger is compared with those (`serving.refresh`).

Here belong the folder and what points to it. Who is chosen belongs to `choice.py`, the refit to
`refit.py`.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, ValidationError

from fparec_pipeline.config import Config, Trial
from fparec_pipeline.datasets.files import CHECKSUM, DatasetError, seal, write_atomically
from fparec_pipeline.datasets.splits import Splits, SplitsError
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.serving.choice import Choice, NoChampion
from fparec_pipeline.serving.model import FACTS, ITEMS, WEIGHTS, PackedModel
from fparec_pipeline.serving.refit import OnEpoch, refit, whole
from fparec_pipeline.training.record import (
    HISTORY,
    Attempt,
    TrialRecord,
    is_locked,
    lock_trial,
    now,
    read_record,
    sha256,
    write_json,
    write_parquet,
    write_sealed,
)
from fparec_pipeline.training.trial import begin_attempt, new_attempt

NAMES = "items.parquet"  # of the splits
CHOSEN = "chosen.safetensors"  # the weights that validation saw
POINTER = "current.json"


class ChampionCorrupt(DatasetError):
    """A champion's folder whose files are missing or damaged."""


class StandsOn(BaseModel):
    """The trial whose scores speak for a champion."""

    model_config = ConfigDict(frozen=True)

    fingerprint: str
    attempt: str
    epochs: int  # its best epoch
    n_items: int  # that it knew; a refit may know more
    metrics: dict[str, float]  # all of the trial's, test included


class Champion(Attempt):
    """The content of `champion.json`."""

    title: str
    refit: bool
    note: str  # what its scores are, in a sentence
    stands_on: StandsOn
    choice: Choice
    finished: str
    seconds: float
    files: dict[str, str]  # name -> sha256
    names: str = ""  # sha256 over the items' source ids; older records have none


class Pointer(BaseModel):
    """The content of `current.json`: fingerprints."""

    champion: str
    previous: str | None = None
    refused: str | None = None  # hash of newer data on which the champion was to stay


def promote(
    choice: Choice,
    splits: Splits,
    config: Config,
    data: DataRoot,
    *,
    with_refit: bool = True,
    device: str = "auto",
    on_epoch: OnEpoch | None = None,
) -> Champion:
    """Make the chosen trial the champion of its dataset; the one before becomes the previous.

    A finished folder of the same fingerprint is taken as it is, an unfinished one is resumed.

    Args:
        choice: as `choose` gives it.
        splits: today's.
        config: today's.
        data: where trials and champions lie.
        with_refit: train it on all interactions; False: its weights are the trial's.
        device: for the refit.
        on_epoch: told of each epoch of the refit.

    Raises:
        NoChampion: the trial is not there, or without refit it has no weights.
        SplitsError: the splits on disk are not those that were read.
        TrialLocked: another process refits it.
        TrialCorrupt: the trial or a checkpoint is damaged.
    """
    dataset = choice.dataset
    trial = config.trial(*choice.trial)
    folder_of_trial = data.trial(*choice.trial)
    chosen = read_record(folder_of_trial)
    if chosen is None or chosen.fingerprint != trial.fingerprint(splits.stats["data_hash"]):
        raise NoChampion(f"{choice.trial} is no finished trial of today's configuration and data.")
    items = _items(data.splits(dataset), splits)
    fingerprint = champion_fingerprint(chosen, names_hash(items), with_refit)
    folder = data.champions(dataset) / fingerprint
    with lock_trial(folder):
        champion = _finished(folder)
        if champion is None:
            _keep_chosen(folder_of_trial, folder)
            champion = _make(
                choice, trial, chosen, splits, items, folder, with_refit, device, on_epoch
            )
        elif champion.choice != choice:  # the same weights, chosen anew against others
            champion = write_sealed(folder / FACTS, champion.model_copy(update={"choice": choice}))
    _point(data, dataset, fingerprint)
    return champion


def roll_back(dataset: str, data: DataRoot) -> Champion:
    """Make the previous champion the champion again, and the champion the previous.

    Raises:
        NoChampion: there is no previous one.
        ChampionCorrupt: a file of the previous one is missing or damaged; nothing has changed.
    """
    with _pointing(dataset, data):
        pointer = read_pointer(dataset, data)
        if pointer is None or pointer.previous is None:
            raise NoChampion(f"{dataset} has no previous champion to go back to.")
        made = read_champion(dataset, data, pointer.previous)
        left = _intact(data.champions(dataset) / pointer.champion)
        swapped = Pointer(
            champion=pointer.previous,
            previous=pointer.champion,
            refused=left.data_hash if left else None,
        )
        write_json(data.champions(dataset) / POINTER, swapped)
    return made


def refuse(dataset: str, data: DataRoot, data_hash: str) -> None:
    """Note that no challenger of this data takes the champion's place, so that none is tried again.

    Raises:
        ChampionCorrupt: `current.json` cannot be read.
    """
    with _pointing(dataset, data):
        if pointer := read_pointer(dataset, data):
            noted = pointer.model_copy(update={"refused": data_hash})
            write_json(data.champions(dataset) / POINTER, noted)


def read_pointer(dataset: str, data: DataRoot) -> Pointer | None:
    """Which champions the dataset has, or None when it has none.

    Raises:
        ChampionCorrupt: `current.json` cannot be read.
    """
    path = data.champions(dataset) / POINTER
    try:
        return Pointer.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValidationError, UnicodeDecodeError) as error:
        raise ChampionCorrupt(f"{path} is damaged. {_again(dataset)}") from error


def promoted(data: DataRoot) -> list[str]:
    """The datasets that have a champion, sorted."""
    return sorted(path.parent.name for path in data.champions("").glob(f"*/{POINTER}"))


def champion_folder(dataset: str, data: DataRoot, fingerprint: str | None = None) -> Path:
    """The folder of the dataset's champion, or of another of its champions.

    Raises:
        NoChampion: it has none.
    """
    pointer = read_pointer(dataset, data)
    if pointer is None:
        raise NoChampion(f"{dataset} has no champion yet. {_again(dataset)}")
    return data.champions(dataset) / (fingerprint or pointer.champion)


def read_champion(dataset: str, data: DataRoot, fingerprint: str | None = None) -> Champion:
    """The record of the dataset's champion, or of another of its champions, its files checked.

    Raises:
        NoChampion: it has none.
        ChampionCorrupt: a file is missing or damaged.
    """
    folder = champion_folder(dataset, data, fingerprint)
    champion = _finished(folder)
    if champion is None:
        raise ChampionCorrupt(f"{folder} holds no finished champion. {_again(dataset)}")
    return champion


def load_champion(dataset: str, data: DataRoot) -> PackedModel:
    """The champion, ready to be asked.

    Raises:
        NoChampion: the dataset has none.
        ChampionCorrupt: a file is missing or damaged.
    """
    champion = read_champion(dataset, data)
    return PackedModel.load(data.champions(dataset) / champion.fingerprint)


def champion_fingerprint(chosen: TrialRecord, names: str, with_refit: bool) -> str:
    """16 hex digits that no trial has: other content is hashed.

    Args:
        chosen: the trial.
        names: `names_hash` of the items: weights say nothing of what the items are called.
        with_refit: whether it is trained on all interactions.
    """
    made = {"refit_of": chosen.fingerprint, "epochs": chosen.best_epoch}
    content = (made if with_refit else {"packed": chosen.fingerprint}) | {"names": names}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def names_hash(items: pl.DataFrame) -> str:
    """sha256 over the column `source_id`, in the order of the items."""
    names = items.sort("item")["source_id"].to_list()
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()


def _items(folder: Path, splits: Splits) -> pl.DataFrame:
    """Number, source id and how often it was chosen, of every item of the splits.

    Raises:
        SplitsError: the names in the folder are not those of these splits.
    """
    content = (folder / NAMES).read_bytes()
    if hashlib.sha256(content).hexdigest() != splits.stats["files"][NAMES]:
        raise SplitsError(
            f"{folder}: the splits were made again after they were read. Run the same command "
            "again."
        )
    names = pl.read_parquet(content, columns=["item", "source_id"]).sort("item")
    counts = np.bincount(whole(splits).train_items, minlength=names.height + 1)[1:]
    return names.with_columns(count=pl.Series(counts, dtype=pl.UInt32))


def _finished(folder: Path) -> Champion | None:
    """The record of a finished champion's folder, its files checked; None when it has none."""
    path = folder / FACTS
    try:
        text = path.read_text(encoding="utf-8")
        champion = Champion.model_validate_json(text)
        fits = seal(json.loads(text)) == champion.checksum
    except FileNotFoundError:
        return None
    except (ValidationError, UnicodeDecodeError, ValueError) as error:
        raise ChampionCorrupt(f"{path} is damaged. {_delete(folder)}") from error
    if not fits:
        raise ChampionCorrupt(f"{path} is damaged: its {CHECKSUM} does not fit. {_delete(folder)}")
    for name, expected in champion.files.items():
        if not (folder / name).is_file() or sha256(folder / name) != expected:
            raise ChampionCorrupt(f"{folder / name} is missing or damaged. {_delete(folder)}")
    return champion


def _intact(folder: Path) -> Champion | None:
    """As `_finished`, and None where a file is damaged."""
    try:
        return _finished(folder)
    except ChampionCorrupt:
        return None


def _keep_chosen(trial: Path, folder: Path) -> None:
    """Copy the chosen trial's weights into the champion's folder, where it has some."""
    if (trial / WEIGHTS).exists():
        with write_atomically(folder / CHOSEN) as part:
            shutil.copyfile(trial / WEIGHTS, part)


def _make(
    choice: Choice,
    trial: Trial,
    chosen: TrialRecord,
    splits: Splits,
    items: pl.DataFrame,
    folder: Path,
    with_refit: bool,
    device: str,
    on_epoch: OnEpoch | None,
) -> Champion:
    """The finished folder, whose lock is held: weights, items, and the record last."""
    if with_refit:
        attempt, state = refit(trial, chosen, splits, folder, device=device, on_epoch=on_epoch)
        seconds = state.seconds
        note = (
            "Trained on all interactions, validation and test included, so it has no test score "
            f"of its own: the scores are those of the trial {choice.trial}, trained without them."
        )
    else:
        attempt, seconds = _packed(trial, chosen, splits, folder), 0.0
        note = f"The weights and the scores are those of the trial {choice.trial}."
    n_items = whole(splits).n_items if with_refit else splits.n_items
    write_parquet(folder / ITEMS, items.filter(pl.col("item") <= n_items))
    names = [name for name in (WEIGHTS, ITEMS, HISTORY, CHOSEN) if (folder / name).exists()]
    champion = Champion(
        **attempt.model_dump(exclude={CHECKSUM}),
        title=choice.title,
        refit=with_refit,
        note=note,
        stands_on=StandsOn(
            fingerprint=chosen.fingerprint,
            attempt=chosen.attempt,
            epochs=chosen.best_epoch,
            n_items=splits.n_items,
            metrics=chosen.metrics,
        ),
        choice=choice,
        finished=now(),
        seconds=seconds,
        files={name: sha256(folder / name) for name in names},
        names=names_hash(items),
    )
    return write_sealed(folder / FACTS, champion)


def _packed(trial: Trial, chosen: TrialRecord, splits: Splits, folder: Path) -> Attempt:
    """The trial's own weights as the champion's."""
    if not (folder / CHOSEN).exists():
        raise NoChampion(
            f"{trial.id} has no weights here: published trials come without. Let it be refitted, "
            f"or train it: {trial.id.command} --retrain"
        )
    attempt = new_attempt(trial, splits, "cpu").model_copy(update={"fingerprint": folder.name})
    written = begin_attempt(folder, attempt)
    with write_atomically(folder / WEIGHTS) as part:
        shutil.copyfile(folder / CHOSEN, part)
    return written


def _point(data: DataRoot, dataset: str, fingerprint: str) -> None:
    """Let `current.json` name the new champion; whoever is neither it nor the previous goes.

    A previous one that is missing or damaged is none. Where `current.json` itself was damaged,
    nobody goes.
    """
    folder = data.champions(dataset)
    with _pointing(dataset, data):
        try:
            old, damaged = read_pointer(dataset, data), False
        except ChampionCorrupt:
            old, damaged = None, True
        if old and old.champion == fingerprint:
            new = old
        else:
            new = Pointer(champion=fingerprint, previous=old.champion if old else None)
        if new.previous and _intact(folder / new.previous) is None:
            new = new.model_copy(update={"previous": None})
        if new != old:
            write_json(folder / POINTER, new)
            if not damaged:
                _sweep(folder, new)


def _sweep(folder: Path, pointer: Pointer) -> None:
    for path in folder.iterdir():
        kept = path.name in (pointer.champion, pointer.previous)
        if path.is_dir() and not kept and (path / FACTS).exists() and not is_locked(path):
            shutil.rmtree(path)


@contextmanager
def _pointing(dataset: str, data: DataRoot) -> Iterator[None]:
    """Two processes that promote move `current.json` one after the other."""
    with lock_trial(data.champions(dataset)):
        yield


def _again(dataset: str) -> str:
    return f"`fparec promote {dataset}` makes one."


def _delete(folder: Path) -> str:
    return f"Delete {folder}, then {_again(folder.parent.name)}"


def facts_of(champion: Champion) -> dict[str, Any]:
    """What a page shows of a champion, plainly."""
    choice = champion.choice
    return {
        "arm": champion.arm,
        "seed": champion.seed,
        "refit": champion.refit,
        "epochs": champion.stands_on.epochs,
        choice.metric: choice.median,
        "fingerprint": champion.fingerprint,
        "trial": str(choice.trial),
        "note": champion.note,
    }
