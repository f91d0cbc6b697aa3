"""A study's result table: ours beside the paper's, as plain data and as markdown.

Notable:
* One block a dataset, one line a model, the untrained references beneath; best and second are
  found for each dataset and metric among the trained models, on the values as printed.
* What is missing stays a visible gap, with its reason beneath the table.

Here belong a table's cells and its markdown. Which tables there are belongs to `tables.py`.
"""

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from fparec_pipeline.config import Config, Study
from fparec_pipeline.results.medians import COLUMNS, MedianKey
from fparec_pipeline.results.winner import Winner

DIGITS = 4  # as many as the paper prints
DASH = "—"
DAGGER = "†"

Mark = Literal["best", "second"] | None


@dataclass(frozen=True)
class Cell:
    """One metric of one model on one dataset."""

    ours: float | None  # rounded to DIGITS; None is a gap, or has no meaning
    paper: float | None
    mark: Mark = None
    interval: tuple[float, float] | None = None  # 95 % over users; see `significance`

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's, None when one of the two is missing."""
        if self.ours is None or self.paper is None:
            return None
        return round(self.ours - self.paper, DIGITS)


@dataclass(frozen=True)
class Line:
    """One model, or untrained reference, on one dataset."""

    arm: str  # or an untrained reference
    title: str
    trained: bool
    capped: bool  # a trial of it hit the epoch cap
    gap: str | None  # why there are no values
    cells: dict[str, Cell]  # one for each of COLUMNS
    trained_as: str  # the name of its trials' folders
    fingerprint: str | None  # the `arm_fingerprint` of its trials

    def trials(self, table: "Table", block: "Block") -> MedianKey:
        """What `UserRanks` reads the line by; an untrained reference has one seed."""
        seeds = table.seeds if self.trained else (0,)
        return block.dataset, self.trained_as, seeds, self.fingerprint


@dataclass(frozen=True)
class Block:
    """All lines of one dataset, the references last."""

    dataset: str
    title: str
    lines: list[Line]
    notes: tuple[str, ...] = ()  # sentences to stand beneath it

    @property
    def in_paper(self) -> tuple[str, ...]:
        """The metrics that the paper reports of anything here."""
        return tuple(
            metric
            for metric in COLUMNS
            if any(line.cells[metric].paper is not None for line in self.lines)
        )


@dataclass(frozen=True)
class Table:
    """A study's table."""

    name: str
    title: str
    seeds: tuple[int, ...]
    blocks: list[Block]


def study_table(
    name: str,
    study: Study,
    medians: pl.DataFrame,
    config: Config,
    notes: Mapping[str, Sequence[str]] | None = None,
) -> Table:
    """The table of a study.

    Args:
        name: the study's name, under which `config.paper` holds the paper's numbers.
        study: its models, datasets (perhaps a part of the configured ones) and seeds.
        medians: `study_medians` of the same study.
        config: for titles and the paper's numbers.
        notes: dataset -> sentences to stand beneath its block.
    """
    blocks = []
    for dataset in study.datasets:
        rows = medians.filter(pl.col("dataset") == dataset).to_dicts()
        paper = config.paper.get(name, {}).get(dataset, {})
        marks = {metric: _marks(rows, metric) for metric in COLUMNS}
        shown = {row["model"]: config.titles[row["model"]] for row in rows}
        titles = config.told_apart(shown | _titles_with_window(dataset, study, config))
        lines = [
            Line(
                arm=row["model"],
                title=titles[row["model"]],
                trained=row["trained"],
                capped=bool(row["capped"]) and row["gap"] is None,
                gap=row["gap"],
                cells={
                    metric: Cell(
                        ours=_rounded(row[metric]),
                        paper=_paper_value(paper.get(row["model"], {}), metric),
                        mark=marks[metric].get(row["model"]),
                    )
                    for metric in COLUMNS
                },
                trained_as=config.trained_as(dataset, row["model"]),
                fingerprint=row["arm_fingerprint"],
            )
            for row in rows
        ]
        remarks = *_at_another_n(dataset, lines, config), *(notes or {}).get(dataset, ())
        blocks.append(Block(dataset, config.datasets[dataset].title or dataset, lines, remarks))
    return Table(name, study.title, study.seeds, blocks)


