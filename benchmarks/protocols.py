"""Does the order of the models depend on how the data is split?

    python benchmarks/protocols.py train ROOT [DATASET …]    # what ROOT does not hold, one by one
    python benchmarks/protocols.py show ROOT [DATASET …]     # medians, Kendall's tau, paired tests
    python benchmarks/protocols.py beyond ROOT [DATASET …]   # coverage and so on, same trials

ROOT is a data root. Every dataset in it that has a `like` is compared with the one that it is like;
DATASET chooses among the latter.
docs/results-protocols.md says where its datasets come from and what came out.
"""

import argparse
import itertools
import statistics
import time
from pathlib import Path

import numpy as np
import polars as pl
from safetensors.torch import load_file
from scipy import stats

from fparec_pipeline.config import REFERENCES, Config, Trial, load_config
from fparec_pipeline.datasets.sources import fetch_raw
from fparec_pipeline.datasets.splits import Splits, make_splits, read_splits
from fparec_pipeline.models.networks import build_network
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.results.significance import compare
from fparec_pipeline.results.trials import trials_frame
from fparec_pipeline.training.beyond import beyond_accuracy, lists_table
from fparec_pipeline.training.evaluation import EvaluationSet, network_scorer, top_lists
from fparec_pipeline.training.metrics import by_user, per_target
from fparec_pipeline.training.record import RANKS, WEIGHTS, read_record
from fparec_pipeline.training.trial import run_reference, run_trial

ARMS = (
    "sasrec",
    "linear_attention",
    "token_mixing",
    "parec",
    "fparec",
    "average",
    "linear_annealing",
    "exponential_annealing",
)
SEEDS = (0, 1, 2)
BEYOND = (
    "ndcg_at_10",
    "ndcg_at_10_answerable",
    "coverage_at_10",
    "gini_at_10",
    "novelty_at_10",
    "popular_share_at_10",
)
METRICS = ("test/ndcg_at_10", "test_unseen/ndcg_at_10", "test/hr_at_10")


def compared(config: Config, wanted: list[str]) -> dict[str, list[str]]:
    """Dataset → those that are like it, of the datasets that have some and are wanted (or all)."""
    like = {name: entry.like for name, entry in config.datasets.items() if entry.like}
    bases = [base for base in dict.fromkeys(like.values()) if base in (wanted or [base])]
    return {base: [name for name in like if like[name] == base] for base in bases}


def splits_of(name: str, config: Config, data: DataRoot) -> Splits:
    folder = data.splits(name)
    if folder.exists():
        return read_splits(folder)
    dataset = config.datasets[name]
    return make_splits(name, dataset, fetch_raw(name, dataset, data), data)


def train(config: Config, data: DataRoot, wanted: list[str]) -> None:
    """Each pair of protocols, seed by seed, so that an early look has whole rows."""
    for base, others in compared(config, wanted).items():
        splits = {name: splits_of(name, config, data) for name in (base, *others)}
        for name, reference in itertools.product(splits, REFERENCES):
            run_reference(name, reference, splits[name], data)
        for seed, arm, name in itertools.product(SEEDS, ARMS, splits):
            started = time.perf_counter()
            record = run_trial(config.trial(name, arm, seed), splits[name], data, device="cpu")
            print(
                f"{name} {arm} seed {seed}: test NDCG@10 {record.metrics['test/ndcg_at_10']:.4f}, "
                f"{record.epochs} epochs, {time.perf_counter() - started:.0f} s",
                flush=True,
            )


