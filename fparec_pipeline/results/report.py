"""The report: one HTML file without scripts or pictures from elsewhere, verdict first.

Notable:
* Whatever comes from data or configuration goes through jinja2's autoescape; pictures are SVGs in
  data URIs, in which nothing can run.
* It holds no time of its own making: equal trials give an equal report.

Here belongs how the page is put together; its layout is `report.html.j2`. What it says is made by
the modules beside.
"""

import base64
import json
import logging
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fparec_pipeline.config import Config
from fparec_pipeline.datasets.audit import sentences
from fparec_pipeline.datasets.files import write_atomically
from fparec_pipeline.datasets.splits import SplitsError
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.results.claims import Verdict, judge, read_claims
from fparec_pipeline.results.medians import COLUMNS
from fparec_pipeline.results.overview import overview
from fparec_pipeline.results.paper_figures import ARMS, FIGURES, FigureMissing, draw
from fparec_pipeline.results.plots import accuracy_and_coverage, learning_curves, svg
from fparec_pipeline.results.published import command
from fparec_pipeline.results.shown import digests
from fparec_pipeline.results.significance import Pair, UserRanks, compare
from fparec_pipeline.results.study_table import DASH, Block, Line, Table
from fparec_pipeline.results.tables import (
    STATISTICS,
    rendered_study,
    table_1,
    table_2,
    with_intervals,
)
from fparec_pipeline.results.tick import read_tick
from fparec_pipeline.results.trials import THEN, under_arm_names
from fparec_pipeline.training.record import HISTORY, TrialCorrupt
from fparec_pipeline.training.sequential import kept_audit

logger = logging.getLogger(__name__)


def path_of(data: DataRoot) -> Path:
    """Where the report lies."""
    return data.results / "report.html"


@dataclass(frozen=True)
class Report:
    """The report, and what it comes to in numbers."""

    html: str
    numbers: dict[str, float]  # how many claims have each verdict, and how many trials stand in it


def write_report(
    trials: pl.DataFrame, data: DataRoot, config: Config, links: Mapping[str, str]
) -> Report:
    """Write the report to `path_of(data)` and return it.

    Args:
        trials: `trials_frame`.
        data: where each user's ranks, learning curves and weights are.
        config: says what there should be.
        links: attempt -> address of its run in MLflow; may lack any.
    """
    report = build_report(trials, data, config, links)
    with write_atomically(path_of(data)) as part:
        part.write_text(report.html, encoding="utf-8")
    return report


def build_report(
    trials: pl.DataFrame, data: DataRoot, config: Config, links: Mapping[str, str]
) -> Report:
    """The report; see `write_report`."""
    users = UserRanks(config, data)
    fresh = _fresh(trials, config)
    sections = [_Section(config, data, trials, users, name, fresh[name]) for name in config.studies]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    claims, made = _claims(config, data, trials, users), _made(trials)
    html = environment.get_template("report.html.j2").render(
        cards=overview(trials, config, users),
        columns=list(COLUMNS.values()),
        made=made,
        shown=json.dumps(digests(trials)),
        tick=read_tick(data),
        claims=claims,
        statistics=[_parameters(config), _statistics(config, data)],
        sections=[section.content() for section in sections],
        figures=_figures(data, config, trials),
        curves=_curves(data, config, trials),
        beyond=_beyond(config, trials),
        audits=_audits(config, data, trials),
        trials=_provenance(trials, data, links),
        dash=DASH,
    )
    counts = Counter(claim["verdict"] for claim in claims)
    numbers = {f"claims/{verdict}": float(counts[verdict]) for verdict in get_args(Verdict)}
    trained = {f"trials/{origin}": float(made[origin]) for origin in ("published", "here", "stale")}
    return Report(html, numbers | trained)


def _fresh(trials: pl.DataFrame, config: Config) -> dict[str, list[str]]:
    """Study -> its datasets of which it has a trial that stands in no study before it."""
    seen: set[tuple[str, str]] = set()
    fresh = {}
    for name, study in config.studies.items():
        own = under_arm_names(trials, study, config).filter(pl.col("trained"))
        pairs = own.select("dataset", "model").unique().iter_rows()
        found = {(dataset, config.trained_as(dataset, arm)) for dataset, arm in pairs} - seen
        fresh[name] = [d for d in study.datasets if any(d == dataset for dataset, _ in found)]
        seen |= found
    return fresh


