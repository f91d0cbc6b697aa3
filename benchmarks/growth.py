"""How time and memory grow: with the window, the catalogue, the users and the rows of a raw file.

    python benchmarks/growth.py window          # epoch, n 50 … 1000
    python benchmarks/growth.py catalogue       # epoch, 10³ … 10⁶ items, both losses
    python benchmarks/growth.py users           # epoch, 10⁴ … 10⁶ users
    python benchmarks/growth.py both            # epoch, 10⁴ users and items … 10⁶ of each
    python benchmarks/growth.py preprocess      # CSV to splits, beside pandas, to 32 million rows

Each prints a table with the fitted law and writes results/growth-*.json and, at full size, the
plot images/growth-*.png. A law is a + b·x (+ c·x² for window and both), the least squares
of the relative deviations with no term below zero. Every point is measured in a process of its
own: the peak is its VmHWM less what was resident after the imports. Data are generated; `--small`
takes the smallest sizes only.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from scipy.optimize import nnls

from fparec_pipeline.config import Dataset, Hyperparameters, Trial, load_config, source_of
from fparec_pipeline.datasets.splits import Splits, Window, logical_hash, make_splits
from fparec_pipeline.paths import DataRoot

mpl.use("Agg")
HERE = Path(__file__).parent
RESULTS = HERE / "results"
IMAGES = HERE / "images"

# MovieLens-32M: rows, users, items.
ROWS, USERS, ITEMS = 32_000_204, 200_948, 84_432
CORE = 5

Point = dict[str, Any]


# --- generated data -----------------------------------------------------------------------------


def generated_splits(users: int, items: int, length: int, asked: int | None = None) -> Splits:
    """`users` histories of `length` items, drawn with a popularity that falls as 1 / rank.

    All users have targets, or only the first `asked`, as where recent interactions are held out.
    """
    draw = np.random.default_rng(0)
    popularity = 1 / np.arange(1, items + 1)
    cumulative = np.cumsum(popularity) / popularity.sum()
    chosen = np.empty((users, length), np.int32)
    for block in np.array_split(chosen, -(-users // 10_000)):  # its own memory is not measured
        block[:] = np.searchsorted(cumulative, draw.random(block.shape)) + 1
    np.minimum(chosen, items, out=chosen)
    splits = Splits(
        name="generated",
        n_users=users,
        n_items=items,
        train_items=chosen[:, :-2].ravel(),
        train_offsets=np.arange(users + 1, dtype=np.int64) * (length - 2),
        valid=chosen[:, -2].copy(),
        test=chosen[:, -1].copy(),
        stats={},
        windows={} if asked is None else _windows(users, asked),
    )
    splits.stats["data_hash"] = logical_hash(splits)
    return splits


def _windows(users: int, asked: int) -> dict[str, Window]:
    window = Window(np.arange(users + 1), np.arange(users) < asked)
    return {"valid": window, "test": window}


def write_ratings(path: Path, rows: int) -> None:
    """A ratings CSV of MovieLens-32M's shape, scaled to `rows`: sorted by user, then time drawn.

    Users have at least 20 rows and on average as many as there; items' popularity falls as
    1 / (rank + 50).
    """
    draw = np.random.default_rng(0)
    users, items = max(50, USERS * rows // ROWS), max(200, ITEMS * rows // ROWS)
    weights = draw.lognormal(0, 1.2, users)
    counts = 20 + draw.multinomial(rows - 20 * users, weights / weights.sum())
    popularity = 1 / (np.arange(items) + 50)
    cumulative = np.cumsum(popularity) / popularity.sum()
    names = draw.permutation(np.arange(1, items + 1) * 3).astype(np.int32)  # gaps, as there
    with path.open("wb") as file:
        file.write(b"userId,movieId,rating,timestamp\n")
        for part in np.array_split(np.arange(users), max(1, rows // 2_000_000)):
            user = np.repeat(part + 1, counts[part]).astype(np.int32)
            size = len(user)
            item = np.minimum(np.searchsorted(cumulative, draw.random(size)), items - 1)
            frame = pl.DataFrame(
                {
                    "userId": user,
                    "movieId": names[item],
                    "rating": draw.integers(1, 11, size) / 2,
                    "timestamp": draw.integers(800_000_000, 1_700_000_000, size),
                }
            )
            frame.write_csv(file, include_header=False)


# --- measurements, each in a process of its own -------------------------------------------------


def resident_mib(field: str) -> float:
    """VmRSS (now) or VmHWM (peak) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def measure_preprocess(path: str, folder: str) -> Point:
    """Seconds from the CSV to checked splits on disk, by this project."""
    source = source_of(reader="csv", address=path, user="userId", item="movieId", time="timestamp")
    dataset = Dataset(core=CORE, sources={"own": source})
    started = time.perf_counter()
    splits = make_splits("generated", dataset, Path(path), DataRoot(Path(folder)))
    return {"seconds": time.perf_counter() - started, "data_hash": splits.stats["data_hash"]}


