"""Values of a file as a pydantic model, with an error that helps who wrote the file.

Here belong the words of such an error. Which fields there are belongs to `schema.py` and
`sources.py`.
"""

import difflib
from collections.abc import Iterable
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from fparec_pipeline.config.names import ConfigError
from fparec_pipeline.config.sources import SOURCE_KINDS

M = TypeVar("M", bound=BaseModel)


def parse(model: type[M], values: Any, where: str) -> M:
    """`values` as a `model`, or a ConfigError that names the file, the key and what is allowed."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = error.errors()
        lines = [_explain(model, problem) for problem in problems if problem["type"] != "missing"]
        raise ConfigError(f"{where}: " + "; ".join([*_missing(problems), *lines])) from error


def _missing(problems: Iterable[Any]) -> list[str]:
    """For each table that lacks keys, which."""
    lacking: dict[tuple[Any, ...], list[str]] = {}
    for problem in problems:
        if problem["type"] == "missing":
            *table, key = problem["loc"]
            lacking.setdefault(tuple(table), []).append(str(key))
    return [f"{_table(table)}also needs: {', '.join(keys)}" for table, keys in lacking.items()]


def _table(place: tuple[Any, ...]) -> str:
    reader = f" (reader {place[2]!r})" if _is_of_source(place) else ""
    return f"{'.'.join(_path(place))}{reader} " if place else ""


def _is_of_source(place: tuple[Any, ...]) -> bool:
    """Whether the place is within a source: then pydantic puts its reader in third place."""
    return len(place) > 2 and place[0] == "sources" and place[2] in SOURCE_KINDS


def _path(place: tuple[Any, ...]) -> list[str]:
    """Where a problem stands, as the file has it."""
    parts = [str(part) for part in place]
    return parts[:2] + parts[3:] if _is_of_source(place) else parts


def _explain(model: type[BaseModel], problem: Any) -> str:
    place = problem["loc"]
    key = ".".join(_path(place))
    if problem["type"].startswith("union_tag_"):
        context = problem["ctx"]
        kinds = SOURCE_KINDS if place[0] == "sources" else _tags(model, place, context)
        expected = context.get("expected_tags", ", ".join(map(repr, kinds)))
        given = f" (given: {context['tag']!r})" if "tag" in context else ""
        return f"{key}.{context['discriminator'].strip(chr(39))}: one of {expected}{given}"
    if problem["type"] != "extra_forbidden":
        given = f" (given: {problem['input']!r})" if key else ""
        return f"{key + ': ' if key else ''}{problem['msg']}{given}"
    owner = SOURCE_KINDS[place[2]] if _is_of_source(place) else _owner(model, place)
    allowed = [field.alias or name for name, field in owner.model_fields.items()]
    close = difflib.get_close_matches(str(place[-1]), allowed, n=1, cutoff=0.5)
    hint = f", did you mean {close[0]!r}?" if close else ""
    return f"unknown key {key!r}{hint} (allowed: {', '.join(allowed)})"


def _tags(model: type[BaseModel], place: tuple[Any, ...], context: Any) -> list[str]:
    """What the discriminator of a field of several kinds may be."""
    name = context["discriminator"].strip("'")
    kinds = get_args(model.model_fields[place[0]].annotation)
    return [kind.model_fields[name].default for kind in kinds]


def _owner(model: type[BaseModel], place: tuple[Any, ...]) -> type[BaseModel]:
    """The model that an unknown key was given to."""
    owner = model
    members: list[type[BaseModel]] = []
    for part in place[:-1]:
        if field := owner.model_fields.get(part):
            members = list(_models_in(field.annotation))
        tagged = (m for m in members if any(f.default == part for f in m.model_fields.values()))
        owner = next(tagged, next(iter(members), owner))
    return owner


def _models_in(annotation: Any) -> Iterable[type[BaseModel]]:
    """The pydantic models that a field's annotation holds, such as Source in dict[str, Source]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models_in(argument)
