"""Writes raw files in their publishers' formats, and splits sequences the naive way.

The naive functions are the oracles of this folder: plain loops over the definitions.
"""

import csv
import datetime
import gzip
import json
import random
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import polars as pl

DAY = 86_400
START = 1_546_300_800  # 2019-01-01 00:00:00 UTC


@dataclass(frozen=True)
class Event:
    """One interaction of a raw file; `position` is its place in the user's true order."""

    user: str
    item: str
    time: int
    position: int


def published_sequences(seed: int = 0, users: int = 24, items: int = 12) -> list[list[int]]:
    """Sequences of item ids as in a published file: a 5-core, numbered by first appearance."""
    draw = random.Random(seed)
    numbers: dict[int, int] = {}
    sequences = [
        [numbers.setdefault(item, len(numbers) + 1) for item in draw.sample(range(items), length)]
        for length in (draw.randint(5, items - 2) for _ in range(users))
    ]
    assert min(Counter(item for sequence in sequences for item in sequence).values()) >= 5
    return sequences


def shuffled_events(sequences: list[list[int]], seed: int = 1) -> list[Event]:
    """The sequences as raw rows in a random order, about half of them tied in time.

    Rows of one user and one time keep their true order among themselves, which is all that a raw
    file tells about them.
    """
    draw = random.Random(seed)
    events = []
    for number, sequence in enumerate(sequences, start=1):
        day = 0
        for position, item in enumerate(sequence):
            day += draw.choice((0, 1, 3))
            events.append(Event(user_name(number), item_name(item), START + day * DAY, position))
    draw.shuffle(events)
    return [tied_in_order(events, event) for event in events]


def tied_in_order(events: list[Event], event: Event) -> Event:
    """What stands at `event`'s place once the events tied with it are in their true order."""
    tied = [e for e in events if (e.user, e.time) == (event.user, event.time)]
    return sorted(tied, key=lambda e: e.position)[tied.index(event)]


def user_name(number: int) -> str:
    return str(7000 - number)  # neither the order of numbers nor of text is that of the ids


def item_name(number: int) -> str:
    return str(300 + 17 * number % 101)


def write_sequences(path: Path, sequences: list[list[int]]) -> None:
    lines = [" ".join(map(str, (user, *items))) for user, items in enumerate(sequences, start=1)]
    path.write_text("\n".join(lines) + "\n")


def write_pairs(path: Path, sequences: list[list[int]]) -> None:
    lines = [f"{user} {item}" for user, items in enumerate(sequences, start=1) for item in items]
    path.write_text("\n".join(lines) + "\n")


def write_movielens(path: Path, events: list[Event]) -> None:
    """ml-1m.zip: other members in latin-1, and one whose name tries to leave the folder."""
    ratings = "".join(f"{e.user}::{e.item}::4::{e.time}\n" for e in events)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "ml-1m/movies.dat", "73::Misérables, Les (1995)::Drama\n".encode("latin-1")
        )
        archive.writestr("../ratings.dat", "1::1::1::1\n")
        archive.writestr("ml-1m/ratings.dat", ratings.encode("latin-1"))


def write_amazon(path: Path, events: list[Event]) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for e in events:
            day = datetime.datetime.fromtimestamp(e.time, datetime.UTC)
            record = {
                "reviewerID": e.user,
                "asin": e.item,
                "reviewerName": 'A. "Tricky" Naïve',
                "helpful": [3, 4],
                "reviewText": 'Said {"asin": "B000", "unixReviewTime": 1}\nand\\or "no".',
                "overall": 5.0,
                "summary": "Don't waste your money",
                "unixReviewTime": e.time,
                "reviewTime": day.strftime("%m %d, %Y"),
            }
            file.write(json.dumps(record) + "\n")


def write_yelp(path: Path, events: list[Event]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for number, e in enumerate(events):
            moment = datetime.datetime.fromtimestamp(e.time, datetime.UTC)
            record = {
                "review_id": f"r{number}",
                "user_id": e.user,
                "business_id": e.item,
                "stars": 4.0,
                "useful": 0,
                "funny": 0,
                "cool": 0,
                "text": 'Très bon, "user_id": "nobody"\n',
                "date": moment.strftime("%Y-%m-%d %H:%M:%S"),
            }
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def write_csv(path: Path, events: list[Event]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["when", "who", "note", "what"])
        writer.writerows([e.time, e.user, 'a, "b"', e.item] for e in events)


def write_parquet(path: Path, events: list[Event]) -> None:
    pl.DataFrame(
        {
            "who": [int(e.user) for e in events],
            "what": [int(e.item) for e in events],
            "when": [datetime.datetime.fromtimestamp(e.time, datetime.UTC) for e in events],
        }
    ).write_parquet(path)


def naive_core(rows: list[tuple[str, str, int]], core: int) -> list[tuple[str, str, int]]:
    """Takes one user or item below the core away at a time, until there is none."""
    while True:
        users, items = Counter(row[0] for row in rows), Counter(row[1] for row in rows)
        poor_users = [user for user, count in users.items() if count < core]
        poor_items = [item for item, count in items.items() if count < core]
        if poor_users:
            rows = [row for row in rows if row[0] != poor_users[0]]
        elif poor_items:
            rows = [row for row in rows if row[1] != poor_items[0]]
        else:
            return rows


def naive_sequences(rows: list[tuple[str, str, int]]) -> dict[str, list[str]]:
    """User -> items by time, ties in the order of `rows`; users by their first row."""
    histories: dict[str, list[tuple[int, int, str]]] = {}
    for place, (user, item, time) in enumerate(rows):
        histories.setdefault(user, []).append((time, place, item))
    return {user: [item for *_, item in sorted(history)] for user, history in histories.items()}