def _titles_with_window(dataset: str, study: Study, config: Config) -> dict[str, str]:
    """The arms' titles with their window n, where it is not the same for all."""
    windows = {arm: config.hyperparameters(dataset, arm).n for arm in study.arms}
    if len(set(windows.values())) < 2:
        return {}
    return {arm: f"{config.titles[arm]} (n = {n})" for arm, n in windows.items()}


def _at_another_n(dataset: str, lines: list[Line], config: Config) -> list[str]:
    """What the paper's text says of the windows that the arms have, ours beside it."""
    found = []
    for line in lines:
        if not line.trained:
            continue
        n = config.hyperparameters(dataset, line.arm).n
        trained_as = config.trained_as(dataset, line.arm)
        reported = config.paper_at_n.get(dataset, {}).get(n, {}).get(trained_as, {})
        for metric, heading in COLUMNS.items():
            value = _paper_value(reported, metric)
            if value is not None:
                cell = Cell(line.cells[metric].ours, value)
                beside = f"{_number(cell.ours)} ({_number(value)}, {_difference(cell)})"
                found.append(f"{line.title}, n = {n}: {heading} {beside}")
    if not found:
        return []
    return [f"The paper's text (Section 4.7) has these at the same n: {'; '.join(found)}."]


def to_rows(table: Table) -> list[dict[str, Any]]:
    """The table flat: one dict per dataset, model and metric."""
    return [
        {
            "dataset": block.dataset,
            "model": line.arm,
            "metric": metric,
            "ours": cell.ours,
            "paper": cell.paper,
            "difference": cell.difference,
            "interval": cell.interval,
            "mark": cell.mark,
            "capped": line.capped,
            "gap": line.gap,
        }
        for block in table.blocks
        for line in block.lines
        for metric, cell in line.cells.items()
    ]


def to_markdown(table: Table) -> str:
    """The table in markdown: best bold, second in italics, footnotes beneath."""
    seeds = ", ".join(str(seed) for seed in table.seeds)
    caption = (
        f"Test set, every user ranked against all items; median of seeds {seeds}. Bold: best, "
        "italic: second, among the trained models. In square brackets the 95 % interval: a "
        "bootstrap over users, which does not cover the variance of training."
    )
    if any(block.in_paper for block in table.blocks):
        caption += " Beside it the paper's number, and in round brackets ours minus it."
    parts = [f"## {escaped(table.title)}", caption]
    for block in table.blocks:
        notes = map(escaped, block.notes)
        parts += [f"### {escaped(block.title)}", _block_markdown(block), *notes]
    return "\n\n".join([*parts, *_footnotes(table)]) + "\n"


def compact_markdown(table: Table, metric: str = "test/ndcg_at_10") -> str:
    """One metric of a table: a row a model, a column a dataset, the paper's number in brackets."""
    blocks = table.blocks
    lines = []
    for line in blocks[0].lines:
        cells = [escaped(line.title.partition(" (n = ")[0])]
        for block in blocks:
            cell = next(each for each in block.lines if each.arm == line.arm).cells[metric]
            number = f"**{_number(cell.ours)}**" if cell.mark == "best" else _number(cell.ours)
            cells.append(number + (f" ({_number(cell.paper)})" if cell.paper is not None else ""))
        lines.append(cells)
    return markdown_table(["model", *(escaped(b.title) for b in blocks)], lines, text_columns=1)


def leaderboard_markdown(
    rows: list[dict[str, Any]], titles: Mapping[str, str], found: Winner | None = None
) -> str:
    """A dataset's leaderboard, its entries in their order, as a markdown table.

    Args:
        rows: `medians.leaderboard` of one dataset, perhaps with intervals.
        titles: arm -> name as printed; an arm that it lacks keeps its name.
        found: the winner: it stands in bold, what cannot be told from it has the mark ≈, and what
            is higher with fewer seeds ↑.
    """
    lines = []
    level, higher = (found.level, found.provisional_above) if found else ((), ())
    for row in rows:
        seeds = ", ".join(str(seed) for seed in row["seeds"]) if row["trained"] else "untrained"
        notes = [note for note in ("provisional", "published") if row.get(note) and row["trained"]]
        name = escaped(titles.get(row["model"], row["model"])) + (DAGGER if row["capped"] else "")
        if found and row["model"] == found.arm:
            name = f"**{name}**"
        if row["model"] in level:
            name += f" {LEVEL}"
        if row["model"] in higher:
            name += f" {HIGHER}"
        values = [_with_interval(row, metric) for metric in COLUMNS]
        lines.append([name, *values, seeds + (f" ({', '.join(notes)})" if notes else "")])
    text = markdown_table(["model", *COLUMNS.values(), "seeds"], lines, text_columns=1)
    notes = [_CAPPED] if any(row["capped"] for row in rows) else []
    if found and level:
        notes.append(f"{LEVEL} Not significantly behind the best in {COLUMNS[found.metric]}.")
    if found and higher:
        notes.append(f"{HIGHER} Higher in {COLUMNS[found.metric]}, but with fewer seeds.")
    return "\n\n".join([text, *notes]) + "\n"


