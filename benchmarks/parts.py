"""What the benchmark measures in its own process: roofline, loss, full ranking, mixers.

All times are seconds of wall clock. What is compared is measured by turns, pair by pair.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fparec_pipeline.config import Hyperparameters, load_config
from fparec_pipeline.datasets.splits import Splits
from fparec_pipeline.models.mixers import build_mixer
from fparec_pipeline.models.networks import build_network
from fparec_pipeline.training.batches import Batches
from fparec_pipeline.training.blocks import block_size
from fparec_pipeline.training.evaluation import EvaluationSet, network_scorer, rank_targets
from fparec_pipeline.training.losses.cross_entropy import loss_and_gradients
from fparec_pipeline.training.matmul import HAS_ONEDNN, add_mm, mm, onednn_mm
from fparec_pipeline.training.metrics import metrics_from_ranks

LARGE = 2048  # side of the square matrices whose product gives the machine's rate
REPEATS = 7
MIXER_BATCH = 128


def seconds_of(action: Callable[[], Any]) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def by_turns(
    first: Callable[[], Any], second: Callable[[], Any], repeats: int
) -> list[list[float]]:
    """Seconds of both, `repeats` times A B, after one of each that does not count."""
    first(), second()
    pairs = [(seconds_of(first), seconds_of(second)) for _ in range(repeats)]
    return [list(column) for column in zip(*pairs, strict=True)]


def median_ratio(numerators: list[float], denominators: list[float]) -> float:
    """The median of the ratios pair by pair."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def large_matrix_rate() -> float:
    """Float32 operations a second of a large product, by the better of the two libraries."""
    a, b = torch.randn(LARGE, LARGE), torch.randn(LARGE, LARGE)
    other = onednn_mm if HAS_ONEDNN else torch.mm
    times = by_turns(lambda: torch.mm(a, b), lambda: other(a, b), 3)
    return 2 * LARGE**3 / min(min(column) for column in times)


def loss_operations(targets: int, n_items: int, d: int) -> int:
    """Operations of the loss's three matrix products: scores and both gradients."""
    return 3 * 2 * targets * n_items * d


def loss_against_roofline(splits: Splits, h: Hyperparameters) -> dict[str, float]:
    """The loss, forward and gradients, beside its three products at the large-matrix rate."""
    targets = round(Batches(splits, h.n, h.batch_size).targets_per_step)
    hidden = torch.nn.functional.layer_norm(torch.randn(targets, h.d), (h.d,))
    weight = nn.init.xavier_uniform_(torch.empty(splits.n_items, h.d))
    wanted = torch.randint(splits.n_items, (targets,))
    loss_and_gradients(hidden, weight, wanted)
    times, bounds, products = [], [], []
    for _ in range(REPEATS):
        bounds.append(loss_operations(targets, splits.n_items, h.d) / large_matrix_rate())
        repeats = [seconds_of(lambda: loss_and_gradients(hidden, weight, wanted)) for _ in range(5)]
        times.append(statistics.median(repeats))
        products.append(seconds_of(lambda: _three_products(hidden, weight)))
    return {
        "targets": targets,
        "seconds": statistics.median(times),
        "roofline_seconds": statistics.median(bounds),
        "share_of_roofline": median_ratio(bounds, times),
        "three_products_seconds": statistics.median(products),
    }


def _three_products(hidden: Tensor, weight: Tensor) -> None:
    """The products alone, block by block as the loss does them, with nothing in between."""
    d_weight = torch.zeros_like(weight)
    for block in hidden.split(block_size(len(weight), weight.device)):
        scores = mm(weight, block.T)
        mm(weight.T, scores)
        add_mm(d_weight, scores, block)


class FullRanking:
    """All users of a dataset, ready to be ranked by a freshly initialised SASRec."""

    def __init__(self, splits: Splits, h: Hyperparameters) -> None:
        self.users = EvaluationSet(splits, "valid", h.n)
        self.model = build_network(h, splits.n_items).eval()
        self.weight = self.model.output_weights().detach()
        self.hidden = torch.randn(splits.n_users, h.d)

    def rank(self) -> None:
        """Ranks and metrics of all users, as after every epoch."""
        metrics_from_ranks(rank_targets(network_scorer(self.model), self.users).kept)

    def product(self) -> None:
        """The one product that this contains: all users' outputs by all items, in blocks."""
        for rows in self.hidden.split(block_size(len(self.weight), self.weight.device)):
            mm(rows, self.weight.T)

    def against_product(self) -> dict[str, float]:
        """Both, by turns."""
        ranking, product = by_turns(self.rank, self.product, REPEATS)
        return {
            "seconds": statistics.median(ranking),
            "product_seconds": statistics.median(product),
            "ratio": median_ratio(ranking, product),
        }


def mixers(n: int, d: int) -> dict[str, float]:
    """Forward and backward of both mixers on full windows, training mode, by turns."""
    defaults = load_config()
    step = {}
    for model in ("sasrec", "fparec"):
        h = defaults.trial("beauty", model, 0).hyperparameters.model_copy(update={"n": n, "d": d})
        step[model] = _mixer_step(build_mixer(h), n, d)
    sasrec, fparec = by_turns(step["sasrec"], step["fparec"], 5)
    return {
        "n": n,
        "sasrec_seconds": statistics.median(sasrec),
        "fparec_seconds": statistics.median(fparec),
        "ratio": median_ratio(sasrec, fparec),
    }


def _mixer_step(mixer: nn.Module, n: int, d: int) -> Callable[[], None]:
    x = torch.randn(n, MIXER_BATCH, d, requires_grad=True)
    mask = torch.ones(n, MIXER_BATCH, dtype=torch.bool)
    gradient = torch.randn(n, MIXER_BATCH, d)

    def step() -> None:
        mixer(x, x, mask).backward(gradient)

    return step
