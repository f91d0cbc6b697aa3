import io

import matplotlib.image
import numpy as np
import polars as pl
import pytest
from trial_folders import make_history

from fparec_pipeline.results.figures import learning_curve


def pixels(picture):
    return matplotlib.image.imread(io.BytesIO(picture), format="png")


def red(picture):
    """How many pixels have the colour of the best epoch's mark (tab:red, #d62728)."""
    return (np.abs(pixels(picture)[..., :3] * 255 - (214, 39, 40)) < 2).all(axis=-1).sum()


def test_the_learning_curve_is_a_png_with_the_best_epoch_marked():
    picture = learning_curve(pl.DataFrame(make_history(20)), "beauty/fparec/seed=0")
    assert pixels(picture).shape[:2] == (500, 700)
    assert red(picture) > 50


def test_one_epoch_is_enough_and_equal_input_gives_equal_bytes():
    history = pl.DataFrame(make_history(1))
    assert learning_curve(history, "t") == learning_curve(history, "t")


def test_no_epoch_is_an_error_that_names_the_trial():
    with pytest.raises(ValueError, match="beauty/fparec"):
        learning_curve(pl.DataFrame(make_history(2)).clear(), "beauty/fparec")
