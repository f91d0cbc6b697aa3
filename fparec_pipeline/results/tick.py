"""What came of the last tick of the weekly schedule: a small file that the report begins with.

Dagster writes it (`defs/automation.py`); who reads it needs no Dagster.

Here belongs the file. What a tick does belongs to `defs/automation.py`.
"""

import json
import logging
from pathlib import Path
from typing import Any

from fparec_pipeline.paths import DataRoot

logger = logging.getLogger(__name__)


def tick_path(data: DataRoot) -> Path:
    """Where the file lies."""
    return data.results / "last_tick.json"


def read_tick(data: DataRoot) -> dict[str, Any] | None:
    """tick (a date), runs (how many) and failed (partition, stage, run, reason), or None."""
    try:
        return json.loads(tick_path(data).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be read: %s", tick_path(data), error)
        return None
