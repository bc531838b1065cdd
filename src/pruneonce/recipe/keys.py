"""The keys of a recipe's sections: the values that each takes, its default, its meaning. Read off the fields."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml
from pydantic.fields import FieldInfo

from pruneonce.config.section import Section
from pruneonce.config.validation import models_in
from pruneonce.errors import UserError
from pruneonce.plugins import Options, plugins
from pruneonce.recipe.quantization import ProductQuantize
from pruneonce.recipe.sections import OneShot
from pruneonce.recipe.tasks import Task
from pruneonce.recipe.whole import Recipe

# Sections of verbs that a recipe has no stage for.
VERBS: dict[str, type[Section]] = {"one-shot": OneShot, "product-quantize": ProductQuantize}


@dataclass(frozen=True)
class Key:
    """A key of a section.

    Attributes:
        values: the values that it takes, in words.
        default: as YAML; "required" where there is none, "-" for null and where it depends on the machine.
    """

    name: str
    values: str
    default: str
    meaning: str


@dataclass(frozen=True)
class Place:
    """A section by the name that users know it by.

    Attributes:
        at: where it stands: dotted keys of a recipe, or a verb that takes its keys by `--set`.
    """

    name: str
    section: type[Section]
    at: tuple[str, ...]

    @property
    def shown_at(self) -> str:
        """The place in short: nothing where the name says it, of several places the key that they share."""
        if self.at == (self.name,):
            return ""
        if self.at[0].startswith("pruneonce "):
            return "--set"
        return self.at[0] if len(self.at) == 1 else f"*.{self.at[0].rpartition('.')[2]}"

    @property
    def summary(self) -> str:
        return inspect.cleandoc(self.section.__doc__ or "").split("\n\n")[0].replace("\n", " ")

    def all_keys(self) -> list[Key]:
        """Its own keys and those it shares with other sections."""
        names = dict.fromkeys(name for part in parts(self.section) for name in own_fields(part))
        if getattr(self.section, "stage", "") is None:
            names.pop("method", None)  # none works in this stage
        return keys_of(self.section, names)


@cache
def places() -> dict[str, Place]:
    """All sections by name, in the order in which a recipe has them."""
    at: dict[type[Section], list[str]] = {Recipe: ["top of the file"]}
    for path, section in _walk(Recipe):
        at.setdefault(section, []).append(path)
    for verb, section in VERBS.items():
        at[section] = [f"pruneonce {verb} --set"]
        for path, method in _walk(section):
            at.setdefault(method, []).append(f"pruneonce {verb} --set {path}")
    found = [Place(_name(section, paths), section, tuple(paths)) for section, paths in at.items()]
    named = {place.name: place for place in found}
    return {**{name: place for name, place in named.items() if not issubclass(place.section, Options)}, **named}


def find_place(name: str) -> Place:
    """
    Raises:
        UserError: no section has this name; the nearest one is named.
    """
    known = places()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1) or [one for one in known if one.endswith(f".{name}")]
    hint = f"did you mean {near[0]!r}?" if near else "see `pruneonce recipes keys`"
    raise UserError(f"no section of a recipe is named {name!r}; {hint}")


def parts(section: type[Section]) -> list[type[Section]]:
    """The section, and after it those that it shares keys with, as far as they have keys; the first default counts."""
    bases = (one for one in section.__mro__ if issubclass(one, Section) and one is not Options)
    return [one for one in bases if own_fields(one)]


def own_fields(section: type[Section]) -> dict[str, FieldInfo]:
    """The fields that a section declares itself, those with a new default included."""
    declared = inspect.get_annotations(section)
    return {name: field for name, field in section.model_fields.items() if name in declared}


def keys_of(section: type[Section], names: Iterable[str]) -> list[Key]:
    """Some keys of a section, with the defaults that they have there."""
    schema = section.model_json_schema()["properties"]
    chosen = ((name, section.model_fields[name]) for name in names)
    return [Key(name, values_of(schema[name]), default_of(field), field.description or "") for name, field in chosen]


def default_of(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default_factory is not None:
        return "-"
    if isinstance(field.default, Section):
        return "{}"
    text = yaml.safe_dump(field.default, default_flow_style=True).removesuffix("...\n").strip()
    return "-" if text == "null" else text


NOUNS = {
    "integer": "integer",
    "number": "number",
    "string": "text",
    "boolean": "`true` or `false`",
    "object": "mapping",
}


def values_of(schema: Mapping[str, Any], plural: str = "") -> str:
    """The JSON schema of a key in words, such as "number in [0, 1)"."""
    choices = [one for one in schema.get("anyOf", []) if one.get("type") != "null"]
    if choices:
        return values_of(choices[0])
    if "oneOf" in schema:
        return "name or mapping"
    if isinstance(inside := schema.get("additionalProperties"), dict) and "oneOf" in inside:
        return "mapping or list of names"
    if "enum" in schema or "const" in schema:
        names = [f"`{name}`" for name in schema.get("enum", [schema.get("const")])]
        return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    if schema.get("type") == "array":
        return f"list of {values_of(schema['items'], plural='s')}"
    noun = NOUNS[schema.get("type", "object")] + plural
    return " ".join(filter(None, [noun, _bounds(schema)]))


def _bounds(schema: Mapping[str, Any]) -> str:
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    least, most = (low if above is None else above), (high if below is None else below)
    if least is not None and most is not None:
        return f"in {'[' if above is None else '('}{least:g}, {most:g}{']' if below is None else ')'}"
    if least is not None:
        return f"{'≥' if above is None else '>'} {least:g}"
    return "" if most is None else f"{'≤' if below is None else '<'} {most:g}"


def _walk(section: type[Section], at: tuple[str, ...] = ()) -> Iterator[tuple[str, type[Section]]]:
    """The sections inside of one, with the dotted keys where they stand."""
    for name, field in section.model_fields.items():
        for inner in models_in(field.annotation):
            if not issubclass(inner, Section) or (issubclass(inner, Options) and not _works_in(inner, section)):
                continue
            path = (*at, name, *(["NAME"] if issubclass(inner, Task) else []))
            yield ".".join(path), inner
            yield from _walk(inner, path)


def _works_in(options: type[Options], section: type[Section]) -> bool:
    return getattr(section, "stage", None) in plugins()[options.model_fields["name"].default].stages


def _name(section: type[Section], at: list[str]) -> str:
    """A kind of task and a method have names of their own, a verb's section has the verb's, others their keys."""
    for pinned in ("kind", "name"):
        if isinstance(own := getattr(section.model_fields.get(pinned), "default", None), str):
            return own
    if section is Recipe:
        return "recipe"
    verb = next((verb for verb, one in VERBS.items() if one is section), None)
    return verb or (at[0] if len(at) == 1 else at[0].rpartition(".")[2])