@dataclass(frozen=True)
class _Section:
    """A study's part of the report."""

    config: Config
    data: DataRoot
    trials: pl.DataFrame
    users: UserRanks
    name: str
    fresh: list[str]  # the datasets whose table would not only repeat those above

    def content(self) -> dict[str, Any]:
        study = self.config.studies[self.name]
        own = under_arm_names(self.trials, study, self.config)
        done = Counter(own.filter(pl.col("trained"), ~pl.col("stale"))["dataset"])
        others = [dataset for dataset in study.datasets if dataset not in self.fresh]
        whole = [d for d in others if done[d] >= len(study.arms) * len(study.seeds)]
        command = f"fparec run --study {self.name}"
        head = {
            "name": self.name,
            "title": study.title,
            "seeds": ", ".join(map(str, study.seeds)),
            "command": command,
            "absent": [
                {
                    "title": _title(d, self.config),
                    "command": f"{command} --datasets {shlex.quote(d)}",
                }
                for d in others
                if d not in whole
            ],
            "above": [_title(dataset, self.config) for dataset in whole],
        }
        if not self.fresh:
            return head | {"blocks": []}
        table = with_intervals(
            rendered_study(self.name, self.trials, self.config, self.data), self.users
        )
        blocks = [block for block in table.blocks if block.dataset in self.fresh]
        return head | {"blocks": [self._block(table, block, own) for block in blocks]}

    def _block(self, table: Table, block: Block, trials: pl.DataFrame) -> dict[str, Any]:
        ranks = {
            line.arm: found
            for line in block.lines
            if line.gap is None and (found := self.users.read(*line.trials(table, block)))
        }
        tests = self._tests(block, ranks)
        signs = self._signs(block, tests)
        lines = [self._line(block, line, trials, signs) for line in block.lines]
        gaps = [{"title": line.title, "gap": line.gap} for line in block.lines if line.gap]
        return {
            "title": block.title,
            "window": self._window(block.dataset),
            "lines": lines,
            "gaps": gaps,
            "capped": any(line.capped for line in block.lines),
            "notes": block.notes,
            "tests": tests,
            "hero": self._hero(block),
        }

    def _hero(self, block: Block) -> str:
        """The title of the arm that the others are tested against; empty where pairs are."""
        study = self.config.studies[self.name]
        hero = self.config.hero_of(study, block.dataset)
        titles = {line.arm: line.title for line in block.lines}
        return "" if study.pairs or hero is None else titles.get(hero, "")

    def _signs(self, block: Block, tests: list[dict[str, Any]]) -> dict[tuple[str, str], str]:
        """(heading, title) -> ▲ significantly above the hero, ▼ below, ≈ neither."""
        if not self._hero(block):
            return {}
        return {
            (row["metric"], row["second"]): "≈"
            if not row["test"].significant
            else ("▼" if row["test"].difference > 0 else "▲")
            for row in tests
        }

    def _line(
        self, block: Block, line: Line, trials: pl.DataFrame, signs: dict[tuple[str, str], str]
    ) -> dict[str, Any]:
        fresh = trials.filter(
            pl.col("dataset") == block.dataset, pl.col("model") == line.arm, ~pl.col("stale")
        ).sort("seed")
        cells = []
        for metric, heading in COLUMNS.items():
            cell = line.cells[metric]
            values = list(fresh.select("seed", metric).iter_rows()) if line.trained else []
            cells.append(
                {
                    "heading": heading,
                    "ours": cell.ours,
                    "mark": cell.mark,
                    "paper": cell.paper,
                    "difference": cell.difference,
                    "interval": cell.interval,
                    "seeds": values,
                    "in_paper": metric in block.in_paper,
                    "sign": signs.get((heading, line.title), ""),
                }
            )
        return {
            "title": line.title,
            "trained": line.trained,
            "capped": line.capped,
            "cells": cells,
        }

    def _window(self, dataset: str) -> int | None:
        """n, where it is the same for all arms; where it is not, it stands in their titles."""
        windows = {
            self.config.hyperparameters(dataset, arm).n
            for arm in self.config.studies[self.name].arms
        }
        return windows.pop() if len(windows) == 1 else None

    def _tests(self, block: Block, ranks: dict[str, Any]) -> list[dict[str, Any]]:
        """The study's pairs, or its hero against each other line, where both have a median."""
        study = self.config.studies[self.name]
        hero = self.config.hero_of(study, block.dataset)
        titles = {line.arm: line.title for line in block.lines}
        pairs = study.pairs or [(hero, arm) for arm in titles if hero and arm != hero]
        rows = []
        for metric, heading in COLUMNS.items():
            part = metric.partition("/")[0]
            values = {
                arm: found.values(metric)
                for arm, found in ranks.items()
                if (arm, part) != ("last_ten", "test_unseen")  # has no meaning there
            }
            rows += [
                {"metric": heading, "first": titles[a], "second": titles[b], "test": test}
                for (a, b), test in compare(values, pairs).items()
            ]
        return rows


