"""TOML files to one `Config`: read, laid over one another, parsed, checked.

Notable:
* The packaged files stand beside this module. A file of the same name in the data root is laid over
  the packaged one, key by key: the user's own datasets, an override such as `source = "raw"`, arms
  and studies of one's own.
* An error names the file, the key, what is allowed and the nearest match.

Here belong files and their errors. What a key may hold belongs to `schema.py`, what it comes to for
a trial to `resolution.py`.
"""

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from fparec_pipeline.config.names import DATASET_NAME, ConfigError, is_name, known
from fparec_pipeline.config.parsing import parse
from fparec_pipeline.config.resolution import REFERENCES, Config
from fparec_pipeline.config.schema import Dataset, Study, StudyEntry
from fparec_pipeline.paths import DataRoot

FILES = Path(__file__).parent  # the packaged TOML files

M = TypeVar("M", bound=BaseModel)


def load_config(data: DataRoot | None = None) -> Config:
    """Read the configuration: the packaged TOML files, and the data root's own over them.

    Args:
        data: the data root; None: `DataRoot.default()`.

    Raises:
        ConfigError: a file is not TOML, a key is unknown, or a value has the wrong type.

    Examples:
        >>> config = load_config()
        >>> config.datasets["beauty"].core
        5
        >>> config.trial("beauty", "fparec", seed=0).hyperparameters.k
        20
    """
    root = (data or DataRoot.default()).root
    arms = _layered("models.toml", root)
    _check_names(arms, _where("models.toml", root))
    defaults = arms.pop("defaults")
    tables = {name: arm for name, arm in arms.items() if isinstance(arm, dict)}
    paper = _read_toml(FILES / "paper.toml")
    content = {
        "datasets": _entries(Dataset, "datasets.toml", root),
        "descriptions": {
            name: words for name, arm in tables.items() if (words := arm.pop("description", ""))
        },
        "titles": {name: arm.pop("title", name) for name, arm in tables.items()} | REFERENCES,
        "changes_on": {name: arm.pop("on", {}) for name, arm in tables.items()},
        "arms": arms,
        "variants": {},
        "defaults": defaults,
        "studies": {},
        "paper_at_n": paper.pop("at_n"),
        "paper_statistics": paper.pop("table_2"),
        "figure_windows": paper.pop("figures"),
        "paper": paper,
    }
    config = parse(Config, content, _where("models.toml", root))
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
    arms, changes_on, titles = dict(config.arms), dict(config.changes_on), dict(config.titles)
    variants, studies = {}, {}
    for study, entry in entries.items():
        names = []
        if study in config.arms:
            raise ConfigError(f"{where} [{study}]: an arm has that name already.")
        _check_names(entry.variants, f"{where} [{study}.variants]")
        if (entry.hyperparameters or entry.on) and not entry.variants:
            raise ConfigError(
                f"{where} [{study}]: `hyperparameters` and `on` are for the study's variants, "
                "and it has none. Add one, such as `variants.mine = {}`, or remove them."
            )
        for variant_name, variant in entry.variants.items():
            for base in entry.arms:
                try:
                    known(base, config.arms, "model")
                except ConfigError as error:
                    raise ConfigError(f"{where} [{study}]: {error}") from error
                arm = f"{base}_{variant_name}"
                if arm in arms:
                    raise ConfigError(f"{where} [{study}]: there is another arm {arm!r}.")
                changes = entry.hyperparameters | variant.changes
                arms[arm] = arms[base] | changes
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
        own = entry.model_dump(include=set(Study.model_fields), by_alias=True)
        studies[study] = Study.model_validate(own | {"models": tuple(names) or entry.arms})
    return config.model_copy(
        update={
            "arms": arms,
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
            for arm in study.arms:
                known(arm, config.arms, "model")
            for dataset in study.datasets:
                known(dataset, config.datasets, "dataset")
            tested = [arm for pair in study.pairs for arm in pair]
            for arm in tested if study.hero is None else [study.hero, *tested]:
                known(arm, study.arms, "model of the study")
        except ConfigError as error:
            raise ConfigError(f"{where} [{name}]: {error}") from error
    for arm, changes in config.changes_on.items():
        try:
            for dataset in changes:
                known(dataset, config.datasets, "dataset")
        except ConfigError as error:
            raise ConfigError(f"{where}, or models.toml, [{arm}] `on`: {error}") from error
    if taken := [name for name in REFERENCES if name in config.arms]:
        raise ConfigError(f"models.toml [{taken[0]}]: an untrained row has that name already.")
    config.trials(config.datasets, config.arms.keys() - config.variants.keys(), [0])
    for study in config.studies.values():
        config.trials(study.datasets, study.arms, [0])


def _where(file: str, root: Path) -> str:
    """The files that an entry may stand in, as an error names them."""
    own = f"{root / file} or " if (root / file).exists() else ""
    return f"{own}{FILES / file}"


def _entries(model: type[M], file: str, root: Path) -> dict[str, M]:
    where, entries = _where(file, root), _layered(file, root)
    _check_names(entries, where, also=DATASET_NAME if model is Dataset else "")
    if model is Dataset:
        entries = _with_likes(entries, where)
    return {name: parse(model, entry, f"{where} [{name}]") for name, entry in entries.items()}


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
        if not isinstance(base, dict):
            raise ConfigError(f"{where} [{name}]: {entry['like']!r} is no dataset's table.")
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
        if not is_name(name, also):
            allowed = ", ".join(["ASCII letters, digits, _", *also])
            raise ConfigError(f"{where} [{name}]: a name is made of {allowed}.")


def _layered(file: str, root: Path) -> dict[str, Any]:
    own = root / file
    return _overlay(_read_toml(FILES / file), _read_toml(own) if own.exists() else {})


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(
            path.read_text(encoding="utf-8-sig")
        )  # Notepad puts a mark of byte order first
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def _overlay(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """`top` laid over `base`, tables merged key by key.

    A protocol that says its name is whole: the cuts of another are none of its own.
    """
    merged = dict(base)
    for key, value in top.items():
        nested = isinstance(value, dict) and isinstance(base.get(key), dict)
        nested = nested and not (key == "protocol" and "name" in value)
        merged[key] = _overlay(base[key], value) if nested else value
    return merged
