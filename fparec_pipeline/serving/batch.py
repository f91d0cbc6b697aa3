"""Recommendations of many users in one parquet file: written, checked, compared with the last.

A row is one recommended item: `user` and `item` by the source's ids, `rank` from 1, and `score`
(equation 10; null where popularity answered because the user's history holds no known item). Rows
are in the order of the users, then by rank. The file's metadata says who recommended, and how.

Here belongs the file. Whose recommendations they are belongs to `histories.py`.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from fparec_pipeline.config import NULL_WORDS, Source
from fparec_pipeline.datasets.files import DatasetError, write_atomically
from fparec_pipeline.serving.answers import MOST_ITEMS
from fparec_pipeline.serving.histories import (
    Columns,
    Histories,
    from_file,
    from_splits,
    only,
    read_ids,
)
from fparec_pipeline.serving.model import Candidates, PackedModel

BLOCK = 8192  # users that are asked for, and written, together
METADATA = "fparec"  # the key of the file's own metadata
SCHEMA = pa.schema(
    [("user", pa.string()), ("rank", pa.uint16()), ("item", pa.string()), ("score", pa.float32())]
)

WISHED_FILES = ("history", "allow", "block")  # of a wish for all users

OnBlock = Callable[[int, int], None]  # told how many users are done, and how many there are


class NothingToRecommend(DatasetError):
    """No user, or no item that may be recommended."""


@dataclass(frozen=True)
class Wish:
    """What is asked for. Paths are of files as `histories` reads them."""

    k: int = 10
    exclude_seen: bool = True
    users: Path | None = None  # only these users
    history: Path | None = None  # histories in the place of those of the splits, and new users
    allow: Path | None = None  # only these items
    block: Path | None = None  # not these items


@dataclass(frozen=True)
class Summary:
    """What was written."""

    users: int
    rows: int
    by_popularity: int  # users whose history holds no known item
    fewer: int  # users who got fewer than k items, because no more were left
    unknown_interactions: int  # of these users, with items that the champion does not know
    unmatched_users: int  # of the file of users: without any history
    unmatched_allow: int  # of the list of allowed items: not known to the champion
    unmatched_block: int
    distinct_items: int
    catalogue_share: float  # distinct items among those that may be recommended
    overlap_with_last: float | None  # mean share of a user's items that were there last time
    users_in_both: int


@dataclass(frozen=True)
class Prepared:
    """A wish with its files read."""

    histories: Histories
    candidates: Candidates
    unmatched: dict[str, int] = field(default_factory=dict)  # file of the wish -> ids of no use


def prepare(model: PackedModel, splits: Path, wish: Wish, columns: Columns) -> Prepared:
    """Read what the wish names.

    Args:
        model: whose items count.
        splits: the folder of the dataset's splits.
        wish: what is asked for.
        columns: what its files may call their columns.

    Raises:
        HistoryError: a file cannot be used.
        NothingToRecommend: no user or no item is left, k is out of range, or a list of items
            names none that the champion knows.
    """
    if not 1 <= wish.k <= MOST_ITEMS:
        raise NothingToRecommend(f"{wish.k} items a user: it must be 1 to {MOST_ITEMS:,}.")
    if not (splits / "users.parquet").exists():
        raise NothingToRecommend(
            f"{splits} is not there, and the users' histories are those of the splits. `fparec run "
            f"--datasets {splits.name}` makes them."
        )
    known = model.items.select("item", "source_id")
    histories = from_splits(splits, known)
    newer = [from_file(wish.history, known, columns, histories.users)] if wish.history else []
    everyone, unmatched = histories.users, {}
    if newer:
        everyone = pl.concat([everyone, newer[0].users]).unique(maintain_order=True)
    if wish.users:
        wanted = read_ids(wish.users, columns.user, everyone, columns.null_values)
        unmatched["users"] = _missing(wanted, everyone)
        histories = only(histories, wanted, *newer)
    elif newer:
        histories = only(histories, everyone, *newer)
    lists: dict[str, pl.Series | None] = {"allow": None, "block": None}
    for name in lists:
        if path := getattr(wish, name):
            ids = read_ids(path, columns.item, model.names, columns.null_values)
            lists[name], unmatched[name] = ids, _missing(ids, model.names)
            if len(ids) and unmatched[name] == len(ids):
                raise NothingToRecommend(
                    f"No item of {path} is known to the champion: it has {ids[0]!r}, the champion "
                    f"knows {model.names[0]!r}. Name items as the dataset's file does."
                )
    candidates = model.candidates(**lists)
    if not len(histories):
        raise NothingToRecommend(f"{wish.users or splits} names no user.")
    if not len(candidates.items):
        raise NothingToRecommend(
            "No item is left to recommend: the champion knows none of those that "
            f"{wish.allow or 'the catalogue'} allows"
            + (f" and {wish.block} does not block." if wish.block else ".")
        )
    return Prepared(histories, candidates, unmatched)


def _missing(ids: pl.Series, known: pl.Series) -> int:
    return int((~ids.is_in(known.implode())).sum())


def write_recommendations(
    model: PackedModel,
    prepared: Prepared,
    wish: Wish,
    target: Path,
    on_block: OnBlock | None = None,
) -> Summary:
    """Writes `target` atomically, a block of users at a time; compares it with what it replaces.

    Raises:
        CannotWrite: the disk is full; what was there before stays.
    """
    histories, pool = prepared.histories, prepared.candidates
    facts = {name: model.facts.get(name) for name in ("dataset", "model", "fingerprint")}
    facts |= {"k": wish.k, "exclude_seen": wish.exclude_seen}
    facts |= {name: str(path) for name in WISHED_FILES if (path := getattr(wish, name))}
    schema = SCHEMA.with_metadata({METADATA: json.dumps(facts)})
    rows = by_popularity = fewer = 0
    recommended = np.zeros(len(model.names) + 1, bool)
    with write_atomically(target) as part:
        with pq.ParquetWriter(part, schema, compression="zstd") as writer:
            for first in range(0, len(histories), BLOCK):
                block = histories.between(first, min(first + BLOCK, len(histories)))
                top = model.top(
                    block.values,
                    block.offsets,
                    wish.k,
                    exclude_seen=wish.exclude_seen,
                    candidates=pool,
                )
                found = top.items > 0
                writer.write_table(_table(block.users, model.names, top.items, top.scores, schema))
                rows += int(found.sum())
                by_popularity += int((~top.by_model).sum())
                fewer += int((found.sum(1) < wish.k).sum())
                recommended[top.items[found]] = True
                if on_block:
                    on_block(first + len(block), len(histories))
        shared, both = _overlap(target, part) if target.exists() else (None, 0)
    return Summary(
        users=len(histories),
        rows=rows,
        by_popularity=by_popularity,
        fewer=fewer,
        unknown_interactions=histories.unknown,
        **{f"unmatched_{of}": prepared.unmatched.get(of, 0) for of in ("users", "allow", "block")},
        distinct_items=int(recommended.sum()),
        catalogue_share=float(recommended.sum()) / len(pool.items),
        overlap_with_last=shared,
        users_in_both=both,
    )


def described(path: Path) -> dict[str, Any]:
    """What a file of recommendations says of itself: dataset, model, fingerprint, and its wish.

    Raises:
        NothingToRecommend: it is no such file.
    """
    try:
        facts = (pq.read_schema(path).metadata or {})[METADATA.encode()]
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        raise NothingToRecommend(f"{path} holds no recommendations.") from error
    return dict(json.loads(facts))


def wish_before(path: Path) -> Wish:
    """What the recommendations in that file were made with; the defaults where there are none."""
    try:
        facts = described(path)
    except NothingToRecommend:
        return Wish()
    files = {name: Path(facts[name]) for name in WISHED_FILES if name in facts}
    return Wish(facts["k"], facts["exclude_seen"], **files)


def problems(path: Path, model: PackedModel, prepared: Prepared, wish: Wish) -> list[str]:
    """What is wrong with a file of recommendations, a sentence each; empty when it is sound.

    Works from the file and the histories alone, in Polars, not from how the file was made.
    """
    histories, pool = prepared.histories, prepared.candidates
    table = pl.scan_parquet(path)
    names = model.names
    allowed = pl.LazyFrame({"item": names.gather(pool.items.numpy() - 1)})
    owners = np.repeat(np.arange(len(histories)), np.diff(histories.offsets))
    seen = pl.LazyFrame(
        {"user": histories.users.gather(owners), "item": names.gather(histories.values - 1)}
    ).unique()
    left = (
        pl.LazyFrame({"user": histories.users})
        .join(
            seen.join(allowed, on="item", how="semi").group_by("user").len("seen"),
            on="user",
            how="left",
        )
        .select(
            "user",
            wanted=pl.min_horizontal(
                pl.lit(wish.k),
                len(pool.items) - (pl.col("seen").fill_null(0) if wish.exclude_seen else 0),
            ),
        )
    )
    given = table.group_by("user").agg(
        pl.len().alias("given"),
        pl.col("item").n_unique().alias("distinct"),
        pl.col("rank").sort().eq(pl.int_range(1, pl.len() + 1)).all().alias("ranked"),
    )
    counts = left.join(given, on="user", how="full", coalesce=True).select(
        unlike=(pl.col("given").fill_null(0) != pl.col("wanted").fill_null(0)).sum(),
        repeated=(pl.col("distinct") != pl.col("given")).sum(),
        unranked=(~pl.col("ranked")).sum(),
    )
    barred = table.join(allowed, on="item", how="anti").select(barred=pl.len())
    again = table.join(seen, on=["user", "item"], how="semi").select(seen=pl.len())
    found = pl.concat(pl.collect_all([counts, barred, again]), how="horizontal").row(0, named=True)
    sentences = {
        "unlike": "users have another number of items than they should",
        "repeated": "users have an item twice",
        "unranked": "users have ranks that are not 1, 2, 3, …",
        "barred": "rows have an item that may not be recommended",
        **({"seen": "rows have an item of the user's history"} if wish.exclude_seen else {}),
    }
    return [f"{found[key]:,} {words}" for key, words in sentences.items() if found[key]]


def as_metadata(summary: Summary) -> dict[str, Any]:
    """The summary as plain values, without what is unknown."""
    return {key: value for key, value in asdict(summary).items() if value is not None}


def samples(path: Path, users: int) -> Iterator[tuple[str, list[str]]]:
    """The first users of a file with their items, best first."""
    head = (
        pl.scan_parquet(path)
        .group_by("user", maintain_order=True)
        .agg(pl.col("item"))
        .head(users)
        .collect()
    )
    yield from head.iter_rows()


def _table(
    users: pl.Series, names: pl.Series, items: np.ndarray, scores: np.ndarray, schema: pa.Schema
) -> pa.Table:
    """The rows of a block, (u, k) item numbers and scores."""
    rows, columns = np.nonzero(items)
    frame = pl.DataFrame(
        {
            "user": users.gather(rows),
            "rank": pl.Series(columns + 1, dtype=pl.UInt16),
            "item": names.gather(items[rows, columns] - 1),
            "score": pl.Series(scores[rows, columns]).fill_nan(None),
        }
    )
    return frame.to_arrow().cast(schema)


def _overlap(old: Path, new: Path) -> tuple[float | None, int]:
    """The mean share of a user's items that stood in the old file, over users of both; how many.

    None where the old file is none that can be compared.
    """
    try:
        before = pl.scan_parquet(old).select("user", "item", was=pl.lit(True))
        in_both = pl.scan_parquet(new).join(before.select("user").unique(), on="user", how="semi")
        shares = (
            in_both.join(before, on=["user", "item"], how="left")
            .group_by("user")
            .agg(pl.col("was").fill_null(False).mean())
            .collect()
        )
    except (pl.exceptions.PolarsError, OSError):
        return None, 0
    return (float(shares["was"].mean()) if shares.height else None), shares.height  # type: ignore[arg-type]


def columns_of(source: Source) -> Columns:
    """What a history of the dataset may call its columns: as its raw file does, or plainly."""
    own = {name: getattr(source, name, None) for name in ("user", "item", "time")}
    names = {name: (given, name) if given else (name,) for name, given in own.items()}
    return Columns(
        **names,
        time_unit=getattr(source, "time_unit", None),
        time_format=getattr(source, "time_format", None),
        null_values=getattr(source, "null_values", NULL_WORDS),
    )
