"""How results look on the terminal; what several command families print.

Here belongs printing only: what is shown is made by `results/`.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fparec_pipeline.cli.shared import console
from fparec_pipeline.config import Config
from fparec_pipeline.paths import DataRoot

if TYPE_CHECKING:
    from fparec_pipeline.results.study_table import Block
    from fparec_pipeline.results.winner import Winner


def leaderboard_rows(config: Config, data: DataRoot, dataset: str, metric: str) -> list[dict]:
    """The leaderboard of the finished trials, best model first, without intervals."""
    from fparec_pipeline.results.medians import available_medians, leaderboard
    from fparec_pipeline.results.trials import trials_frame

    medians = available_medians(trials_frame(data, config, dataset))
    return leaderboard(medians, dataset, metric).to_dicts()


def print_leaderboard(config: Config, data: DataRoot, dataset: str, metric: str) -> None:
    """The leaderboard as a table of 80 columns, who wins in words, and the data's licence."""
    from fparec_pipeline.results import leaderboard
    from fparec_pipeline.results.significance import UserRanks
    from fparec_pipeline.results.winner import sentence, winner

    frame = leaderboard(dataset, metric, data)
    found = winner(frame, dataset, UserRanks(config, data))
    console.print(Text(config.datasets[dataset].title or dataset, style="bold"))
    rows, titles = frame.to_dicts(), config.titles_on(dataset)
    console.print(leaderboard_table(rows, titles, found))
    console.print(legend(rows, found), style="dim", highlight=False)
    if found:
        console.print(sentence(found, titles), markup=False, highlight=False)
    note_outdated([dataset], config, data)
    if licence := config.datasets[dataset].licence:
        console.print(f"Licence of the data: {licence}", markup=False, highlight=False)


def note_outdated(datasets: Iterable[str], config: Config, data: DataRoot) -> None:
    """A line for each dataset whose splits are not of today's raw file and entry."""
    from fparec_pipeline.datasets.splits import why_outdated

    for name in datasets:
        if reason := why_outdated(name, config.datasets[name], data):
            text = f"{name}: the splits are outdated: {reason}. `fparec run --datasets {name}`"
            text = f"[yellow]Note:[/] {escape(text)} makes them again and trains anew."
            console.print(text, highlight=False, soft_wrap=True)


def leaderboard_table(
    rows: Iterable[Mapping[str, Any]], titles: Mapping[str, str], found: "Winner | None"
) -> Table:
    """A row a model: medians, the interval of NDCG@10, seeds and marks; fits 80 columns."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("model", overflow="fold", min_width=16)
    for heading in ("HR@10", "NDCG@10", "95 % interval", "unseen"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("seeds")
    for row in rows:
        name = Text(titles.get(row["model"], row["model"]))
        if found and row["model"] == found.arm:
            name.stylize("bold green")
        elif found and row["model"] in found.level:
            name.append(" ≈")
        elif found and row["model"] in found.provisional_above:
            name.append(" ↑")
        if row["capped"]:
            name.append(" †")
        if not row["trained"]:
            name.stylize("italic dim")
        low, high = row.get("test/ndcg_at_10/low"), row.get("test/ndcg_at_10/high")
        marks = "" if not row["provisional"] else " provisional"
        if row["published"] and row["trained"]:
            marks += " published"
        table.add_row(
            name,
            number(row["test/hr_at_10"]),
            number(row["test/ndcg_at_10"]),
            "" if low is None else f"{number(low)}–{number(high)}",
            number(row["test_unseen/ndcg_at_10"]),
            (",".join(map(str, row["seeds"])) if row["trained"] else "untrained") + marks,
        )
    return table


def legend(rows: Iterable[Mapping[str, Any]], found: "Winner | None") -> str:
    """What the marks of `leaderboard_table` mean, of those that are there."""
    parts = ["unseen: NDCG@10 with the history removed"]
    if found and found.level:
        parts.append("≈ not significantly behind the best")
    if found and found.provisional_above:
        parts.append("↑ higher than the best, but with fewer seeds")
    if any(row["capped"] for row in rows):
        parts.append("† stopped at max_epochs, might have become better")
    return "\n".join(parts)


def block_table(block: "Block") -> Group:
    """A dataset's part of a study's table: ours, and the paper's where it has one."""
    from fparec_pipeline.results.medians import COLUMNS

    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("model", overflow="fold", min_width=16)
    short = {"HR@10, history removed": "HR unseen", "NDCG@10, history removed": "NDCG unseen"}
    for metric, heading in COLUMNS.items():
        table.add_column(short.get(heading, heading), justify="right", no_wrap=True)
        if metric in block.in_paper:
            table.add_column("paper", justify="right", no_wrap=True, style="dim")
    for line in block.lines:
        cells = [Text(line.title + (" †" if line.capped else ""))]
        for metric, cell in line.cells.items():
            style = {"best": "bold green", "second": "underline", None: ""}[cell.mark]
            cells.append(Text(number(cell.ours), style=style))
            if metric in block.in_paper:
                cells.append(Text(number(cell.paper)))
        table.add_row(*cells, style="" if line.trained else "italic dim")
    notes = [Text(f"{line.title}: {line.gap}", style="dim") for line in block.lines if line.gap]
    if any(line.capped for line in block.lines):
        notes.append(Text("† stopped at max_epochs, might have become better", style="dim"))
    return Group(Text(f"\n{block.title}", style="bold"), table, *notes)


def number(value: float | None) -> str:
    """Four digits, as everywhere; a dash for a gap."""
    return "—" if value is None else f"{value:.4f}"