def measure_pandas(path: str, folder: str) -> Point:
    """The same steps in pandas, as text as this project reads them."""
    return _with_pandas(path, folder, {"userId": "str", "movieId": "str"})


def measure_pandas_integers(path: str, folder: str) -> Point:
    """The same in pandas with identifiers read as integers: less work, and only for such files."""
    return _with_pandas(path, folder, {})


def _with_pandas(path: str, folder: str, dtype: dict[str, str]) -> Point:
    import pandas as pd

    started = time.perf_counter()
    rows = pd.read_csv(path, usecols=["userId", "movieId", "timestamp"], dtype=dtype)
    rows = rows.dropna()
    while True:  # the 5-core
        enough = rows.groupby("userId")["userId"].transform("size") >= CORE
        enough &= rows.groupby("movieId")["movieId"].transform("size") >= CORE
        if enough.all():
            break
        rows = rows[enough]
    rows["user"] = pd.factorize(rows["userId"])[0].astype("int32") + 1
    rows = rows.sort_values(["user", "timestamp"], kind="stable")
    rows["item"] = pd.factorize(rows["movieId"])[0].astype("int32") + 1
    from_end = rows.groupby("user").cumcount(ascending=False)
    parts = {"train": rows[from_end > 1], "valid": rows[from_end == 1], "test": rows[from_end == 0]}
    for name, part in parts.items():
        columns = part[["user", "item", "timestamp"]]
        columns.to_parquet(Path(folder) / f"{name}.parquet", index=False)
    items = rows.groupby("item").agg(source_id=("movieId", "first"))
    items["train_count"] = parts["train"].groupby("item").size()
    items.fillna({"train_count": 0}).to_parquet(Path(folder) / "items.parquet")
    users = rows.groupby("user").agg(
        source_id=("userId", "first"), interactions=("item", "size"), distinct=("item", "nunique")
    )
    users.to_parquet(Path(folder) / "users.parquet")
    seconds = time.perf_counter() - started
    lengths = parts["train"].groupby("user").size().to_numpy()
    splits = Splits(
        name="generated",
        n_users=len(users),
        n_items=len(items),
        train_items=parts["train"]["item"].to_numpy(),
        train_offsets=np.concatenate([[0], np.cumsum(lengths)]),
        valid=parts["valid"]["item"].to_numpy(),
        test=parts["test"]["item"].to_numpy(),
        stats={},
    )
    return {"seconds": seconds, "data_hash": logical_hash(splits)}


def measure_epoch(
    users: int,
    items: int,
    length: int,
    n: int,
    loss: str,
    folder: str,
    model: str = "fparec",
    batch_size: int = 128,
    asked: int | None = None,
) -> Point:
    """Seconds of the quicker of two training epochs (one thread, d 50, FPARec with k 8)."""
    from fparec_pipeline.training.record import read_record, view_trial
    from fparec_pipeline.training.trial import run_trial

    splits = generated_splits(users, items, length, asked)
    changes = {"n": n, "min_epochs": 1, "max_epochs": 2, "loss": loss, "negatives": 256}
    changes["batch_size"] = batch_size
    if model == "fparec":
        changes["k"] = 8
    base = load_config().trial("beauty", model, 0).hyperparameters.model_dump()
    trial = Trial(
        dataset="generated",
        arm=model,
        seed=0,
        hyperparameters=Hyperparameters(**base | changes),
    )
    data = DataRoot(Path(folder))
    run_trial(trial, splits, data, device="cpu")
    view = view_trial(data.trial("generated", model, 0))
    assert view and read_record(view.folder)  # noqa: S101
    fastest = float(view.history["targets_per_second"].max())  # type: ignore[arg-type]
    targets = users * min(length - 3, n)
    return {"seconds": targets / fastest, "targets": targets}