def show(config: Config, data: DataRoot, wanted: list[str]) -> None:
    """Medians over the finished seeds, Kendall's tau between the protocols, and paired tests."""
    trials = trials_frame(data, config).filter(pl.col("model").is_in(ARMS))
    for base, others in compared(config, wanted).items():
        medians = (
            trials.filter(pl.col("dataset").is_in([base, *others]), pl.col("seed").is_in(SEEDS))
            .group_by("dataset", "model")
            .agg(pl.len().alias("seeds"), pl.col(METRICS).median())
        )
        for other in others:
            for metric in METRICS:
                pair = [values_of(medians, name, metric) for name in (base, other)]
                arms = [arm for arm in ARMS if arm in pair[0] and arm in pair[1]]
                found = stats.kendalltau(*([values[arm] for arm in arms] for values in pair))
                print(
                    f"\n{metric}: {base} against {other}, {len(arms)} arms: Kendall's tau "
                    f"{found.statistic:.2f} (p {found.pvalue:.2f})"
                )
                print("| arm | " + " | ".join(f"{name} | seeds" for name in (base, other)) + " |")
                print("|---|--:|--:|--:|--:|")
                for arm in sorted(arms, key=lambda arm: -pair[0][arm]):
                    cells = [
                        f"{values[arm]:.4f} | {seeds_of(medians, name, arm)}"
                        for name, values in zip((base, other), pair, strict=True)
                    ]
                    print(f"| {config.titles[arm]} | " + " | ".join(cells) + " |")
        for name in (base, *others):
            test(name, config, data, medians)


def beyond(config: Config, data: DataRoot, wanted: list[str]) -> None:
    """Medians over the finished seeds of what the best epochs' lists are, from the weights."""
    columns = [f"test_unseen/{name}" for name in BEYOND]
    for base, others in compared(config, wanted).items():
        for name in (base, *others):
            splits = splits_of(name, config, data)
            print(f"\n{name}\n| arm | seeds | " + " | ".join(BEYOND) + " |")
            print("|---|--:|" + "--:|" * len(BEYOND))
            for arm in ARMS:
                found = [
                    values
                    for seed in SEEDS
                    if (values := beyond_of(config.trial(name, arm, seed), splits, data))
                ]
                medians = [statistics.median(each[column] for each in found) for column in columns]
                cells = " | ".join(f"{value:.3f}" for value in medians)
                print(f"| {config.titles[arm]} | {len(found)} | {cells} |")


def beyond_of(trial: Trial, splits: Splits, data: DataRoot) -> dict[str, float]:
    """`beyond_accuracy` and accuracy of a finished trial, {} of another."""
    folder, h = data.trial(*trial.id), trial.hyperparameters
    record = read_record(folder)
    if record is None:
        return {}
    model = build_network(h, splits.n_items)
    model.load_state_dict(load_file(folder / WEIGHTS))
    lists = top_lists(network_scorer(model.eval()), EvaluationSet(splits, "test", h.n))
    ranks = pl.read_parquet(folder / RANKS)
    return record.metrics | beyond_accuracy(lists_table(*lists, splits), ranks, splits.n_items)


def values_of(medians: pl.DataFrame, dataset: str, metric: str) -> dict[str, float]:
    rows = medians.filter(dataset=dataset).select("model", metric).drop_nulls()
    return dict(rows.iter_rows())


def seeds_of(medians: pl.DataFrame, dataset: str, arm: str) -> int:
    return int(medians.filter(dataset=dataset, model=arm)["seeds"].item())


def test(name: str, config: Config, data: DataRoot, medians: pl.DataFrame) -> None:
    """Every pair of arms by the paired t-test over users, Holm's correction over all pairs."""
    values = {}
    for arm in ARMS:
        folders = [data.trial(name, arm, seed) / RANKS for seed in SEEDS]
        ranks = [pl.read_parquet(f).drop_nulls("test") for f in folders if f.exists()]
        if ranks:
            values[arm] = np.stack(
                [
                    by_user(per_target(r["test"].to_numpy(), "ndcg_at_10"), r["user"].to_numpy())
                    for r in ranks
                ]
            )
    tests = compare(values, itertools.combinations(values, 2))
    clear = [pair for pair, result in tests.items() if result.significant]
    print(f"\n{name}: {len(clear)} of {len(tests)} pairs of arms differ (test NDCG@10, p < 0.05)")
    for first, second in clear:
        result = tests[first, second]
        print(f"  {first} − {second} = {result.difference:+.4f} (p {result.p_holm:.3f})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["train", "show", "beyond"])
    parser.add_argument("root", type=Path)
    parser.add_argument("datasets", nargs="*")
    given = parser.parse_args()
    root = DataRoot(given.root)
    command = {"train": train, "show": show, "beyond": beyond}[given.what]
    command(load_config(root), root, given.datasets)
