"""Figures 1, 3 and 4 of the paper, from the weights of finished trials.

Notable:
* Figures 1 and 3 show seed 0 of each arm, at the windows that the paper shows (ml-1m: n = 50 and
  200) or, on any other dataset, at the dataset's own.
* A trial that is not there is a gap in the figure, which names the command that trains it. Where
  none is there, there is no figure but `FigureMissing`.
* The attention is the modules' own (`PositionalMixer.attention`), so that the figure shows what
  the model computes. torch is imported inside functions.

Here belong the paper's figures. Pictures of results belong to `plots.py`.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from fparec_pipeline.config import Config, ConfigError, Trial, TrialId
from fparec_pipeline.datasets.files import write_atomically
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.results.plots import (
    NEAREST,
    Panel,
    heatmaps,
    mean_distance,
    mean_entropy,
    nearest_share,
    over_row_maximum,
    png,
    position_correlation,
    svg,
)
from fparec_pipeline.results.trials import trial_status
from fparec_pipeline.training.record import WEIGHTS, read_record

FIGURES = {
    "figure_1": "Figure 1: correlation between SASRec's position embeddings, exp(P·Pᵀ/√d)",
    "figure_3": "Figure 3: learned positional attention",
    "figure_4": "Figure 4: handcrafted attention patterns",
}
ARMS = {"figure_1": ("sasrec",), "figure_3": ("parec", "fparec")}  # whose weights are shown
LEARNED = ("positional", "factorized_positional")  # the mixers of Figure 3
HANDCRAFTED = ("average", "linear_annealing", "exponential_annealing")
HANDCRAFTED_WINDOWS = (50, 200)
SEED = 0
CLEARLY = 1.25  # times the share of equal weights
SHARPER = 0.95  # times the first layer's entropy


class FigureMissing(RuntimeError):
    """No trial that the figure would show is there; the message names the commands."""


@dataclass(frozen=True)
class PaperFigure:
    """A drawn figure."""

    name: str  # "figure_3", or "figure_3_beauty" with its dataset
    title: str
    png: bytes
    svg: bytes
    notes: list[str]  # what was measured in it, and what is missing


def draw(name: str, dataset: str | None, config: Config, data: DataRoot) -> PaperFigure:
    """Draw one of FIGURES.

    Args:
        name: one of FIGURES.
        dataset: whose trials Figures 1 and 3 show; without meaning for Figure 4.
        config: says which arms have the paper's windows.
        data: where the trials are.

    Raises:
        FigureMissing: none of the trials is there.
        ConfigError: the configuration has no arm with such a window.
    """
    if name == "figure_4":
        return _drawn(name, FIGURES[name], _handcrafted(config), [], [])
    if dataset is None:
        raise ConfigError(f"{name} shows the trials of a dataset: name one with --dataset")
    trials = {
        f"{config.titles[model]}, n = {trial.hyperparameters.n}": trial
        for model, trial in trials_of(name, dataset, config)
    }
    columns = [_column(name, title, trial, config, data) for title, trial in trials.items()]
    gaps = [panels[0].gap for panels in columns if panels[0].weights is None]
    if len(gaps) == len(columns):
        number = FIGURES[name].partition(":")[0]
        raise FigureMissing(f"{number} has nothing to show of {dataset}. " + " ".join(gaps))
    height = max(len(panels) for panels in columns)
    rows = [[panels[min(i, len(panels) - 1)] for panels in columns] for i in range(height)]
    shown = config.datasets[dataset].title or dataset
    title = f"{FIGURES[name]}\n{shown}, seed {SEED}"
    verdicts = [
        _verdict(title, layers)
        for title, panels in zip(trials, columns, strict=True)
        if (layers := [panel.weights for panel in panels if panel.weights is not None])
    ]
    return _drawn(f"{name}_{dataset}", title, rows, verdicts, gaps)


def trials_of(name: str, dataset: str, config: Config) -> list[tuple[str, Trial]]:
    """Model and trial whose weights a figure shows, in the order of its columns.

    Raises:
        ConfigError: the configuration has no arm with such a window, or no such dataset.
    """
    own = [(model, config.trial(dataset, model, SEED)) for model in ARMS[name]]
    windows = config.figure_windows.get(dataset)
    if windows is None:
        return own
    return [
        (model, config.trial(dataset, config.arm_with(dataset, model, n=n), SEED))
        for model in ARMS[name]
        for n in windows
    ]


def trials_shown(config: Config) -> set[TrialId]:
    """The trials whose weights Figures 1 and 3 show of the datasets that the paper shows."""
    found = set()
    for dataset, name in product(config.figure_windows, ARMS):
        with suppress(ConfigError):  # of one's own: without such an arm, or without the dataset
            found |= {trial.id for _, trial in trials_of(name, dataset, config)}
    return found


def is_drawable(name: str, dataset: str, config: Config, data: DataRoot) -> bool:
    """Whether a trial that Figure 1 or 3 shows is configured, and there with its weights."""
    try:
        shown = trials_of(name, dataset, config)
    except ConfigError:
        return False
    for _, trial in shown:
        try:
            read_weights(trial, config, data)
        except FigureMissing:
            continue
        return True
    return False


def write(figure: PaperFigure, data: DataRoot) -> list[Path]:
    """Write `<name>.png` and `<name>.svg` below the results, and return their paths."""
    folder = data.results / "figures"
    paths = []
    for suffix, content in (("png", figure.png), ("svg", figure.svg)):
        paths.append(folder / f"{figure.name}.{suffix}")
        with write_atomically(paths[-1]) as part:
            part.write_bytes(content)
    return paths


def read_weights(trial: Trial, config: Config, data: DataRoot) -> dict[str, np.ndarray]:
    """The weights of a finished trial of today's configuration, by parameter name.

    Raises:
        FigureMissing: there is no such trial, or it came without weights; names the command.
        TrialCorrupt: a file of the trial is missing or changed.
    """
    folder, status = data.trial(*trial.id), trial_status(trial, config, data)
    if status != "done":
        raise FigureMissing(f"{trial.id} is {status}: `{trial.id.command}` trains it.")
    record = read_record(folder)
    if record is None or WEIGHTS not in record.files:
        raise FigureMissing(
            f"{trial.id} came without its weights: `{trial.id.command} --retrain` trains it here."
        )
    try:
        with safe_open(folder / WEIGHTS, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise FigureMissing(f"{folder / WEIGHTS} cannot be read ({error}).") from error


def learned_attention(trial: Trial, weights: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The attention of every block over a full window, (n, n) each, rows summing to 1."""
    import torch

    from fparec_pipeline.models.mixers import PositionalMixer, build_mixer

    found = []
    for block in range(trial.hyperparameters.blocks):
        mixer = build_mixer(trial.hyperparameters)
        assert isinstance(mixer, PositionalMixer)  # noqa: S101
        prefix = f"blocks.{block}.mixer."
        state = {n.removeprefix(prefix): v for n, v in weights.items() if n.startswith(prefix)}
        mixer.load_state_dict({n: torch.from_numpy(v) for n, v in state.items()})
        found.append(mixer.attention().numpy())
    return found


