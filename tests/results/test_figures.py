import io

import matplotlib.image
import numpy as np
import polars as pl
import pytest
from trial_folders import make_history

from fparec_pipeline.results.figures import learning_curve


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
