"""Whether splits on disk are of today's raw file and today's configuration.

What belongs here: what splits were made from, and the comparison with what there is now. What does
not: whether a trial is of today's splits (`results.frame`).

`stats.json` keeps the configuration that decides the splits, and a hash of the raw file's content.
`inputs.json` beside it keeps what is cheap to look at: path, size, modification time and inode of
each file. As long as none of these has moved the content is taken to be the same; where one has, as
for a file that was replaced by an older one or a data root that was copied, the content decides.
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from fparec_pipeline.config import Dataset
from fparec_pipeline.datasets.files import atomic, digest
from fparec_pipeline.datasets.sources import (
    RawDataError,
    RawFile,
    other_address,
    raw_files,
    raw_in_place,
)
from fparec_pipeline.paths import DataRoot

SPLITS_VERSION = 1  # raised by hand when the same file and configuration give other splits
INPUTS = "inputs.json"
# What of a dataset and its source is no part of how its rows become splits.
NOT_OF_SPLITS = {"title", "licence", "expected", "source", "sources", "hyperparameters", "like"}
NOT_OF_READING = {"address", "file", "bytes", "manual", "unpacked_bytes"}


def configuration(dataset: Dataset) -> dict[str, Any]:
    """What of a dataset's entry decides its splits, as JSON; keys at their defaults left out."""
    source = dataset.active_source
    own = dataset.model_dump(mode="json", exclude=NOT_OF_SPLITS, exclude_defaults=True)
    reading = source.model_dump(mode="json", exclude=NOT_OF_READING, exclude_defaults=True)
    return {
        **own,
        "core": dataset.core,
        "source": dataset.source_name,
        "reader": source.reader,
        "reading": reading,
        "splits_version": SPLITS_VERSION,
    }


def traces(files: Sequence[RawFile], data: DataRoot) -> list[list[Any]]:
    """Path, size, modification time and inode of each file, as JSON."""
    return [_trace(file.path, data) for file in files]


def _trace(path: Path, data: DataRoot) -> list[Any]:
    status = path.stat()
    place = path.relative_to(data.root) if path.is_relative_to(data.root) else path
    return [str(place), status.st_size, status.st_mtime_ns, status.st_ino]


def content(files: Sequence[RawFile]) -> str:
    """sha256 in hex over the files' names and contents; of one file, over its content alone."""
    digests = [_digest(file.path, *_moved_by(file.path)) for file in files]
    if len(files) == 1:
        return digests[0]
    listed = "".join(f"{file.name} {value}\n" for file, value in zip(files, digests, strict=True))
    return hashlib.sha256(listed.encode()).hexdigest()


def _moved_by(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


@lru_cache(maxsize=10_000)
def _digest(path: Path, size: int, mtime_ns: int, inode: int) -> str:
    return digest(path)


def write_inputs(folder: Path, seen: Sequence[Sequence[Any]]) -> None:
    """Keeps the traces of the files that the splits in `folder` were made from."""
    with atomic(folder / INPUTS) as part:
        part.write_text(json.dumps(seen, indent=2) + "\n", encoding="utf-8")


def outdated(name: str, dataset: Dataset, data: DataRoot, stats: dict[str, Any]) -> str | None:
    """Why the splits with these statistics are not of today's configuration and file, or None.

    A raw file that is not there cannot have changed. Splits without a record, of before there was
    one, are taken to be current if they are of the same source.

    Args:
        name: the dataset.
        dataset: its configuration of today.
        data: where its splits and raw files lie.
        stats: the content of its `stats.json`.
    """
    if "configuration" not in stats:
        source = stats.get("source", dataset.source_name)
        other = source != dataset.source_name
        return f"they were made from the source {source!r}" if other else None
    before, now = stats["configuration"], json.loads(json.dumps(configuration(dataset)))
    if before != now:
        keys = [key for key in now.keys() | before.keys() if before.get(key) != now.get(key)]
        return f"in datasets.toml other values hold for: {', '.join(sorted(keys))}"
    try:
        if address := other_address(name, dataset, data):
            return f"their raw file is from {address}, and datasets.toml names another address"
        raw = raw_in_place(name, dataset, data)
        files = raw_files(raw) if raw else []
        seen = traces(files, data)
        folder = data.splits(name)
        if not files or seen == _seen(folder):
            return None
        if content(files) != stats["content"]:
            return f"{raw} is not the file that they were made from"
    except (RawDataError, OSError):
        return None
    with suppress(OSError):  # a root that cannot be written is looked at again the next time
        write_inputs(folder, seen)
    return None


def is_recorded(stats: dict[str, Any]) -> bool:
    """Whether it is known what the splits with these statistics were made from."""
    return "configuration" in stats


def _seen(folder: Path) -> Any:
    try:
        return json.loads((folder / INPUTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