def _with_interval(row: dict[str, Any], metric: str) -> str:
    low, high = row.get(f"{metric}/low"), row.get(f"{metric}/high")
    number = _number(_rounded(row[metric]))
    return number if low is None else f"{number} [{_number(low)}, {_number(high)}]"


LEVEL = "≈"
HIGHER = "↑"
_CAPPED = f"{DAGGER} A trial was stopped by its epoch cap: it might have become better."


def _block_markdown(block: Block) -> str:
    header = ["model"]
    for metric, heading in COLUMNS.items():
        header += [heading, "paper"] if metric in block.in_paper else [heading]
    lines = []
    for line in block.lines:
        cells = [escaped(line.title) + (DAGGER if line.capped else "")]
        for metric, cell in line.cells.items():
            cells.append(_ours_markdown(cell))
            if metric in block.in_paper:
                cells.append(_paper_markdown(cell))
        lines.append(cells)
    return markdown_table(header, lines, text_columns=1)


def _ours_markdown(cell: Cell) -> str:
    number = _number(cell.ours)
    shown = {"best": f"**{number}**", "second": f"*{number}*", None: number}[cell.mark]
    if cell.interval is None:
        return shown
    low, high = map(_number, cell.interval)
    return f"{shown} [{low}, {high}]"


def _paper_markdown(cell: Cell) -> str:
    return DASH if cell.paper is None else f"{_number(cell.paper)} ({_difference(cell)})"


def _difference(cell: Cell) -> str:
    return DASH if cell.difference is None else f"{cell.difference:+.{DIGITS}f}"


def _footnotes(table: Table) -> list[str]:
    lines = [(block, line) for block in table.blocks for line in block.lines]
    notes = [_CAPPED] if any(line.capped for _, line in lines) else []
    gaps = [
        f"* {escaped(block.title)}, {escaped(line.title)}: {escaped(line.gap)}"
        for block, line in lines
        if line.gap
    ]
    if gaps:
        notes += [f"{DASH} Gaps:", "\n".join(gaps)]
    return notes


def _marks(rows: list[dict[str, Any]], metric: str) -> dict[str, Mark]:
    """Best and second among the trained models; equals share a mark, one model alone has none."""
    trained = [row for row in rows if row["trained"] and row[metric] is not None]
    if len(trained) < 2:
        return {}
    values: dict[str, float] = {row["model"]: round(row[metric], DIGITS) for row in trained}
    best, *others = sorted(set(values.values()), reverse=True)
    names: dict[float, Mark] = {best: "best"}
    if others:
        names[others[0]] = "second"
    return {model: names.get(value) for model, value in values.items()}


def _paper_value(reported: dict[str, float], metric: str) -> float | None:
    part, name = metric.split("/")
    return reported.get(name) if part == "test" else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)


def _number(value: float | None) -> str:
    return DASH if value is None else f"{value:.{DIGITS}f}"


def escaped(text: str) -> str:
    """Text from data or configuration as markdown that shows it, on one line, as it is."""
    return html.escape(re.sub(r"([\\`*_|\[\]#~])", r"\\\1", " ".join(text.split())), quote=False)


def markdown_table(header: list[str], lines: list[list[str]], text_columns: int) -> str:
    """A markdown table, its first `text_columns` columns to the left, the others to the right."""
    rule = ["---"] * text_columns + ["---:"] * (len(header) - text_columns)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *lines])
