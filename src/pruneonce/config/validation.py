"""Validation of a recipe by pydantic, with errors in one line: the key and, if unknown, the nearest known key."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from pruneonce.errors import UserError

KIND = "kind="  # prefix of a union's tag, which pydantic puts between a task or a method and its keys
SHOWN, LONGEST = 10, 200  # mistakes in a line, and characters of a value


def validate(section: type[Any], values: dict[str, Any], at: str = "") -> Any:
    """Make a `section` of `values`; `at` is the dotted place of the section.

    Raises:
        UserError: values are invalid; the message lists the mistakes.
    """
    try:
        return section.model_validate(values)
    except ValidationError as error:
        mistakes = "; ".join(_explain(section, item, at) for item in error.errors()[:SHOWN])
        raise UserError(mistakes) from None


def _explain(section: type[BaseModel], item: Any, at: str) -> str:
    keys = [str(part) for part in item["loc"] if not str(part).startswith(KIND)]
    where = ".".join(filter(None, [at, *keys])) or "recipe"
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(item["loc"][-1]), _keys_beside(section, item["loc"]), n=1, cutoff=0.5)
        return f"unknown key `{where}`" + (f"; did you mean `{near[0]}`?" if near else "")
    if item["type"] == "missing":
        return f"`{where}` is missing"
    value = item.get("input")
    shown = f" (given: {repr(value)[:LONGEST]})" if isinstance(value, (str, int, float, bool)) else ""
    return f"`{where}`: {item['msg'].removeprefix('Value error, ')}{shown}"


def _keys_beside(section: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The known keys at the place of the last part of `loc`."""
    inside = [section]
    for part in map(str, loc[:-1]):
        if part.startswith(KIND):
            inside = [one for one in inside if part.removeprefix(KIND) in (f.default for f in _discriminators(one))]
        elif field := inside[0].model_fields.get(part):
            inside = list(models_in(field.annotation)) or inside
        # otherwise a name in a mapping, such as a task's, whose section came with the field
    return list(inside[0].model_fields)


def _discriminators(section: type[BaseModel]) -> list[Any]:
    return [section.model_fields[key] for key in ("kind", "name") if key in section.model_fields]


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections that a field's annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from models_in(argument)
