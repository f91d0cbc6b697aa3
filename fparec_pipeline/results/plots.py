"""Pictures as PNG and SVG bytes, drawn without any window system; equal input, equal bytes.

Here belong pictures of numbers that are given. The paper's own figures belong to
`paper_figures.py`.
"""

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import matplotlib.lines
import numpy as np
import polars as pl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

LABEL_STEP = 4  # points


def literal(text: str) -> str:
    """Text that matplotlib shows as it is.

    It takes what stands between two $ for a formula, and leaves a label that begins with _ out of
    legends: a space without width stands before that.
    """
    text = text.replace("$", r"\$")
    return f"\u200b{text}" if text.startswith("_") else text


def learning_curve(history: pl.DataFrame, title: str) -> bytes:
    """Validation NDCG@10 above, loss below, over epochs; the best epoch is marked.

    Args:
        history: columns epoch, loss and valid_ndcg_at_10, one row an epoch.
        title: printed above.

    Returns:
        A PNG of about 700 × 500 pixels.

    Raises:
        ValueError: the history is empty.
    """
    if history.is_empty():
        raise ValueError(f"No epoch of {title} has ended yet: there is no learning curve.")
    # The first of equals, as in training.
    best = history.row(history["valid_ndcg_at_10"].arg_max(), named=True)
    epochs, measure = history["epoch"].to_numpy(), history["valid_ndcg_at_10"].to_numpy()
    figure = Figure(figsize=(7, 5), dpi=100)  # fixed margins: half the time of a fitted layout
    above, below = figure.subplots(2, 1, sharex=True)
    figure.subplots_adjust(left=0.11, right=0.98, top=0.93, bottom=0.1, hspace=0.08)
    above.plot(epochs, measure, marker=".", color="tab:blue")
    above.plot(best["epoch"], best["valid_ndcg_at_10"], "o", color="tab:red")
    above.set(title=literal(title), ylabel="validation NDCG@10")
    below.plot(epochs, history["loss"].to_numpy(), marker=".", color="tab:gray")
    below.set(xlabel="epoch", ylabel="training loss")
    words = f"best: epoch {best['epoch']}, {best['valid_ndcg_at_10']:.4f}"
    for axes in (above, below):
        axes.axvline(best["epoch"], color="tab:red", linestyle=":", label=words)
        axes.grid(alpha=0.3)
    above.legend(loc="lower right")
    return png(figure)