def _made(trials: pl.DataFrame) -> dict[str, Any]:
    """When the newest trial ended, and by which commits the trials were trained."""
    trained = trials.filter(pl.col("trained"))
    return {
        "date": str(trials["finished"].max() or "")[:10],
        "commits": sorted({short for commit in trained["commit"] for short in _commits(commit)}),
        "published": int(trained["published"].sum()),
        "here": trained.height - int(trained["published"].sum()),
        "stale": int(trials["stale"].sum()),
    }


def _claims(
    config: Config, data: DataRoot, trials: pl.DataFrame, users: UserRanks
) -> list[dict[str, Any]]:
    @cache
    def values(study: str, dataset: str, metric: str) -> dict[str, np.ndarray]:
        if dataset not in trials["dataset"]:
            return {}
        table = rendered_study(study, trials, config, data)
        return {
            line.arm: tested.values(metric)
            for block in table.blocks
            if block.dataset == dataset
            for line in block.lines
            if line.trained and line.gap is None
            if (tested := users.read(*line.trials(table, block)))
        }

    claims = [claim for claim in read_claims() if claim.study in config.studies]
    return [
        {
            "text": judged.claim.text,
            "verdict": judged.verdict,
            "held": judged.count("held"),
            "reversed": judged.count("reversed"),
            "missing": judged.missing,
            "at": {
                _title(dataset, config): _windows(dataset, pair, config)
                for dataset, pair in judged.found
            },
            "all": len(judged.found),
            "details": [
                {
                    "dataset": _title(dataset, config),
                    "better": config.titles.get(better, better),
                    "worse": config.titles.get(worse, worse),
                    "windows": _windows(dataset, pair, config),
                    "test": comparison,
                }
                for (dataset, pair), comparison in judged.found.items()
                for better, worse in [pair]
            ],
        }
        for judged in judge(claims, values)
    ]


def _windows(dataset: str, pair: Pair, config: Config) -> str:
    """The windows of a pair's arms, such as "n = 200"; empty where they are configured no more."""
    if dataset not in config.datasets or not set(pair) <= config.arms.keys():
        return ""
    found = [config.hyperparameters(dataset, arm).n for arm in pair]
    return "n = " + " and ".join(str(n) for n in dict.fromkeys(found))


def _parameters(config: Config) -> dict[str, Any]:
    """Table 1: a row a model and size."""
    headings = {
        "model": "model",
        "formula": "the paper's formula",
        "d": "width d",
        "n": "window n (items)",
        "k": "rank k",
        "paper": "formula's value (parameters)",
        "ours": "the module's parameters",
    }
    rows = [row | {"model": config.titles[row["model"]]} for row in table_1(config)[1]]
    return {
        "name": "table_1",
        "title": "Table 1: parameters of one attention layer",
        "header": list(headings.values()),
        "rows": [[row[key] for key in headings] for row in rows],
        "absent": [],
    }


def _statistics(config: Config, data: DataRoot) -> dict[str, Any]:
    """Table 2: a row a dataset, the paper's number beside each statistic."""
    units = {"average_length": "average length (interactions a user)"}
    header = ["dataset"]
    for name, words in STATISTICS.items():
        header += [units.get(name, words), "paper"]
    values: dict[str, list[Any]] = {}
    for row in table_2(config, data)[1]:
        line = values.setdefault(row["dataset"], [_title(row["dataset"], config)])
        line += [row["ours"], row["paper"]]
    return {
        "name": "table_2",
        "title": "Table 2: the datasets after preprocessing (the paper rounds interactions)",
        "header": header,
        "rows": list(values.values()),
        "absent": [
            {"title": _title(d, config), "command": f"fparec run --datasets {shlex.quote(d)}"}
            for d in config.datasets
            if d not in values
        ],
    }


def _title(dataset: str, config: Config) -> str:
    """As printed; a dataset that is configured no more keeps its name."""
    entry = config.datasets.get(dataset)
    return dataset if entry is None else entry.title or dataset


