"""Every table of the paper, and of our studies, as markdown and as flat rows.

Notable:
* Table 1 counts the parameters of the modules themselves; Table 2 is read from the splits' own
  statistics; all others are a study's `tables.Table`.
* Intervals are drawn when a table is shown: a tenth of a second an arm and metric.
* What a table needs that its medians do not say stands in notes beneath each dataset: what the
  paper's text says of another window, and how many targets each window trains on.

Here belongs which tables there are and what each is made from. How one looks belongs to
`study_table.py`.
"""

from dataclasses import replace
from typing import Any

import polars as pl

from fparec_pipeline.config import Config, Hyperparameters
from fparec_pipeline.datasets.splits import statistics_on_disk, training_lengths
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.results.medians import study_medians
from fparec_pipeline.results.significance import UserRanks
from fparec_pipeline.results.study_table import (
    DASH,
    Block,
    Line,
    Table,
    markdown_table,
    study_table,
    to_markdown,
    to_rows,
)
from fparec_pipeline.results.trials import under_arm_names

# Table 1 as printed: the parameters of one attention layer.
FORMULAS = {
    "sasrec": ("3d²", lambda h: 3 * h.d**2),
    "parec": ("d² + n²", lambda h: h.d**2 + h.n**2),
    "fparec": ("d² + 2kn", lambda h: h.d**2 + 2 * h.k * h.n),
}
STATISTICS = {"users": "users", "items": "items", "interactions": "interactions"} | {
    "average_length": "average length"
}


def table_names(config: Config) -> list[str]:
    """The names of all tables: the paper's first two, and one for each study."""
    return ["table_1", "table_2", *config.studies]


def render(
    name: str, trials: pl.DataFrame, config: Config, data: DataRoot
) -> tuple[str, list[dict[str, Any]]]:
    """A table by its name: markdown, and flat rows for machines.

    Args:
        name: one of `table_names`.
        trials: `trials_frame`.
        config: says what stands in the table.
        data: where the splits' statistics and each user's ranks are.
    """
    if name == "table_1":
        return table_1(config)
    if name == "table_2":
        return table_2(config, data)
    table = with_intervals(rendered_study(name, trials, config, data), UserRanks(config, data))
    return to_markdown(table), to_rows(table)


def rendered_study(name: str, trials: pl.DataFrame, config: Config, data: DataRoot) -> Table:
    """A study's table as `trials` gives it, without datasets that have no trial."""
    study = config.studies[name]
    trials = under_arm_names(trials, study, config)
    begun = trials.filter(pl.col("trained"))["dataset"].unique().to_list()
    datasets = tuple(dataset for dataset in study.datasets if dataset in begun)
    study = study.model_copy(update={"datasets": datasets or study.datasets})
    notes = {dataset: _window_notes(dataset, study.arms, config, data) for dataset in datasets}
    return study_table(name, study, study_medians(trials, study), config, notes)


def with_intervals(table: Table, users: UserRanks) -> Table:
    """The table with each median's interval; none where `UserRanks` has none."""

    def line_with(line: Line, block: Block) -> Line:
        cells = {
            metric: cell
            if cell.ours is None
            else replace(cell, interval=users.interval(*line.trials(table, block), metric))
            for metric, cell in line.cells.items()
        }
        return replace(line, cells=cells)

    blocks = [
        replace(block, lines=[line_with(line, block) for line in block.lines])
        for block in table.blocks
    ]
    return replace(table, blocks=blocks)


def table_1(config: Config) -> tuple[str, list[dict[str, Any]]]:
    """Table 1: parameters of one attention layer, the formula's and those of the module itself.

    One row a model and a size (d, n, k) that Table 3 has on some dataset, and the paper's own on
    ml-1m (n = 500, k = 40).
    """
    import torch

    from fparec_pipeline.models.mixers import build_mixer

    rows = []
    for model, (words, formula) in FORMULAS.items():
        sizes = {(h.d, h.n, h.k): h for h in _sizes(model, config)}
        for (d, n, k), h in sorted(sizes.items()):
            with torch.device("meta"):  # counted, never drawn
                counted = sum(parameter.numel() for parameter in build_mixer(h).parameters())
            rows.append(
                {
                    "model": model,
                    "formula": words,
                    "d": d,
                    "n": n,
                    "k": k,
                    "paper": formula(h),
                    "ours": counted,
                }
            )
    lines = [
        [config.titles[row["model"]], row["formula"]]
        + [f"{row[key]:,}" for key in ("d", "n", "k", "paper", "ours")]
        for row in rows
    ]
    header = ["model", "formula", "d", "n", "k", "formula's value", "the module's parameters"]
    markdown = (
        "## Table 1: parameters of one attention layer\n\n"
        "The paper's formula, and the parameters that the module has.\n\n"
        + markdown_table(header, lines, text_columns=2)
    )
    return markdown + "\n", rows


def _sizes(model: str, config: Config) -> list[Hyperparameters]:
    datasets = config.studies["table_3"].datasets
    found = [config.hyperparameters(dataset, model) for dataset in datasets]
    return [*found, found[0].model_copy(update={"n": 500, "k": 40})]


def table_2(config: Config, data: DataRoot) -> tuple[str, list[dict[str, Any]]]:
    """Table 2: statistics of every dataset whose splits are there, the paper's in brackets."""
    rows, lines, absent = [], [], []
    for dataset, entry in config.datasets.items():
        found = statistics_on_disk(data.splits(dataset))
        paper = config.paper_statistics.get(dataset, {})
        title = entry.title or dataset
        if found is None:
            absent.append(f"{title} (`fparec run --datasets {dataset}` prepares it)")
            continue
        values = [{"ours": found[name], "paper": paper.get(name)} for name in STATISTICS]
        rows += [
            {"dataset": dataset, "statistic": name} | value
            for name, value in zip(STATISTICS, values, strict=True)
        ]
        lines.append(
            [title, *(_statistic(name, **v) for name, v in zip(STATISTICS, values, strict=True))]
        )
    parts = [
        "## Table 2: the datasets after preprocessing",
        "In brackets the paper's number; it prints interactions in millions.",
        markdown_table(["dataset", *STATISTICS.values()], lines, text_columns=1),
    ]
    if absent:
        parts.append(f"{DASH} No splits yet: {', '.join(absent)}.")
    return "\n\n".join(parts) + "\n", rows


def _statistic(name: str, ours: float, paper: float | None) -> str:
    if name == "average_length":
        return f"{ours:.2f}" + ("" if paper is None else f" ({paper:.2f})")
    if paper is None:
        return f"{ours:,}"
    printed = f"{paper / 1e6:.2f}M" if name == "interactions" else f"{paper:,.0f}"
    return f"{ours:,} ({printed})"


def _window_notes(
    dataset: str, models: tuple[str, ...], config: Config, data: DataRoot
) -> list[str]:
    """Where the arms' windows differ: how many training targets each of them has."""
    windows = sorted({config.hyperparameters(dataset, arm).n for arm in models})
    lengths = training_lengths(data.splits(dataset))
    if len(windows) < 2 or lengths is None:
        return []
    targets = (lengths - 1).clip(0)
    counts = [f"{int(targets.clip(0, n).sum()):,} with n = {n}" for n in windows]
    return [
        f"Training targets: {', '.join(counts)}, of {int(targets.sum()):,}. A wider window gives "
        "more context and more training data at once."
    ]
