"""The DAGSTER_HOME of a data root, with the packaged `dagster.yaml` in today's version.

Here belongs how that file is brought up to date. Whose home it is, is `context.py`'s business.
"""

import logging
from pathlib import Path

from fparec_pipeline.datasets.files import digest, write_atomically
from fparec_pipeline.paths import PACKAGE, DataRoot

logger = logging.getLogger(__name__)

SETTINGS = "dagster.yaml"
WRITTEN = ".dagster.yaml.sha256"  # of the file as this module wrote it last
# Of the file as it was packaged before its checksum was noted.
EARLIER = "ce7d96cfd43082cfd7b5cf3f7fced98558cd68b9c84923ae63adf1516b3dc71f"


def prepare_dagster_home(data: DataRoot) -> Path:
    """The persistent DAGSTER_HOME of the data root.

    Its `dagster.yaml` is the packaged one of today. A file that somebody has edited is left as it
    is, with a warning when the packaged one has changed since it was copied.
    """
    home = data.dagster_home
    target, note, packaged = home / SETTINGS, home / WRITTEN, PACKAGE / SETTINGS
    today = digest(packaged)
    written = note.read_text().strip() if note.exists() else EARLIER
    there = digest(target) if target.exists() else None
    if there is None or (there == written and there != today):
        with write_atomically(target) as part:
            part.write_bytes(packaged.read_bytes())
        there = today
    if there == today:
        if written != today or not note.exists():
            _note(note, today)
    elif written != today:
        logger.warning(
            "%s has been edited, and the packaged %s has changed since: compare the two, and take "
            "over what you need. This is said once.",
            target,
            packaged,
        )
        _note(note, today)
    return home


def _note(path: Path, checksum: str) -> None:
    with write_atomically(path) as part:
        part.write_text(checksum)
