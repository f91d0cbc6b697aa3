"""The tables of docs/results.md; `fparec results tables` prints them.

The studies' tables; then three kinds for each dataset and the models that have a median: seeds,
medians, intervals and paired tests; validation by epoch; and, where there are more than 10,000
users, what the medians would be had 10,000 been drawn, as the paper did. A study's datasets without
a median of its hero are left out: there is nothing yet to test its other models against.

Here belongs what only that page shows. A study's table belongs to `study_table.py`.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import polars as pl

from fparec_pipeline.config import REFERENCES, Config, Study
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.results.medians import COLUMNS, MedianKey, study_medians
from fparec_pipeline.results.significance import UserRanks, bootstrap_interval, compare
from fparec_pipeline.results.study_table import DASH, compact_markdown, markdown_table
from fparec_pipeline.results.tables import render, rendered_study
from fparec_pipeline.results.trials import trials_frame, under_arm_names
from fparec_pipeline.training.record import HISTORY

DETAILED = {  # study → in headings
    "table_3": "",
    "table_4": ", Table 4",
    "table_5": ", Table 5",
    "table_6": ", Table 6",
    "wide": ", wide models",
}
EPOCHS = (5, 8, 10, 12, 15, 20, 25, 30, 40)
DRAWS, DRAWN_USERS = 2000, 10_000

Arms = Mapping[str, MedianKey]  # arm or reference, in the order printed -> its trials


def readme_table(data: DataRoot, config: Config) -> str:
    """Table 3 for the README: NDCG@10 with the history kept, the paper's in brackets."""
    return compact_markdown(rendered_study("table_3", trials_frame(data, config), config, data))


def published_tables(data: DataRoot, config: Config) -> Iterator[str]:
    """Every table of docs/results.md that is about published trials, as markdown.

    Args:
        data: where `import_results` has put them.
        config: says which models and seeds each study has.
    """
    users, finished = UserRanks(config, data), trials_frame(data, config)
    for table in (*DETAILED, "ml_1m_recipe", "ml_1m_wide_recipe"):
        datasets = list(_with_hero(finished, config.studies[table], config))
        there = finished.filter(pl.col("dataset").is_in(datasets))
        yield render(table, there, config, data)[0].rstrip()
    shown: set[tuple[str, str]] = set()
    for table, suffix in DETAILED.items():
        study = config.studies[table]
        for dataset, (hero, complete) in _with_hero(finished, study, config).items():
            new = {(dataset, model) for model in complete.filter("trained")["model"]} - shown
            if not new:
                continue
            shown |= new
            title = f"{config.datasets[dataset].title or dataset}{suffix}"
            arms = {
                row["model"]: (
                    dataset,
                    config.trained_as(dataset, row["model"]),
                    study.seeds if row["trained"] else (0,),
                    row["arm_fingerprint"],
                )
                for row in complete.iter_rows(named=True)
            }
            yield from _of_dataset(title, dataset, hero, arms, users, config, data)


def _with_hero(
    finished: pl.DataFrame, study: Study, config: Config
) -> dict[str, tuple[str, pl.DataFrame]]:
    """Dataset -> the study's hero there and the models with a median, if the hero has one."""
    medians = study_medians(under_arm_names(finished, study, config), study)
    found = {}
    for dataset in study.datasets:
        complete = medians.filter(pl.col("dataset") == dataset, pl.col("gap").is_null())
        hero = config.hero_of(study, dataset)
        if hero is not None and hero in complete["model"].to_list():
            found[dataset] = hero, complete
    return found


def _of_dataset(
    title: str,
    dataset: str,
    hero: str,
    arms: Arms,
    users: UserRanks,
    config: Config,
    data: DataRoot,
) -> Iterator[str]:
    yield f"## {title}, test set"
    for metric, heading in COLUMNS.items():
        yield f"### {title}: {heading}\n\n{tests(metric, hero, arms, config, users)}"
    yield f"### {title}: validation HR@10\n\n{by_epoch(arms, config, data)}"
    if table := drawn(dataset, arms, config, users):
        yield f"### {title}: had users been drawn\n\n{table}"


