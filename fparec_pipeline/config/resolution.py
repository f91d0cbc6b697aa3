"""What an arm comes to on a dataset: the parsed files as one object that answers questions.

Notable:
* A trial's hyper-parameters are [defaults] < the dataset's < the arm's < the arm's on that dataset
  (`Config.trial`).
* Arms that come to the same hyper-parameters on a dataset are one computation: the trial carries
  the name of the first of them, so that an arm which two studies share is trained once.

Here belong questions that the parsed files answer. Reading them belongs to `loading.py`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from fparec_pipeline.config.catalogue import code_of
from fparec_pipeline.config.fingerprints import Trial
from fparec_pipeline.config.names import ConfigError, known
from fparec_pipeline.config.parsing import parse
from fparec_pipeline.config.schema import Dataset, Hyperparameters, Study

HERO = "fparec"  # what the paper proposes

# Untrained reference rows that stand beneath every table.
REFERENCES = {
    "popularity": "Popularity",
    "last_ten": "Last ten items",
    "transitions": "Transitions",
}


class Config(BaseModel):
    """Everything that the TOML files say. Made by `load_config`."""

    model_config = ConfigDict(frozen=True)

    datasets: dict[str, Dataset]
    arms: dict[str, dict[str, Any]]  # arm -> what it changes; `title` and `on` taken out
    changes_on: dict[str, dict[str, dict[str, Any]]]  # arm -> dataset -> what it changes there
    variants: dict[str, str]  # arm that is a study's variant -> that study
    titles: dict[str, str]  # arm or reference -> name as printed
    descriptions: dict[str, str]  # arm -> what it does, in one or two sentences; may lack any
    defaults: dict[str, Any]
    studies: dict[str, Study]
    # study -> dataset -> arm -> metric -> value, as printed in the paper
    paper: dict[str, dict[str, dict[str, dict[str, float]]]]
    # dataset -> n -> arm -> metric -> value: what the paper's text says of other windows
    paper_at_n: dict[str, dict[int, dict[str, dict[str, float]]]]
    paper_statistics: dict[str, dict[str, float]]  # Table 2: dataset -> statistic -> value
    figure_windows: dict[str, tuple[int, ...]]  # dataset -> the windows that the figures show

    @property
    def seeds(self) -> tuple[int, ...]:
        """Every seed that a study names, in order: the seeds of the benchmark."""
        return tuple(sorted({seed for study in self.studies.values() for seed in study.seeds}))

    def hyperparameters(self, dataset: str, arm: str) -> Hyperparameters:
        """The hyper-parameters of an arm on a dataset, with all defaults filled in.

        Raises:
            ConfigError: there is no such dataset or arm, or its values do not fit together.
        """
        known(dataset, self.datasets, "dataset")
        known(arm, self.arms, "model")
        where = f"models.toml [defaults] and {self._origin(arm)}"
        if self.datasets[dataset].hyperparameters:
            where += f" with datasets.toml [{dataset}.hyperparameters]"
        layers = self._layers(dataset, arm)
        if "code" in layers:
            raise ConfigError(f"{where}: `code` is worked out from the sources, never set.")
        h = parse(Hyperparameters, layers, where)
        try:
            code = code_of(name for name in (h.mixer, h.network, h.loss) if name)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
        return h.model_copy(update={"code": code}) if code else h

    def titles_on(self, dataset: str) -> dict[str, str]:
        """Arm or reference -> name as printed among all models of the dataset.

        An arm whose window is not the dataset's own has its n in the name: of two otherwise equal
        models it may be all that sets them apart. Names that are equal still are `told_apart`.

        Raises:
            ConfigError: there is no such dataset.
        """
        known(dataset, self.datasets, "dataset")
        usual = (self.defaults | self.datasets[dataset].hyperparameters)["n"]
        windows = {arm: self._layers(dataset, arm)["n"] for arm in self.arms}
        named = {a: f"{self.titles[a]} (n = {n})" for a, n in windows.items() if n != usual}
        return self.told_apart(self.titles | named)

    @staticmethod
    def told_apart(titles: Mapping[str, str]) -> dict[str, str]:
        """Titles by arm or reference; the arm's own name in brackets where they are equal.

        Examples:
            >>> Config.told_apart({"fparec": "FPARec", "mine": "Ours", "other": "Ours"})
            {'fparec': 'FPARec', 'mine': 'Ours (mine)', 'other': 'Ours (other)'}
        """
        counts = Counter(titles.values())
        return {a: f"{title} ({a})" if counts[title] > 1 else title for a, title in titles.items()}

    def trained_as(self, dataset: str, arm: str) -> str:
        """The name under which the arm is trained on the dataset; a reference's own.

        It is the first arm's, in the order of models.toml and then studies.toml, with the same
        hyper-parameters there: most often `arm` itself.
        """
        if arm in REFERENCES:
            return arm
        layers = self._layers(dataset, arm)
        return next(other for other in self.arms if self._layers(dataset, other) == layers)

    def trial(self, dataset: str, arm: str, seed: int) -> Trial:
        """The trial of an arm on a dataset with a seed.

        Arms with the same hyper-parameters on a dataset are one trial, named after the first.

        Raises:
            ConfigError: as `hyperparameters`.
        """
        hyperparameters = self.hyperparameters(dataset, arm)
        trained_as = self.trained_as(dataset, arm)
        return Trial(dataset=dataset, arm=trained_as, seed=seed, hyperparameters=hyperparameters)

    def trials(
        self, datasets: Iterable[str], arms: Iterable[str], seeds: Iterable[int]
    ) -> list[Trial]:
        """The trials of all combinations, dataset by dataset, seed by seed, each once."""
        product = (self.trial(d, a, s) for d in datasets for s in seeds for a in arms)
        return list(dict.fromkeys(product))

    def arms_on(self, dataset: str) -> list[str]:
        """The arms whose hyper-parameters fit together on the dataset.

        All arms of models.toml do; a study's variant has to on the study's datasets only.
        """
        fitting = []
        for arm in self.arms:
            try:
                self.hyperparameters(dataset, arm)
            except ConfigError:
                continue
            fitting.append(arm)
        return fitting

    def arm_with(self, dataset: str, arm: str, **changes: Any) -> str:
        """The arm that is `arm` with these hyper-parameters on the dataset.

        Raises:
            ConfigError: there is none.
        """
        wanted = self._layers(dataset, arm) | changes
        for other in self.arms:
            if self._layers(dataset, other) == wanted:
                return other
        words = ", ".join(f"{key} = {value}" for key, value in changes.items())
        raise ConfigError(
            f"No arm is {arm} with {words} on {dataset}; add one to data/models.toml."
        )

    def hero_of(self, study: Study, dataset: str) -> str | None:
        """The study's arm that its other arms are tested against on the dataset.

        The one that it names; else the arm that is plain FPARec there, by whatever name the study
        has it; None when it has none.
        """
        if study.hero or HERO not in self.arms:
            return study.hero
        hero = self._layers(dataset, HERO)
        return next((arm for arm in study.arms if self._layers(dataset, arm) == hero), None)

    def _layers(self, dataset: str, arm: str) -> dict[str, Any]:
        own = self.datasets[dataset].hyperparameters
        ons = self.changes_on.get(arm, {})
        there = ons.get(self.datasets[dataset].like or dataset, {}) | ons.get(dataset, {})
        return self.defaults | own | self.arms[arm] | there

    def _origin(self, arm: str) -> str:
        study = self.variants.get(arm)
        return f"[{arm}]" if study is None else f"studies.toml [{study}.variants] ({arm})"
