"""What a user should know of a dataset's splits, in lines; from their statistics alone.

Here belong the sentences. What is counted belongs to `preprocess.py` and `collecting.py`.
"""

from pathlib import Path
from typing import Any

MANY_DUPLICATES = 0.01  # share of interactions
MANY_REPEATS = 0.05


def notes(stats: dict[str, Any], quarantine: Path) -> list[str]:
    """Rows that were set aside, and repetitions that make every metric too good.

    Args:
        stats: the content of `stats.json`.
        quarantine: where the rows lie that were set aside.
    """
    return [*set_aside(stats, quarantine), *repetitions(stats)]


def set_aside(stats: dict[str, Any], quarantine: Path) -> list[str]:
    """How many rows were set aside, why, and where they are; nothing if there are none."""
    count = stats.get("quarantined_rows", 0)
    if not count:
        return []
    reasons = "; ".join(f"{n:,} × {problem}" for problem, n in stats.get("problems", {}).items())
    of = f" of {stats['rows']:,}" if "rows" in stats else ""
    return [
        f"{stats['dataset']}: {count:,}{of} rows were set aside"
        f"{f' ({reasons})' if reasons else ''}; they are in {quarantine}"
    ]


def repetitions(stats: dict[str, Any]) -> list[str]:
    """Exact duplicates and items that follow themselves, where there are many."""
    found = []
    interactions = max(1, stats.get("interactions", 0))
    duplicates = stats.get("duplicate_interactions", 0)
    repeats = stats.get("consecutive_repeats", 0)
    if duplicates > MANY_DUPLICATES * interactions:
        found.append(
            f"{stats['dataset']}: {duplicates:,} of {interactions:,} interactions repeat another "
            "one exactly (user, item and time), as after an export that was joined twice. That "
            "makes every metric too good. `drop_duplicates = true` keeps the first of each."
        )
    elif repeats > MANY_REPEATS * interactions:
        found.append(
            f"{stats['dataset']}: {repeats:,} of {interactions:,} interactions are of the same "
            "item as the one before. Recommending the last item again is then hard to beat. "
            "`drop_consecutive_repeats = true` keeps the first of each."
        )
    return found
