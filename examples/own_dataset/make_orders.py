"""Writes orders.csv, the orders of an invented shop, into the folder that is named.

    python examples/own_dataset/make_orders.py /tmp/shop

300 customers buy 6 to 20 of 120 articles. An order is often of the article after the last one, so
that there is something to learn. The same file every time.
"""

import csv
import datetime
import random
import sys
from pathlib import Path

CUSTOMERS, ARTICLES = 300, 120


def make_orders(folder: Path) -> Path:
    """Write the file and return its path."""
    draw = random.Random(0)  # noqa: S311
    path = folder / "orders.csv"
    folder.mkdir(parents=True, exist_ok=True)
    start = datetime.datetime(2024, 1, 1, 8)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["order", "customer", "sku", "ordered_at"])
        number = 0
        for customer in range(CUSTOMERS):
            article = draw.randrange(ARTICLES)
            time = start + datetime.timedelta(minutes=draw.randrange(100_000))
            for _ in range(draw.randrange(6, 21)):
                number += 1
                writer.writerow([number, f"C{customer:04}", f"A-{article:03}", time.isoformat()])
                far = draw.random() < 0.3
                article = draw.randrange(ARTICLES) if far else (article + 1) % ARTICLES
                time += datetime.timedelta(minutes=draw.randrange(1, 20_000))
    return path


if __name__ == "__main__":
    print(make_orders(Path(sys.argv[1])))