def learning_curves(histories: Mapping[str, Sequence[pl.DataFrame]], title: str) -> Figure:
    """Validation NDCG@10 over epochs: the median over seeds as a line, their range as a band.

    A model's line ends with the epoch that fewer than half of its seeds have reached.

    Args:
        histories: model -> one frame a seed, with columns epoch and valid_ndcg_at_10.
        title: printed above.
    """
    figure = Figure(figsize=(8, 4.5), dpi=100, layout="constrained")
    axes = figure.subplots()
    colours = mpl.colormaps["tab20"]
    for index, (model, seeds) in enumerate(histories.items()):
        measure = pl.col("valid_ndcg_at_10")
        over_seeds = (
            pl.concat([seed.select("epoch", measure) for seed in seeds])
            .group_by("epoch")
            .agg(
                measure.median().alias("median"),
                measure.min().alias("low"),
                measure.max().alias("high"),
                pl.len().alias("seeds"),
            )
            .filter(2 * pl.col("seeds") > len(seeds))
            .sort("epoch")
        )
        colour = colours((2 * index + index // 10) % 20)
        epochs = over_seeds["epoch"].to_numpy()
        median, label = over_seeds["median"].to_numpy(), literal(model)
        axes.plot(epochs, median, color=colour, label=label, linewidth=1.5)
        axes.fill_between(
            epochs,
            over_seeds["low"].to_numpy(),
            over_seeds["high"].to_numpy(),
            color=colour,
            alpha=0.2,
            linewidth=0,
        )
    axes.set(title=literal(title), xlabel="epoch", ylabel="validation NDCG@10")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", ncols=2)
    return figure


def accuracy_and_coverage(points: Mapping[str, tuple[float, float]], title: str) -> Figure:
    """One dot a model: how much of the catalogue it recommends, and how well.

    Args:
        points: model -> coverage at 10 and NDCG@10, both with the history removed.
        title: printed above.
    """
    figure = Figure(figsize=(7, 4.5), dpi=100, layout="constrained")
    axes = figure.subplots()
    labels = []
    for model, (coverage, gain) in sorted(points.items(), key=lambda point: point[1][::-1]):
        axes.plot(coverage, gain, "o", color="tab:blue")
        label = axes.annotate(
            literal(model),
            (coverage, gain),
            xytext=(6, 4),
            textcoords="offset points",
            fontsize=8,
            arrowprops={"arrowstyle": "-", "color": "tab:gray", "linewidth": 0.5},
        )
        labels.append(label)
    words = {"xlabel": "share of the catalogue in some top ten", "ylabel": "test NDCG@10"}
    axes.set(title=literal(title), **words)
    axes.margins(0.15)
    axes.grid(alpha=0.3)
    _spread(figure, labels)
    return figure


def _spread(figure: Figure, labels: Sequence[Annotation]) -> None:
    """Move labels up until none lies on another; they are given from the lowest to the highest."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    placed: list[Bbox] = []
    for label in labels:  # the text's own box: an Annotation's has the line too
        while any(Text.get_window_extent(label, renderer).overlaps(box) for box in placed):
            x, y = label.xyann
            label.xyann = (x, y + LABEL_STEP)
        placed.append(Text.get_window_extent(label, renderer))


NEAREST = 5  # positions that count as near, the row's own among them


@dataclass(frozen=True)
class Panel:
    """One matrix of weights over positions, or the reason why it is not there."""

    title: str
    weights: np.ndarray | None  # (n, n), entry (i, j): what position i takes of position j
    gap: str = ""


def position_correlation(positions: np.ndarray) -> np.ndarray:
    """exp(P·Pᵀ/√d), future positions zero, each row divided by its maximum (Appendix A, Figure 1).

    The appendix's own division lacks `keepdims`, which divides columns instead of rows.

    Args:
        positions: P, a trained position embedding, (n, d).

    Returns:
        (n, n), lower triangular, the largest entry of every row 1.
    """
    logits = positions @ positions.T / np.sqrt(positions.shape[1])
    past = np.tril(np.ones_like(logits, dtype=bool))
    # Taking the row's maximum from the exponents first is the same division, without overflow.
    top = np.where(past, logits, -np.inf).max(axis=1, keepdims=True)
    return np.where(past, np.exp(np.where(past, logits - top, 0)), 0)


def over_row_maximum(weights: np.ndarray) -> np.ndarray:
    """(n, n) → (n, n): each row divided by its maximum, as Figures 3 and 4 show attention."""
    return weights / weights.max(axis=1, keepdims=True)


def mean_distance(weights: np.ndarray) -> float:
    """How many positions back the last row looks, on average: small where attention is sharp."""
    row = weights[-1] / weights[-1].sum()
    return float(row @ np.arange(len(row) - 1, -1, -1))


def nearest_share(weights: np.ndarray, nearest: int = NEAREST) -> float:
    """The share of a row's weight on its `nearest` last positions: the mean over longer rows.

    Args:
        weights: (n, n), lower triangular, rows of any scale.
        nearest: how many positions are near, the row's own among them.

    Returns:
        1.0 where no row is longer.
    """
    near = np.triu(weights, 1 - nearest).sum(axis=1)  # of a lower triangle
    shares = (near / weights.sum(axis=1))[nearest:]
    return float(shares.mean()) if len(shares) else 1.0


def mean_entropy(weights: np.ndarray) -> float:
    """The mean over rows of the entropy in nats: small where attention is sharp.

    Args:
        weights: (n, n), lower triangular, rows of any scale.
    """
    shares = weights / weights.sum(axis=1, keepdims=True)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return float(-(shares * logs).sum(axis=1).mean())


def heatmaps(panels: Sequence[Sequence[Panel]], title: str) -> Figure:
    """Rows of panels over one colour scale from 0 to 1, in the paper's Blues.

    Args:
        panels: the rows; all of one length.
        title: printed above; its lines are broken where they are too long.
    """
    rows, columns = len(panels), len(panels[0])
    size = (max(3.4 * columns + 1, 6), 3.4 * rows + 1.3)
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    lines = [textwrap.fill(line, int(11 * size[0])) for line in title.splitlines()]
    figure.suptitle(literal("\n".join(lines)))
    grid = figure.subplots(rows, columns, squeeze=False)
    for line, panel_line in zip(grid, panels, strict=True):
        for axes, panel in zip(line, panel_line, strict=True):
            axes.set_title(literal(panel.title), fontsize="medium")
            if panel.weights is None:
                axes.set(xticks=[], yticks=[], box_aspect=1)
                words = textwrap.fill(panel.gap, 34, break_long_words=False)
                axes.text(0.5, 0.5, literal(words), ha="center", va="center", fontsize="small")
                continue
            n = len(panel.weights)
            edges = (0.5, n + 0.5, n + 0.5, 0.5)
            axes.imshow(panel.weights, cmap="Blues", vmin=0, vmax=1, extent=edges)
            step = max(1, n // 5)
            ticks = sorted({1, *range(step, n + 1, step)})
            axes.set(xticks=ticks, yticks=ticks)
            axes.set_xlabel("attended position j (1 = oldest)", fontsize="small")
            axes.set_ylabel("position i", fontsize="small")
    scale = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, 1), cmap="Blues")
    figure.colorbar(scale, ax=grid, shrink=0.8, label="weight / maximum of its row")
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG."""
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    return picture.getvalue()


def svg(figure: Figure) -> bytes:
    """The figure as an SVG, without date and with fixed ids."""
    picture = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "fparec", "svg.fonttype": "none"}):
        figure.savefig(picture, format="svg", metadata={"Date": None})
    return picture.getvalue()