MEASURES: dict[str, Callable[..., Point]] = {
    "preprocess": measure_preprocess,
    "pandas": measure_pandas,
    "pandas_integers": measure_pandas_integers,
    "epoch": measure_epoch,
}


def worker(name: str, arguments: dict[str, Any]) -> None:
    """Measure in this process and print one JSON object."""
    import torch  # noqa: F401  # its import is no part of the peak

    before = resident_mib("VmRSS")
    with tempfile.TemporaryDirectory() as folder:
        point = MEASURES[name](**arguments, folder=folder)
    print(json.dumps(point | {"peak_mib": resident_mib("VmHWM") - before}))


def measured(name: str, **arguments: Any) -> Point:
    """One measurement in a fresh process."""
    command = [sys.executable, __file__, "worker", name, json.dumps(arguments)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    point: Point = json.loads(answer.stdout.splitlines()[-1])
    return point


# --- the five curves ---------------------------------------------------------------------------


def window(small: bool) -> list[Point]:
    """Full windows of n targets, 256 users, 1,000 items; the three kinds of attention."""
    sizes = (50, 100) if small else (50, 100, 200, 500, 1000)
    shape = {"users": 256, "items": 1000, "loss": "cross_entropy"}
    return [
        {"curve": curve, "x": n}
        | measured("epoch", n=n, length=n + 3, model=curve.lower(), **shape)
        for curve in ("FPARec", "PARec", "SASRec")
        for n in sizes
    ]


def catalogue(small: bool) -> list[Point]:
    """2,560 targets; the exact cross-entropy and 256 negatives a step."""
    sizes = (10**3, 10**4) if small else (10**3, 10**4, 10**5, 10**6)
    shape = {"users": 256, "length": 13, "n": 10}
    return [
        {"curve": loss, "x": items} | measured("epoch", items=items, loss=loss, **shape)
        for loss in ("cross_entropy", "sampled_softmax")
        for items in sizes
    ]


def users(small: bool) -> list[Point]:
    """Four targets a user, 1,000 items."""
    sizes = (10**3, 10**4) if small else (10**4, 10**5, 10**6)
    shape = {"items": 1000, "length": 7, "n": 10, "loss": "sampled_softmax"}
    return [
        {"curve": "FPARec", "x": count} | measured("epoch", users=count, **shape) for count in sizes
    ]


def both(small: bool) -> list[Point]:
    """As many items as users, four targets each; 10,000 of the users are ranked."""
    sizes = (10**3, 10**4) if small else (10**4, 10**5, 10**6)
    shape = {"length": 7, "n": 10, "loss": "sampled_softmax", "batch_size": 4096, "asked": 10**4}
    return [
        {"curve": "sampled_softmax", "x": size} | measured("epoch", users=size, items=size, **shape)
        for size in sizes
    ]


def preprocess(small: bool) -> list[Point]:
    """CSV to splits, beside pandas; all must give the same data hash."""
    points = []
    with tempfile.TemporaryDirectory() as folder:
        for rows in (100_000, 500_000) if small else (500_000, 2_000_000, 8_000_000, ROWS):
            path = Path(folder) / "ratings.csv"
            write_ratings(path, rows)
            own = [
                {"curve": name, "x": rows} | measured(name, path=str(path))
                for name in ("preprocess", "pandas", "pandas_integers")
            ]
            if len({point["data_hash"] for point in own}) != 1:
                raise RuntimeError(f"{rows} rows: the splits differ")
            points += own
    return points


DEGREES = {"window": 2, "both": 2}  # of the law; 1 where none is named
AXES = {
    "window": "n: targets of each of 256 users",
    "catalogue": "items (2,560 targets)",
    "users": "users (4 targets each)",
    "both": "users and as many items",
    "preprocess": "rows of the CSV",
}
LABELS = {
    "FPARec": "epoch of FPARec",
    "PARec": "epoch of PARec",
    "SASRec": "epoch of SASRec",
    "cross_entropy": "epoch, exact cross-entropy",
    "sampled_softmax": "epoch, 256 sampled negatives",
    "preprocess": "this project",
    "pandas": "pandas",
    "pandas_integers": "pandas, identifiers as integers",
}
CURVES = {
    "window": window,
    "catalogue": catalogue,
    "users": users,
    "both": both,
    "preprocess": preprocess,
}


def law(points: list[Point], of: str, degree: int) -> tuple[np.ndarray, float]:
    """Coefficients of 1, x, x², … (degree + 1,), and the largest relative deviation."""
    x, y = (np.array([point[key] for point in points], float) for key in ("x", of))
    design = np.vander(x, degree + 1, increasing=True) / y[:, None]
    scale = design.max(0)  # columns alike, or nnls stops at once
    coefficients = nnls(design / scale, np.ones(len(y)))[0] / scale
    return coefficients, float(np.abs(design @ coefficients - 1).max())


def written(coefficients: np.ndarray, deviation: float) -> str:
    """The law as the table has it: terms of nothing are left out."""
    terms = zip(coefficients, ("", "·x", "·x²"), strict=False)
    text = " + ".join(f"{value:.2g}{power}" for value, power in terms if value)
    return f"{text} (± {deviation:.0%})"


def row(curve: str, size: str, seconds: str, peak: str) -> None:
    """One row of the table."""
    print(f"| {curve} | {size} | {seconds} | {peak} |")


def report(name: str, points: list[Point], small: bool) -> None:
    """Print the table and write the JSON and the plot."""
    row(name, "size", "seconds", "peak MiB above imports")
    row("---", "---:", "---:", "---:")
    laws = {}
    for curve in dict.fromkeys(point["curve"] for point in points):
        own = [point for point in points if point["curve"] == curve]
        laws[curve] = {key: law(own, key, DEGREES.get(name, 1)) for key in ("seconds", "peak_mib")}
        for p in own:
            row(curve, f"{p['x']:,}", f"{p['seconds']:.2f}", f"{p['peak_mib']:,.0f}")
        row(curve, "law", *(written(*fitted) for fitted in laws[curve].values()))
    RESULTS.mkdir(exist_ok=True)
    content = {"machine": platform.platform(), "points": points}
    (RESULTS / f"growth-{name}.json").write_text(json.dumps(content, indent=2) + "\n")
    if not small:
        plot(name, points, laws)


def plot(name: str, points: list[Point], laws: dict[str, dict[str, Any]]) -> None:
    """Points and fitted laws, seconds and memory side by side, log-log."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4))
    for colour, (curve, own_laws) in enumerate(laws.items()):
        own = [point for point in points if point["curve"] == curve]
        sizes = np.geomspace(own[0]["x"], own[-1]["x"], 50)
        for axis, (key, (terms, _)) in zip(axes, own_laws.items(), strict=True):
            axis.loglog(sizes, np.polyval(terms[::-1], sizes), f"C{colour}", alpha=0.5)
            axis.loglog(
                [p["x"] for p in own], [p[key] for p in own], f"C{colour}o", label=LABELS[curve]
            )
    for axis, what in zip(axes, ("seconds", "peak MiB above imports"), strict=True):
        axis.set(xlabel=AXES[name], ylabel=what)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.suptitle(f"growth.py {name}: points measured, lines fitted", fontsize=10)
    figure.tight_layout()
    IMAGES.mkdir(exist_ok=True)
    figure.savefig(IMAGES / f"growth-{name}.png", dpi=110)


def main() -> None:
    """Measure the named curve."""
    if sys.argv[1:2] == ["worker"]:
        worker(sys.argv[2], json.loads(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("curve", choices=CURVES)
    parser.add_argument("--small", action="store_true", help="the smallest sizes only")
    options = parser.parse_args()
    report(options.curve, CURVES[options.curve](options.small), options.small)


if __name__ == "__main__":
    main()
