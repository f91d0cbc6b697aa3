"""Values of a file as a pydantic model, with an error that helps who wrote the file."""

import difflib
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from fparec_pipeline.config.names import ConfigError

M = TypeVar("M", bound=BaseModel)


def parse(model: type[M], values: Any, where: str) -> M:
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
    allowed = [field.alias or name for name, field in owner.model_fields.items()]
    close = difflib.get_close_matches(str(problem["loc"][-1]), allowed, n=1, cutoff=0.5)
    hint = f", did you mean {close[0]!r}?" if close else ""
    return f"unknown key {key!r}{hint} (allowed: {', '.join(allowed)})"


def _models_in(annotation: Any) -> Iterable[type[BaseModel]]:
    """The pydantic models that a field's annotation holds, such as Source in dict[str, Source]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models_in(argument)
