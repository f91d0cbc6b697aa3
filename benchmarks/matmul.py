"""Rates of the two matrix libraries that PyTorch carries, for the products of the loss.

`torch.mm` is MKL on x86. Beauty: 12,101 items, 50 dimensions, blocks of targets as the loss takes
them. Usage: python benchmarks/matmul.py [--threads 2]
"""

import argparse
import statistics
import sys
from functools import partial

import torch
from parts import LARGE, by_turns
from rich.console import Console
from rich.table import Table

from fparec_pipeline.training.blocks import block_size
from fparec_pipeline.training.matmul import HAS_ONEDNN, PREFERS_ONEDNN, onednn_mm

ITEMS, D = 12_101, 50
REPEATS = 51


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    threads = parser.parse_args().threads
    if not HAS_ONEDNN:
        parser.exit(1, "This build of PyTorch has no oneDNN: there is nothing to compare.\n")
    torch.set_num_threads(threads)
    block = block_size(ITEMS, torch.device("cpu"))
    weight, hidden = torch.randn(ITEMS, D), torch.randn(block, D)
    columns = torch.randn(D, 10 * block)[:, :block]
    exponentials = torch.rand(ITEMS, block)
    shapes = {  # a (m, k) by b (k, p), laid out as they are in the loss
        "scores: weight · hiddenᵀ": (weight, columns),
        "d hidden: weightᵀ · exponentials": (weight.T, exponentials),
        "d weight: exponentials · hidden": (exponentials, hidden),
        f"large: {LARGE} × {LARGE}": (torch.randn(LARGE, LARGE), torch.randn(LARGE, LARGE)),
    }
    table = Table("product", "m × k × p", "torch.mm GFLOP/s", "oneDNN GFLOP/s", "ratio")
    for name, (a, b) in shapes.items():
        operations = 2 * a.shape[0] * a.shape[1] * b.shape[1]
        repeats = 5 if "large" in name else REPEATS
        times = by_turns(partial(torch.mm, a, b), partial(onednn_mm, a, b), repeats)
        mkl, onednn = (operations / statistics.median(column) / 1e9 for column in times)
        size = f"{a.shape[0]} × {a.shape[1]} × {b.shape[1]}"
        table.add_row(name, size, f"{mkl:.0f}", f"{onednn:.0f}", f"{onednn / mkl:.2f}")
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    library = "oneDNN" if PREFERS_ONEDNN else "torch.mm"
    console.print(f"torch {torch.__version__}, {threads} threads, float32; used: {library}.")


if __name__ == "__main__":
    main()
