"""Pictures as PNG bytes, drawn without any window system."""

import io

import polars as pl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


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
    figure = Figure(figsize=(7, 5), dpi=100, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot(epochs, measure, marker=".", color="tab:blue")
    above.plot(best["epoch"], best["valid_ndcg_at_10"], "o", color="tab:red")
    above.set(title=title, ylabel="validation NDCG@10")
    below.plot(epochs, history["loss"].to_numpy(), marker=".", color="tab:gray")
    below.set(xlabel="epoch", ylabel="training loss")
    words = f"best: epoch {best['epoch']}, {best['valid_ndcg_at_10']:.4f}"
    for axes in (above, below):
        axes.axvline(best["epoch"], color="tab:red", linestyle=":", label=words)
        axes.grid(alpha=0.3)
    above.legend(loc="lower right")
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    return picture.getvalue()