def _figures(data: DataRoot, config: Config, trials: pl.DataFrame) -> list[dict[str, Any]]:
    there = trials.filter(pl.col("trained"))["dataset"].unique().sort().to_list()
    found = []
    for name, title in FIGURES.items():
        datasets = [d for d in there if d in config.datasets] if name in ARMS else [None]
        shown: list[dict[str, Any]] = []
        gaps = [] if datasets else ["No trial has finished yet."]
        for dataset in datasets:
            try:
                drawn = draw(name, dataset, config, data)
            except (FigureMissing, TrialCorrupt, ValueError) as error:
                gaps.append(str(error))
                continue
            shown.append({"title": drawn.title, "image": _image(drawn.svg), "notes": drawn.notes})
        found.append({"title": title, "shown": shown, "gaps": gaps})
    return found


def _curves(data: DataRoot, config: Config, trials: pl.DataFrame) -> list[dict[str, Any]]:
    """One picture a dataset: every finished trial's validation NDCG@10."""
    found = []
    trained = trials.filter(pl.col("trained"), ~pl.col("stale")).sort("model", "seed")
    for dataset in trained["dataset"].unique().sort():
        titles = config.titles_on(dataset)
        histories: dict[str, list[pl.DataFrame]] = {}
        for row in trained.filter(pl.col("dataset") == dataset).iter_rows(named=True):
            path = data.trial(dataset, row["model"], row["seed"]) / HISTORY
            if not path.exists():
                continue
            try:
                history = pl.read_parquet(path)
            except (OSError, pl.exceptions.PolarsError) as error:
                words = str(error).partition("\n")[0]
                logger.warning("No learning curve: %s cannot be read (%s).", path, words)
                continue
            histories.setdefault(titles.get(row["model"], row["model"]), []).append(history)
        if histories:
            title = _title(dataset, config)
            found.append({"title": title, "image": _image(svg(learning_curves(histories, title)))})
    return found


def _beyond(config: Config, trials: pl.DataFrame) -> list[dict[str, Any]]:
    """One picture a dataset whose trials have top-k lists: accuracy beside coverage."""
    columns = ("test_unseen/coverage_at_10", "test_unseen/ndcg_at_10")
    medians = (
        trials.filter(~pl.col("stale"))
        .group_by("dataset", "model")
        .agg(pl.col(columns).median())
        .drop_nulls(columns)
        .sort("dataset", "model")
    )
    found = []
    for (dataset,), rows in medians.group_by("dataset", maintain_order=True):
        title = _title(str(dataset), config)
        titles = config.titles_on(str(dataset))
        points = {titles.get(arm, arm): (x, y) for _, arm, x, y in rows.iter_rows()}
        found.append({"title": title, "image": _image(svg(accuracy_and_coverage(points, title)))})
    return found


def _audits(config: Config, data: DataRoot, trials: pl.DataFrame) -> list[dict[str, Any]]:
    """What was kept of each dataset's audit, or the command that makes one."""
    there = trials["dataset"].unique().to_list()
    found = []
    for dataset in (name for name in config.datasets if name in there):
        folder = data.splits(dataset)
        try:
            kept = kept_audit(folder)
        except SplitsError:
            kept = None
        word = "dataset check" if folder.exists() else "run --datasets"
        found.append(
            {
                "title": _title(dataset, config),
                "lines": sentences(kept) if kept else [],
                "command": f"fparec {word} {shlex.quote(dataset)}",
            }
        )
    return found


def _provenance(
    trials: pl.DataFrame, data: DataRoot, links: Mapping[str, str]
) -> list[dict[str, Any]]:
    rows = []
    for row in trials.sort("dataset", "model", "seed").iter_rows(named=True):
        link = links.get(row["attempt"], "")
        folder = data.trial(row["dataset"], row["model"], row["seed"])
        settings = json.loads(row["hyperparameters"])
        rows.append(
            row
            | {
                "commits": _commits(row["commit"]),
                "folder": folder.relative_to(data.root),
                "configuration": ", ".join(f"{k} = {v}" for k, v in settings.items()),
                "link": link if link.startswith(("http://", "https://")) else "",
                "command": command(row) + (" --retrain" if row["trained"] else ""),
            }
        )
    return rows


def _commits(commit: str | None) -> list[str]:
    """A trial's commits, shortened: that which began it first, then those that resumed it."""
    return [each[:12] for each in (commit or "").split(THEN) if each]


def _image(content: bytes) -> Markup:
    return Markup("data:image/svg+xml;base64,") + base64.b64encode(content).decode()
