"""Ten users of MovieLens latest-small, with titles: what they rated last, and what is recommended.

Prints the table of docs/recommendations.md. Before it:
    fparec run --datasets ml-latest-small --models fparec --seeds 0
    fparec promote ml-latest-small && fparec recommend ml-latest-small

Titles come from the embedded file, whose sha256 is checked before it is unpickled.
"""

import hashlib
import io
from importlib.metadata import distribution
from pathlib import Path

import pandas as pd
import polars as pl

from fparec_pipeline.config import load_config
from fparec_pipeline.datasets.sources import EMBEDDED_FILE, EMBEDDED_WHEEL
from fparec_pipeline.paths import DataRoot

DATASET = "ml-latest-small"
USERS, SHOWN = 10, 5


def ratings(expected: str) -> pl.DataFrame:
    """user, item, title and time of every rating; only of the file with this sha256."""
    path = Path(str(distribution(EMBEDDED_WHEEL).locate_file(EMBEDDED_FILE)))
    content = path.read_bytes()
    if f"sha256:{hashlib.sha256(content).hexdigest()}" != expected:
        raise SystemExit(f"{path} is not the file that datasets.toml names; it was not opened.")
    frame = pd.read_pickle(io.BytesIO(content), compression="xz")  # noqa: S301
    numbers = {"user": "userId", "item": "movieId", "time": "timestamp"}
    table = pl.DataFrame({name: frame[column].to_numpy() for name, column in numbers.items()})
    titles = [title if isinstance(title, str) else None for title in frame["title"]]
    return table.with_columns(
        pl.col("user", "item").cast(pl.String), title=pl.Series(titles, dtype=pl.String)
    )


def main() -> None:
    data = DataRoot.default()
    table = ratings(str(load_config(data).datasets[DATASET].active_source.hash))
    titles = table.drop_nulls("title").select("item", "title").unique("item", maintain_order=True)
    found = pl.read_parquet(data.recommendations(DATASET)).join(titles, on="item", how="left")
    found = found.sort("rank").group_by("user").agg(pl.col("title").head(SHOWN))
    last = table.sort("time", maintain_order=True).group_by("user")
    history = last.agg(pl.col("title").tail(SHOWN).alias("rated"))
    users = [str(user) for user in range(1, USERS + 1)]
    rows = history.join(found, on="user").filter(pl.col("user").is_in(users))
    print("| user | rated last | recommended, best first |\n|---|---|---|")
    for row in rows.sort(pl.col("user").cast(pl.Int64)).iter_rows(named=True):
        cells = ("; ".join(map(str, row[name])) for name in ("rated", "title"))
        print(f"| {row['user']} | {' | '.join(cells)} |")


main()
