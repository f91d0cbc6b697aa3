"""The forest plot of a dataset: medians with their intervals, where everything lies in it.

What belongs here: the places, in units of the drawing. The template draws them as SVG in the page
itself, so that each row has words for whoever points at it, and the page's own colours.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

WIDTH, LABELS, MARGIN = 440, 150, 12  # the drawing's, the labels' and that at the right
ROW, AXIS = 22, 34  # heights
TICKS = 4

# kind → in the legend
KINDS = {
    "best": "best",
    "higher": "higher, fewer seeds",
    "level": "not significantly behind",
    "behind": "significantly behind",
    "untrained": "untrained",
}


@dataclass(frozen=True)
class Estimate:
    """A row: a median with its interval."""

    label: str
    value: float
    interval: tuple[float, float] | None
    kind: str  # of KINDS
    seeds: str = ""  # as printed


@dataclass(frozen=True)
class Mark:
    """Where a row is drawn, and what it says."""

    estimate: Estimate
    y: float
    x: float
    low: float | None
    high: float | None
    words: str


@dataclass(frozen=True)
class Forest:
    """A forest plot, ready to be drawn."""

    width: int
    height: float
    labels: int  # the labels' width
    marks: tuple[Mark, ...]
    ticks: tuple[tuple[float, str], ...]  # place, label
    legend: tuple[tuple[str, str], ...]  # kind, words


def forest(rows: Sequence[Estimate]) -> Forest:
    """The places of the rows, the first at the top; empty where there is none."""
    ends = [end for row in rows for end in (row.value, *(row.interval or ()))]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    space = 0.04 * (high - low) or 0.01
    low, high = low - space, high + space

    def place(value: float) -> float:
        share = (value - low) / (high - low)
        return round(LABELS + share * (WIDTH - LABELS - MARGIN), 1)

    marks = tuple(
        Mark(
            row,
            y=ROW * (index + 0.5),
            x=place(row.value),
            low=place(row.interval[0]) if row.interval else None,
            high=place(row.interval[1]) if row.interval else None,
            words=_words(row),
        )
        for index, row in enumerate(rows)
    )
    shown = tuple((kind, KINDS[kind]) for kind in KINDS if any(r.kind == kind for r in rows))
    return Forest(
        WIDTH, ROW * len(rows) + AXIS, LABELS, marks, tuple(_ticks(low, high, place)), shown
    )


def _words(row: Estimate) -> str:
    interval = f" [{row.interval[0]:.4f}, {row.interval[1]:.4f}]" if row.interval else ""
    return f"{row.label}: {row.value:.4f}{interval}, {row.seeds}, {KINDS[row.kind]}"


def _ticks(low: float, high: float, place: Callable[[float], float]) -> list[tuple[float, str]]:
    """Round numbers within the axis, at most TICKS + 1."""
    rough = (high - low) / TICKS
    power = 10.0 ** np.floor(np.log10(rough))
    step = float(power * next(m for m in (1, 2, 5, 10) if m * power >= rough))
    first = int(np.ceil(low / step))
    last = int(np.floor(high / step))
    digits = max(0, -int(np.floor(np.log10(step))))
    return [(place(i * step), f"{i * step:.{digits}f}") for i in range(first, last + 1)]
