"""Figures 1, 3 and 4 from trials' weights, against naive loops over the paper's equations."""

import json
import math

import numpy as np
import pytest
from safetensors.numpy import save_file
from trial_folders import make_attempt, write_finished, write_splits

from fparec_pipeline.config import ConfigError, load_config
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.results.paper_figures import (
    FigureMissing,
    draw,
    is_drawable,
    learned_attention,
    read_weights,
    shows_the_paper,
    trials_of,
    write,
)
from fparec_pipeline.training.record import RECORD, WEIGHTS, TrialCorrupt, sha256

MODELS = "[defaults]\nn = 6\nd = 4\nk = 3\n"


@pytest.fixture
def data(tmp_path):
    (tmp_path / "models.toml").write_text(MODELS)
    return DataRoot(tmp_path)


def random_weights(arm, n, d=4, k=3):
    generator = np.random.default_rng(0)

    def matrix(*shape):
        return generator.normal(size=shape).astype(np.float32)

    weights = {"position_embedding": matrix(n, d)} if arm == "sasrec" else {}
    for block in range(2):
        prefix = f"blocks.{block}.mixer."
        weights[f"{prefix}value.weight"] = matrix(d, d)
        if arm == "parec":
            weights[f"{prefix}R"] = matrix(n, n)
        elif arm == "fparec":
            weights |= {f"{prefix}R1": matrix(n, k), f"{prefix}R2": matrix(n, k)}
    return weights


def finish(data, config, arm, dataset="beauty", weights=None):
    """A finished trial of seed 0 with these weights; none: as imported, without any."""
    write_splits(data, dataset)
    folder = write_finished(data, make_attempt(config, dataset, arm, 0))
    record = json.loads((folder / RECORD).read_text())
    if weights is None:
        (folder / WEIGHTS).unlink()
        del record["files"][WEIGHTS]
    else:
        save_file(weights, folder / WEIGHTS)
        record["files"][WEIGHTS] = sha256(folder / WEIGHTS)
    (folder / RECORD).write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize("arm", ["parec", "fparec"])
def test_the_learned_attention_is_equation_6_or_7_over_the_past(arm, data, config):
    weights = random_weights(arm, 6)
    finish(data, config, arm, weights=weights)
    trial = config.trial("beauty", arm, 0)
    found = learned_attention(trial, read_weights(trial, config, data))
    assert len(found) == 2
    for block, attention in enumerate(found):
        prefix = f"blocks.{block}.mixer."
        if arm == "parec":
            R = weights[f"{prefix}R"]
        else:
            R = weights[f"{prefix}R1"] @ weights[f"{prefix}R2"].T
        for i in range(6):
            row = [math.exp(R[i, j] / math.sqrt(4)) for j in range(i + 1)]
            expected = [value / sum(row) for value in row] + [0] * (5 - i)
            np.testing.assert_allclose(attention[i], expected, rtol=1e-5)


def test_on_ml_1m_the_figures_show_the_papers_windows(tmp_path):
    config = load_config(DataRoot(tmp_path))
    for name, models in (("figure_1", ["sasrec"]), ("figure_3", ["parec", "fparec"])):
        shown = [trial for _, trial in trials_of(name, "ml-1m", config)]
        assert [t.hyperparameters.n for t in shown] == [50, 200] * len(models)
        assert [t.arm for t in shown] == [m for arm in models for m in (f"{arm}_short", arm)]
        assert {t.seed for t in shown} == {0}


def test_elsewhere_they_show_the_datasets_own(config):
    ((_, trial),) = trials_of("figure_1", "beauty", config)
    assert (trial.arm, trial.hyperparameters.n) == ("sasrec", 6)


def test_another_mixer_of_the_papers_name_is_a_gap(data, config):
    with (data.root / "models.toml").open("a") as file:
        file.write('[fparec]\nmixer = "average"\n')
    config = load_config(data)
    finish(data, config, "parec", weights=random_weights("parec", 6))
    finish(data, config, "fparec", weights={})
    notes = draw("figure_3", "beauty", config, data).notes
    assert any("beauty/fparec/seed=0 has no positional attention." in note for note in notes)


def test_figures_are_drawn_and_written_as_png_and_svg(data, config):
    for arm in ("sasrec", "parec", "fparec"):
        finish(data, config, arm, weights=random_weights(arm, 6))
    for name in ("figure_1", "figure_3", "figure_4"):
        figure = draw(name, "beauty", config, data)
        paths = write(figure, data)
        stem = name if name == "figure_4" else f"{name}_beauty"
        assert [path.name for path in paths] == [f"{stem}.png", f"{stem}.svg"]
        assert paths[0].read_bytes() == figure.png
        assert b"Figure" in figure.svg
        assert not any("missing" in note for note in figure.notes)


