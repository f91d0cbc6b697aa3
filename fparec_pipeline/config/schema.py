"""What the TOML files may say: one frozen model an entry, which rejects unknown keys.

What belongs here: keys, their types, what fits together within one entry. What does not: how files
are found and merged (`loading`), and what an arm comes to on a dataset (`resolution`).
"""

import datetime
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from fparec_pipeline.config.catalogue import (
    LEARNED,
    LOSSES,
    MIXER_BLOCKS,
    MIXERS,
    NETWORKS,
    RANKED,
    checked,
)
from fparec_pipeline.config.sources import Source


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


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
        if not isinstance(values, dict):
            return values
        for part in ("test", "valid"):
            if {f"{part}_quantile", f"{part}_from"} <= values.keys():
                raise ValueError(f"{part}_quantile and {part}_from are one cut: remove one of them")
        if "test_quantile" in values:
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
    protocol: LeaveOneOut | Temporal = Field(default=LeaveOneOut(), discriminator="name")
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


class Hyperparameters(Frozen):
    """All that decides a trial's outcome beside its data and seed; see models.toml."""

    mixer: str | None = None  # of catalogue.MIXERS, or "module:Class"; none in other networks
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
    network: str = MIXER_BLOCKS  # of catalogue.NETWORKS, or "module:Class"
    loss: str = "cross_entropy"  # of catalogue.LOSSES, or "module:function"
    negatives: int = Field(1, ge=1)  # drawn for each target, or by sampled_softmax for a whole step
    attention_learning_rate: float | None = Field(None, gt=0)  # of R, R1, R2; None: learning_rate
    code: str | None = None  # `catalogue.code_of` parts of one's own; no file sets it

    @field_validator("mixer", "network", "loss")
    @classmethod
    def _part_exists(cls, value: str | None, field: ValidationInfo) -> str | None:
        parts = {"mixer": MIXERS, "network": NETWORKS, "loss": LOSSES}
        what = str(field.field_name)
        return None if value is None else checked(value, parts[what], what)

    @model_validator(mode="after")
    def _fit_together(self) -> "Hyperparameters":
        if self.network == MIXER_BLOCKS and self.mixer is None:
            raise ValueError("a mixer is missing")
        if self.network != MIXER_BLOCKS and self.mixer is not None:
            raise ValueError(f"network {self.network!r} has no mixer, but {self.mixer!r} is given")
        if self.mixer in RANKED and self.k > self.n:
            raise ValueError(f"k = {self.k} is larger than n = {self.n}")
        learned = self.mixer in LEARNED or ":" in (self.mixer or "")
        if self.attention_learning_rate is not None and not learned:
            raise ValueError(f"mixer {self.mixer!r} has no attention_learning_rate of its own")
        return self


class Study(Frozen):
    """A list of arms, datasets and seeds: one table or figure of the paper, or of ours."""

    title: str
    arms: tuple[str, ...] = Field(alias="models")  # the key in the file
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


class StudyEntry(Study):
    """A study as its file has it. With variants, its arms are models × variants."""

    variants: dict[str, Variant] = {}
    hyperparameters: dict[str, Any] = {}  # what all its variants change
    on: dict[str, dict[str, Any]] = {}  # dataset -> what all its variants change there
