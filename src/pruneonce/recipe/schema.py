"""The JSON schema of a recipe file (draft 2020-12), from the fields of the sections.

Every section has two definitions. `X` is the section as it runs. `X.changes` is the section as a file may change it
where values lie below: in a recipe with `extends`, in a base (a file without `name`), in a task with a `preset`, in a
task's own `transfer`. No key of it is required, and null takes a key out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic.json_schema import models_json_schema

from pruneonce.config.section import Section
from pruneonce.plugins import Options, plugins
from pruneonce.recipe.keys import VERBS, places
from pruneonce.recipe.presets import PRESETS
from pruneonce.recipe.quantization import Quantizations
from pruneonce.recipe.swept import SweptTeacher, SweptTransfer
from pruneonce.recipe.tasks import KINDS, Task
from pruneonce.recipe.whole import Recipe

Schema = dict[str, Any]

DEFS = "#/$defs/"
CHANGES = ".changes"
NULL: Schema = {"type": "null"}
DEFAULT_KIND = next(iter(KINDS))
# What a task says of these is laid over the recipe's.
OF_A_TASK: dict[str, type[Section]] = {
    "teacher": SweptTeacher,
    "transfer": SweptTransfer,
    "quantize": Quantizations,
}


def json_schema() -> Schema:
    """The schema of a recipe file, of its methods those that are installed."""
    sections = [place.section for place in places().values() if place.section not in VERBS.values()]
    refs, made = models_json_schema([(section, "validation") for section in sections])
    definitions: Schema = {}
    for section in sections:
        name = refs[section, "validation"]["$ref"].removeprefix(DEFS)
        whole = _tidied(made["$defs"][name], section)
        definitions[name] = whole
        definitions[name + CHANGES] = _changes(name, whole, section)
    definitions["Task"] = _task("")
    definitions["Task" + CHANGES] = _task(CHANGES)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "pruneonce recipe",
        "$defs": definitions,
        "type": "object",
        "if": {"required": ["name"], "not": {"required": ["extends"]}},
        "then": _ref(Recipe.__name__),
        "else": _ref(Recipe.__name__ + CHANGES),
    }


def _ref(name: str) -> Schema:
    return {"$ref": DEFS + name}


def _any_of(schemas: Iterable[Schema]) -> Schema:
    return {"anyOf": list(schemas)}


def _tidied(schema: Schema, section: type[Section]) -> Schema:
    """What pydantic makes of a section, with the short forms that recipes have and without titles of keys."""
    properties = {name: {**value} for name, value in schema["properties"].items()}
    for value in properties.values():
        value.pop("title", None)
    for name, replaced in _short_forms(section, "").items():
        properties[name] = {"description": properties[name].get("description", ""), **replaced}
    tidied = {**schema, "properties": properties}
    if issubclass(section, Options):
        tidied["required"] = ["name"]
    return tidied


def _changes(name: str, whole: Schema, section: type[Section]) -> Schema:
    properties: Schema = {}
    short = _short_forms(section, CHANGES)
    for key, value in whole["properties"].items():
        inner = [one["$ref"] for one in (value, *value.get("anyOf", [])) if "$ref" in one]
        if key in short:
            changed = short[key]
        elif inner:
            changed = {"$ref": inner[0] + CHANGES}
        else:
            changed = _ref(f"{name}/properties/{key}")
        properties[key] = {"description": value.get("description", ""), **_any_of([changed, NULL])}
    if section is Recipe:
        properties["extends"] = {
            "type": "string",
            "description": "Recipe that this one is laid over: a file beside it, or a shipped one.",
        }
    if issubclass(section, Task):
        properties["preset"] = {"enum": list(PRESETS), "description": "Known task that this one is laid over."}
    rest = {key: value for key, value in whole.items() if key != "required"}
    return {**rest, "properties": properties}


def _short_forms(section: type[Section], suffix: str) -> Schema:
    """Schemas of the keys that take more than their field does once it is read."""
    if section is Recipe:
        tasks = {"type": "object", "additionalProperties": _ref("Task" + suffix)}
        names = {"type": "array", "items": {"enum": list(PRESETS)}}
        return {"tasks": _any_of([tasks, names])}
    if issubclass(section, Task):
        return {key: _ref(changed.__name__ + CHANGES) for key, changed in OF_A_TASK.items()}
    if "method" in section.model_fields:
        stage = getattr(section, "stage", None)
        working = [plugin for plugin in plugins().values() if stage in plugin.stages]
        named = [{"enum": [plugin.name for plugin in working]}] if working else []
        return {"method": _any_of([*named, *(_ref(plugin.options.__name__ + suffix) for plugin in working), NULL])}
    return {}


def _task(suffix: str) -> Schema:
    """A task: the name of a known one, or a mapping whose `kind` or `preset` says what its keys are.

    In changes a task with neither may be of any kind, as the task below it says; else it is a classification.
    """
    kinds = {kind: _ref(section.__name__ + suffix) for kind, section in KINDS.items()}
    named = {"enum": list(PRESETS)}
    cases = [{"if": _says("kind", [kind]), "then": ref} for kind, ref in kinds.items()]
    neither = {"not": _any_of([{"required": ["kind"]}, {"required": ["preset"]}])}
    cases.append({"if": neither, "then": _any_of(kinds.values()) if suffix else kinds[DEFAULT_KIND]})
    for kind, section in KINDS.items():
        presets = [name for name, values in PRESETS.items() if values["kind"] == kind]
        known = {**_says("preset", presets), "not": {"required": ["kind"]}}
        cases.append({"if": known, "then": _ref(section.__name__ + CHANGES)})
    mapping: Schema = {
        "type": "object",
        "properties": {"kind": {"enum": list(KINDS)}, "preset": named},
        "allOf": cases,
    }
    if not suffix:  # over a preset, a task of another kind says no more than what it changes
        mapping = {"type": "object", "if": {"required": ["preset"]}, "then": _ref("Task" + CHANGES), "else": mapping}
    return {"if": {"type": "string"}, "then": named, "else": _any_of([mapping, NULL]) if suffix else mapping}


def _says(key: str, values: list[str]) -> Schema:
    return {"required": [key], "properties": {key: {"enum": values}}}
