"""A run's news: the newest epoch of each of its trials, in a file that whoever follows it reads.

Here belongs what lets a command show bars of trials that train in other processes or on other
machines, with nothing but the data root between them. What lasts stands in the trial's folder.
"""

import dataclasses
import json
import time
from contextlib import suppress
from pathlib import Path

from fparec_pipeline.config import TrialId
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training.record import Progress

INTERVAL_SECONDS = 0.5


class News:
    """Writes a run's news, at most every INTERVAL_SECONDS."""

    def __init__(self, data: DataRoot, run_id: str) -> None:
        self._path = _path(data, run_id)
        self._newest: dict[TrialId, Progress] = {}
        self._written = -INTERVAL_SECONDS

    def tell(self, progress: Progress) -> bool:
        """Note an epoch; whether it was written now."""
        self._newest[progress.trial] = progress
        if time.monotonic() - self._written < INTERVAL_SECONDS:
            return False
        self._written = time.monotonic()
        with suppress(OSError):  # a full disk is no reason to stop; what has to be written says so
            self._write()
        return True

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps([dataclasses.asdict(p) for p in self._newest.values()]))
        part.replace(self._path)

    def remove(self) -> None:
        """The run has ended."""
        self._path.unlink(missing_ok=True)


def read_news(data: DataRoot, run_id: str) -> list[Progress]:
    """The newest epoch of each trial of the run; none before the first and after the last."""
    try:
        entries = json.loads(_path(data, run_id).read_text())
    except FileNotFoundError:
        return []
    return [Progress(**entry | {"trial": TrialId(*entry["trial"])}) for entry in entries]


def _path(data: DataRoot, run_id: str) -> Path:
    return data.dagster_home / "news" / f"{run_id}.json"
