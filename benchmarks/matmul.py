"""Rates of the two matrix libraries that PyTorch carries, for the products of the loss.

`torch.mm` is MKL on x86, `mm_nt` is oneDNN where there is one. Beauty: 12,101 items, 50 dimensions,
row blocks as the loss takes them. Usage: python benchmarks/matmul.py [--threads 2]
"""

import argparse
import statistics
import sys
from functools import partial

import torch
from parts import LARGE, by_turns
from rich.console import Console
from rich.table import Table

from fparec_pipeline.training.loss import block_rows
from fparec_pipeline.training.matmul import HAS_ONEDNN, mm_nt

ITEMS, D = 12_101, 50
REPEATS = 51


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    threads = parser.parse_args().threads
    torch.set_num_threads(threads)
    rows = block_rows(ITEMS, torch.device("cpu"))
    shapes = {  # a (m, k) by b (p, k), transposed as they are in the loss
        "scores: hidden · weightᵀ": (torch.randn(rows, D), torch.randn(ITEMS, D)),
        "d hidden: exponentials · weight": (torch.randn(rows, ITEMS), torch.randn(D, ITEMS)),
        "d weight: hiddenᵀ · exponentials": (torch.randn(D, rows), torch.randn(rows, ITEMS).T),
        f"large: {LARGE} × {LARGE}": (torch.randn(LARGE, LARGE), torch.randn(LARGE, LARGE)),
    }
    table = Table("product", "m × k × p", "torch.mm GFLOP/s", "mm_nt GFLOP/s", "ratio")
    for name, (a, b) in shapes.items():
        operations = 2 * a.shape[0] * a.shape[1] * b.shape[0]
        repeats = 5 if "large" in name else REPEATS
        times = by_turns(partial(torch.mm, a, b.T), partial(mm_nt, a, b), repeats)
        mm, nt = (operations / statistics.median(column) / 1e9 for column in times)
        size = f"{a.shape[0]} × {a.shape[1]} × {b.shape[0]}"
        table.add_row(name, size, f"{mm:.0f}", f"{nt:.0f}", f"{nt / mm:.2f}")
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    library = "oneDNN" if HAS_ONEDNN else "torch.mm as well: no oneDNN in this build"
    console.print(f"torch {torch.__version__}, {threads} threads, float32; mm_nt is {library}.")


if __name__ == "__main__":
    main()