def test_the_handcrafted_patterns_look_back_as_far_as_their_equations_say(data, config):
    notes = draw("figure_4", None, config, data).notes
    found = {note.split(":")[0]: float(note.split(" lies ")[1].split()[0]) for note in notes}
    for n in (50, 200):
        for title, weight in (
            ("Average", lambda j: 1.0),
            ("Linear Annealing", lambda j: j),
            ("Exponential Annealing", lambda j, n=n: math.exp(j - n)),
        ):
            weights = [weight(j) for j in range(1, n + 1)]
            mean = sum(w * (n - j) for j, w in enumerate(weights, start=1)) / sum(weights)
            assert found[f"{title}, n = {n}"] == pytest.approx(mean, abs=0.051)


def falling(n, rate):
    """exp(−rate × distance), the past only."""
    distance = np.subtract.outer(np.arange(n), np.arange(n))
    return np.where(distance >= 0, np.exp(-rate * np.abs(distance)), 0)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([falling(50, 0.1), falling(50, 1.0)], (True, True)),
        ([falling(50, 1.0), falling(50, 0.1)], (True, False)),
        ([falling(50, 0.1), falling(50, 0.1)], (True, False)),
        ([falling(50, 0.0), falling(50, 1.0)], (False, True)),
        ([falling(50, 0.0)], (False, None)),
        ([falling(50, -0.5)], (False, None)),  # the oldest weigh most
    ],
)
def test_whether_a_pattern_is_the_papers(layers, expected):
    assert shows_the_paper(layers) == expected


def test_under_the_figure_stands_whether_it_shows_what_the_paper_describes(data, config):
    weights = random_weights("parec", 6)
    for block in range(2):
        weights[f"blocks.{block}.mixer.R"] = np.zeros((6, 6), np.float32)
    finish(data, config, "parec", weights=weights)
    notes = draw("figure_3", "beauty", config, data).notes
    assert "PARec, n = 6, layer 2: the last row's weight lies 2.5 positions back" in notes[1]
    assert "have 83% of a row's weight (83% if all weighed alike)" in notes[1]  # the last: 5 of 6
    assert notes[2] == (
        "As the paper describes? PARec, n = 6: nearer positions weigh more: no, not clearly; "
        "the second layer is sharper: no, not clearly"
    )


def test_a_missing_trial_is_a_gap_that_names_the_command(data, config):
    finish(data, config, "fparec", weights=random_weights("fparec", 6))
    figure = draw("figure_3", "beauty", config, data)
    assert figure.notes[-1] == (
        "beauty/parec/seed=0 is missing: `fparec run --datasets beauty --models parec --seeds 0` "
        "trains it."
    )
    assert is_drawable("figure_3", "beauty", config, data)


def test_without_any_trial_there_is_no_figure(data, config):
    with pytest.raises(FigureMissing, match="`fparec run --datasets beauty --models sasrec"):
        draw("figure_1", "beauty", config, data)
    assert not is_drawable("figure_1", "beauty", config, data)


def test_a_trial_imported_without_weights_is_told_from_a_missing_one(data, config):
    finish(data, config, "sasrec")
    with pytest.raises(FigureMissing, match=r"without its weights: .* --retrain` trains it here"):
        draw("figure_1", "beauty", config, data)


def test_a_stale_trial_is_not_shown(data, config):
    finish(data, config, "sasrec", weights=random_weights("sasrec", 6))
    write_splits(data, "beauty", "another data hash")
    with pytest.raises(FigureMissing, match="is stale"):
        draw("figure_1", "beauty", config, data)


def test_a_model_without_position_embedding_is_a_gap_that_says_so(data):
    (data.root / "models.toml").write_text(MODELS + "[sasrec]\nposition_embedding = false\n")
    config = load_config(data)
    weights = random_weights("sasrec", 6)
    del weights["position_embedding"]
    finish(data, config, "sasrec", weights=weights)
    with pytest.raises(FigureMissing, match="beauty/sasrec/seed=0 has no position embedding"):
        draw("figure_1", "beauty", config, data)


def test_damaged_weights_are_an_error_and_no_figure(data, config):
    folder = finish(data, config, "sasrec", weights=random_weights("sasrec", 6))
    (folder / WEIGHTS).write_bytes(b"no weights")
    with pytest.raises(TrialCorrupt, match=WEIGHTS):
        draw("figure_1", "beauty", config, data)


def test_without_an_arm_of_the_papers_window_the_figure_says_what_to_add(data):
    (data.root / "studies.toml").write_text("[sequence_length.variants.short]\nn = 51\n")
    config = load_config(data)
    with pytest.raises(ConfigError, match="No arm is sasrec with n = 50 on ml-1m; add one"):
        draw("figure_1", "ml-1m", config, data)
    assert not is_drawable("figure_1", "ml-1m", config, data)


def test_a_dataset_has_to_be_named_where_trials_are_shown(data, config):
    with pytest.raises(ConfigError, match="--dataset"):
        draw("figure_1", None, config, data)
