"""Keys of a recipe's sections: values, default and meaning of each, read off the fields."""

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
    """Key of a section.

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
    """Section by the name that users know it by.

    Attributes:
        at: its places: dotted keys of a recipe, or a verb that takes its keys by `--set`.
    """

    name: str
    section: type[Section]
    at: tuple[str, ...]

    @property
    def shown_at(self) -> str:
        """Return the place in short: empty where the name tells it; of several places, the key that they share."""
        if self.at == (self.name,):
            return ""
        if self.at[0].startswith("pruneonce "):
            return "--set"
        return self.at[0] if len(self.at) == 1 else f"*.{self.at[0].rpartition('.')[2]}"

    @property
    def summary(self) -> str:
        """Return the first paragraph about the section."""
        return inspect.cleandoc(self.section.__doc__ or "").split("\n\n")[0].replace("\n", " ")

    def all_keys(self) -> list[Key]:
        """Return the section's own keys and those it shares with other sections."""
        names = dict.fromkeys(name for part in parts(self.section) for name in own_fields(part))
        if getattr(self.section, "stage", "") is None:
            names.pop("method", None)  # no method works in this stage
        return keys_of(self.section, names)


@cache
def places() -> dict[str, Place]:
    """Return all sections by name, in the order in which a recipe has them."""
    at: dict[type[Section], list[str]] = {Recipe: ["top of the file"]}
    for path, section in _walk(Recipe):
        at.setdefault(section, []).append(path)
    for verb, section in VERBS.items():
        at[section] = [f"pruneonce {verb} --set"]
        for path, method in _walk(section):
            at.setdefault(method, []).append(f"pruneonce {verb} --set {path}")
    sections = [Place(_name(section, paths), section, tuple(paths)) for section, paths in at.items()]
    by_name = {place.name: place for place in sections}
    return {**{name: place for name, place in by_name.items() if not issubclass(place.section, Options)}, **by_name}


def find_place(name: str) -> Place:
    """Return the section of this name.

    Raises:
        UserError: no section has this name; the nearest one is named.
    """
    by_name = places()
    if name in by_name:
        return by_name[name]
    near = difflib.get_close_matches(name, by_name, n=1) or [known for known in by_name if known.endswith(f".{name}")]
    hint = f"did you mean {near[0]!r}?" if near else "see `pruneonce recipes keys`"
    raise UserError(f"no section of a recipe is named {name!r}; {hint}")


def parts(section: type[Section]) -> list[type[Section]]:
    """Return the section, and after it those that it shares keys with; of two defaults of a key, the first counts."""
    bases = (base for base in section.__mro__ if issubclass(base, Section) and base is not Options)
    return [base for base in bases if own_fields(base)]


def own_fields(section: type[Section]) -> dict[str, FieldInfo]:
    """Return the fields that a section declares itself, those with a new default included."""
    declared = inspect.get_annotations(section)
    return {name: field for name, field in section.model_fields.items() if name in declared}


def keys_of(section: type[Section], names: Iterable[str]) -> list[Key]:
    """Return some keys of a section, with the section's defaults."""
    schema = section.model_json_schema()["properties"]
    chosen = ((name, section.model_fields[name]) for name in names)
    return [Key(name, values_of(schema[name]), default_of(field), field.description or "") for name, field in chosen]


def default_of(field: FieldInfo) -> str:
    """Return a field's default as YAML; "required" where there is none, "-" for null."""
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
    """Return the JSON schema of a key in words, such as "number in [0, 1)"."""
    choices = [choice for choice in schema.get("anyOf", []) if choice.get("type") != "null"]
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
    """Yield the sections inside a section, with their dotted keys."""
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
    """Return the name of a section: its kind of task, its method, its verb, or its key."""
    for pinned in ("kind", "name"):
        if isinstance(pinned_name := getattr(section.model_fields.get(pinned), "default", None), str):
            return pinned_name
    if section is Recipe:
        return "recipe"
    verb = next((verb for verb, one in VERBS.items() if one is section), None)
    return verb or (at[0] if len(at) == 1 else at[0].rpartition(".")[2])