def _column(name: str, title: str, trial: Trial, config: Config, data: DataRoot) -> list[Panel]:
    """The panels of one trial, one a layer; a single gap where it is not there."""
    try:
        weights = read_weights(trial, config, data)
    except FigureMissing as error:
        return [Panel(title, None, str(error))]
    if name == "figure_1" and "position_embedding" not in weights:
        return [Panel(title, None, f"{trial.id} has no position embedding.")]
    if name == "figure_1":
        return [Panel(title, position_correlation(weights["position_embedding"]))]
    if trial.hyperparameters.mixer not in LEARNED:  # of these names there may be others' mixers
        return [Panel(title, None, f"{trial.id} has no positional attention.")]
    return [
        Panel(f"{title}, layer {layer}", over_row_maximum(attention))
        for layer, attention in enumerate(learned_attention(trial, weights), start=1)
    ]


def _handcrafted(config: Config) -> list[list[Panel]]:
    """Equations 12 to 15: a row a window, a column a pattern."""
    from fparec_pipeline.models.mixers import PositionalMixer, build_mixer

    dataset = next(iter(config.datasets))

    def panels(n: int) -> Iterator[Panel]:
        for model in HANDCRAFTED:
            h = config.hyperparameters(dataset, model).model_copy(update={"n": n})
            mixer = build_mixer(h)
            assert isinstance(mixer, PositionalMixer)  # noqa: S101
            weights = over_row_maximum(mixer.attention().numpy())
            yield Panel(f"{config.titles[model]}, n = {n}", weights)

    return [list(panels(n)) for n in HANDCRAFTED_WINDOWS]


def _drawn(
    name: str, title: str, rows: list[list[Panel]], verdicts: list[str], gaps: list[str]
) -> PaperFigure:
    figure = heatmaps(rows, title)
    measured = [
        _measured(panel.title, panel.weights)
        for row in rows
        for panel in row
        if panel.weights is not None
    ]
    return PaperFigure(name, title, png(figure), svg(figure), measured + verdicts + gaps)


def _measured(title: str, weights: np.ndarray) -> str:
    """What of a panel can be said in numbers, beside what equal weights would give."""
    equal = np.tril(np.ones_like(weights))
    return (
        f"{title}: the last row's weight lies {mean_distance(weights):.1f} positions back on "
        f"average; the nearest {NEAREST} positions have {nearest_share(weights):.0%} of a row's "
        f"weight ({nearest_share(equal):.0%} if all weighed alike); entropy "
        f"{mean_entropy(weights):.2f} nats ({mean_entropy(equal):.2f} if alike)"
    )


def shows_the_paper(layers: list[np.ndarray]) -> tuple[bool, bool | None]:
    """Whether a model's layers show what the paper sees in Figures 1 and 3.

    Returns:
        Whether nearer positions weigh more (in every layer the nearest have at least CLEARLY
        times the share that they would have if all weighed alike); and whether the second layer
        is sharper (an entropy lower by a twentieth), None where there is one layer only.
    """
    equal = np.tril(np.ones_like(layers[0]))
    near = all(nearest_share(w) >= CLEARLY * nearest_share(equal) for w in layers)
    if len(layers) < 2:
        return near, None
    return near, mean_entropy(layers[1]) <= mean_entropy(layers[0]) * SHARPER


def _verdict(title: str, layers: list[np.ndarray]) -> str:
    near, sharper = shows_the_paper(layers)
    words = "nearer positions weigh more: " + ("yes" if near else "no, not clearly")
    if sharper is not None:
        words += "; the second layer is sharper: " + ("yes" if sharper else "no, not clearly")
    return f"As the paper describes? {title}: {words}"
