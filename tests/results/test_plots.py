import io
import itertools

import matplotlib.image
import numpy as np
import polars as pl
import pytest
from matplotlib.text import Text
from scipy import stats
from trial_folders import make_history

from fparec_pipeline.results.plots import (
    Panel,
    accuracy_and_coverage,
    heatmaps,
    learning_curve,
    learning_curves,
    mean_distance,
    mean_entropy,
    nearest_share,
    over_row_maximum,
    png,
    position_correlation,
    svg,
)


def pixels(picture):
    return matplotlib.image.imread(io.BytesIO(picture), format="png")


def red_columns(picture):
    """Where the pixels have the colour of the best epoch's mark (tab:red, #d62728)."""
    red = (np.abs(pixels(picture)[..., :3] * 255 - (214, 39, 40)) < 2).all(axis=-1)
    return np.flatnonzero(red[:200].any(axis=0))  # the legend stands below these rows


def test_the_learning_curve_is_a_png_with_the_best_epoch_marked():
    history = pl.DataFrame(make_history(20))
    peak_at_5 = history.with_columns(valid_ndcg_at_10=0.04 - (pl.col("epoch") - 5).abs() / 1000)
    late, early = learning_curve(history, "title"), learning_curve(peak_at_5, "title")
    assert pixels(late).shape[:2] == (500, 700)
    assert np.median(red_columns(early)) < 350 < np.median(red_columns(late))


def test_one_epoch_is_enough_and_equal_input_gives_equal_bytes():
    history = pl.DataFrame(make_history(1))
    assert learning_curve(history, "t") == learning_curve(history, "t")


def test_no_epoch_is_an_error_that_names_the_trial():
    with pytest.raises(ValueError, match="beauty/fparec"):
        learning_curve(pl.DataFrame(make_history(2)).clear(), "beauty/fparec")


# Matrices of weights


def test_the_correlation_of_positions_is_the_appendixs_with_keepdims():
    P = np.random.default_rng(0).normal(size=(6, 4))
    found = position_correlation(P)
    for i in range(6):
        row = [np.exp(sum(P[i] * P[j]) / 4**0.5) if j <= i else 0.0 for j in range(6)]
        np.testing.assert_allclose(found[i], np.array(row) / max(row))


def test_a_large_embedding_gives_no_infinities():
    found = position_correlation(np.full((3, 4), 1e3))
    np.testing.assert_array_equal(found, np.tril(np.ones((3, 3))))


def test_each_row_is_divided_by_its_own_maximum():
    weights = np.array([[1.0, 0.0], [0.2, 0.8]])
    np.testing.assert_allclose(over_row_maximum(weights), [[1, 0], [0.25, 1]])


def test_the_mean_distance_of_a_row_by_hand():
    assert mean_distance(np.array([[1.0, 0, 0], [1, 1, 0], [1, 1, 2]])) == (2 * 1 + 1 * 1) / 4


def random_triangle(n):
    return np.tril(np.random.default_rng(1).random((n, n)))


def test_the_share_of_the_nearest_positions_is_a_naive_loops():
    weights = random_triangle(9)
    shares = []
    for i in range(3, 9):  # the rows of more than three positions
        near = sum(weights[i][j] for j in range(9) if i - 3 < j <= i)
        shares.append(near / sum(weights[i]))
    assert nearest_share(weights, 3) == pytest.approx(sum(shares) / len(shares))


def test_in_a_narrow_window_every_position_is_near():
    assert nearest_share(random_triangle(4), 4) == 1


def test_the_entropy_is_scipys_and_takes_rows_of_any_scale():
    weights = random_triangle(7)
    rows = [stats.entropy(row[: i + 1]) for i, row in enumerate(weights)]
    assert mean_entropy(weights) == pytest.approx(np.mean(rows))
    assert mean_entropy(weights * 7) == pytest.approx(np.mean(rows))
    assert mean_entropy(np.eye(3)) == 0


def test_heatmaps_are_dark_where_the_weight_is_and_say_what_is_missing():
    weights = np.tril(np.ones((10, 10)))
    figure = heatmaps([[Panel("full", weights), Panel("absent", None, "not trained")]], "title")
    axes = figure.axes
    assert [a.get_title() for a in axes[:2]] == ["full", "absent"]
    assert axes[0].get_xlabel() == "attended position j (1 = oldest)"
    assert axes[0].get_ylabel() == "position i"
    assert axes[0].images[0].get_cmap().name == "Blues"
    assert axes[1].texts[0].get_text() == "not trained"
    assert axes[2].get_ylabel() == "weight / maximum of its row"  # the colour scale
    assert pixels(png(figure)).ndim == 3


def test_equal_figures_give_equal_svg_and_png():
    def drawn():
        return heatmaps([[Panel("p", np.tril(np.ones((4, 4))))]], "t")

    assert svg(drawn()) == svg(drawn())
    assert png(drawn()) == png(drawn())
    assert svg(drawn()).lstrip().startswith(b"<?xml")


def test_the_names_of_models_that_are_alike_do_not_lie_on_each_other():
    points = {f"model {place}": (0.02, 0.001 * (place % 2)) for place in range(6)}
    figure = accuracy_and_coverage(points, "alike")
    (axes,) = figure.axes
    assert {text.get_text() for text in axes.texts} == points.keys()
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    boxes = [Text.get_window_extent(text, renderer) for text in axes.texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert svg(figure) == svg(accuracy_and_coverage(points, "alike"))


def test_dollars_and_underscores_of_names_are_shown_as_they_are():
    name, title = "_mine_ $x_{$", "costs $a_{ to $b"
    history = pl.DataFrame({"epoch": [1, 2], "loss": [2.0, 1.0], "valid_ndcg_at_10": [0.1, 0.2]})
    curves = svg(learning_curves({name: [history]}, title)).decode()
    dots = svg(accuracy_and_coverage({name: (0.1, 0.2)}, title)).decode()
    gap = svg(heatmaps([[Panel(name, None, "no $b_{ and $c")]], title)).decode()
    for shown in (curves, dots, gap):
        assert name in shown and title in shown
    assert "no $b_{ and $c" in gap
    assert learning_curve(history, title)[:4] == b"\x89PNG"