def tests(metric: str, hero: str, arms: Arms, config: Config, users: UserRanks) -> str:
    """A row a model: its seeds, median, interval, and the hero's paired test against it."""
    part = metric.partition("/")[0]
    shown = [arm for arm in arms if (arm, part) != ("last_ten", "test_unseen")]  # no meaning there
    ranks = {arm: found for arm in shown if (found := users.read(*arms[arm]))}
    values = {arm: found.values(metric) for arm, found in ranks.items()}
    tested = compare(values, [(hero, arm) for arm in shown if arm != hero])
    lines = []
    for arm, by_user in values.items():
        of_seeds = by_user.mean(axis=1)
        low, high = bootstrap_interval(by_user)
        test = tested.get((hero, arm))
        p = "" if test is None else f"{test.p_holm:.2g}" if test.p_holm else "below 1e-300"
        lines.append(
            [
                config.titles[arm],
                ", ".join(f"{value:.4f}" for value in of_seeds),
                f"{np.median(of_seeds):.4f}",
                f"{low:.4f} to {high:.4f}",
                "" if test is None else f"{test.difference:+.4f}",
                p,
            ]
        )
    minus = f"{config.titles[hero]} minus it"
    header = ["model", "each seed", "median", "95 % interval", minus, "p (Holm)"]
    return markdown_table(header, lines, text_columns=1)


def by_epoch(arms: Arms, config: Config, data: DataRoot) -> str:
    """A row a model: had training ended after so many epochs, the median over seeds."""
    lines = []
    for arm, (dataset, name, seeds, _) in arms.items():
        if arm in REFERENCES:
            continue
        folders = [data.trial(dataset, name, seed) for seed in seeds]
        histories = [pl.read_parquet(folder / HISTORY) for folder in folders]
        cells = [
            np.median([_best_until(history, epoch) for history in histories])
            for epoch in (*EPOCHS, max(map(len, histories)))
        ]
        lines.append([config.titles[arm], *(f"{cell:.4f}" for cell in cells)])
    header = ["model", *(f"≤ {epoch} epochs" for epoch in EPOCHS), "all"]
    return markdown_table(header, lines, text_columns=1)


def _best_until(history: pl.DataFrame, epoch: int) -> float:
    """Validation HR@10 of the epoch, among the first ones, with the best validation NDCG@10."""
    there = history.filter(pl.col("epoch") <= epoch)
    return float(there.sort("valid_ndcg_at_10", maintain_order=True)["valid_hr_at_10"][-1])


def drawn(dataset: str, arms: Arms, config: Config, users: UserRanks) -> str:
    """A row a model: HR@10, median over seeds, of users drawn anew for each seed.

    Empty where a dataset has no more users than the paper drew: it then took all.
    """
    generator = np.random.default_rng(0)
    lines = []
    for arm in (arm for arm in arms if arm not in REFERENCES):
        tested = users.read(*arms[arm])
        if tested is None:
            continue
        hits = tested.values("test/hr_at_10")
        # Of a drawn set only its number of hits counts: hypergeometric.
        total, count = hits.shape[1], hits.sum(axis=1).astype(int)
        if total <= DRAWN_USERS:
            return ""
        samples = generator.hypergeometric(
            count, total - count, DRAWN_USERS, size=(DRAWS, len(hits))
        )
        medians = np.median(samples, axis=1) / DRAWN_USERS
        low, high = np.quantile(medians, (0.025, 0.975))
        printed = config.paper["table_3"].get(dataset, {}).get(arm, {}).get("hr_at_10")
        lines.append(
            [
                config.titles[arm],
                f"{low:.4f} to {high:.4f}",
                f"{medians.min():.4f} to {medians.max():.4f}",
                DASH if printed is None else f"{printed:.4f}",
            ]
        )
    header = ["model", "95 % of draws", "all draws", "paper"]
    return markdown_table(header, lines, text_columns=1)
