"""JSON schema of a recipe file (draft 2020-12), from the fields of the sections.

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
# A task's values of these keys are laid over the recipe's.
OF_A_TASK: dict[str, type[Section]] = {
    "teacher": SweptTeacher,
    "transfer": SweptTransfer,
    "quantize": Quantizations,
}


def json_schema() -> Schema:
    """Return the schema of a recipe file, with the installed methods."""
    sections = [place.section for place in places().values() if place.section not in VERBS.values()]
    refs, generated = models_json_schema([(section, "validation") for section in sections])
    definitions: Schema = {}
    for section in sections:
        name = refs[section, "validation"]["$ref"].removeprefix(DEFS)
        whole = _tidied(generated["$defs"][name], section)
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
    """Return pydantic's schema of a section, with the short forms that recipes have and without titles of keys."""
    properties = {name: {**value} for name, value in schema["properties"].items()}
    for value in properties.values():
        value.pop("title", None)
    for name, replaced in _short_forms(section, "").items():
        properties[name] = {"description": properties[name].get("description", ""), **replaced}
    tidied = {**schema, "properties": properties}
    if issubclass(section, Options):
        tidied["required"] = ["name"]
    if section is Recipe:
        tidied["anyOf"] = [
            {"required": names, "properties": {name: {"not": NULL} for name in names}}
            for names in (["corpus", "prune"], ["sparse"])
        ]
    return tidied


def _changes(name: str, whole: Schema, section: type[Section]) -> Schema:
    properties: Schema = {}
    short = _short_forms(section, CHANGES)
    for key, value in whole["properties"].items():
        inner = [choice["$ref"] for choice in (value, *value.get("anyOf", [])) if "$ref" in choice]
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
    rest = {key: value for key, value in whole.items() if key not in ("required", "anyOf")}
    return {**rest, "properties": properties}


def _short_forms(section: type[Section], suffix: str) -> Schema:
    """Return the schemas of the keys that take further forms in a file."""
    if section is Recipe:
        tasks = {"type": "object", "additionalProperties": _ref("Task" + suffix)}
        names: Schema = {"type": "array", "items": {"enum": list(PRESETS)}}
        return {"tasks": _any_of([tasks, names])}
    if issubclass(section, Task):
        return {key: _ref(changed.__name__ + CHANGES) for key, changed in OF_A_TASK.items()}
    if "method" in section.model_fields:
        stage = getattr(section, "stage", None)
        working = [plugin for plugin in plugins().values() if stage in plugin.stages]
        choices = [{"enum": [plugin.name for plugin in working]}] if working else []
        return {"method": _any_of([*choices, *(_ref(plugin.options.__name__ + suffix) for plugin in working), NULL])}
    return {}


def _task(suffix: str) -> Schema:
    """Return the schema of a task: the name of a known one, or a mapping with keys by its `kind` or `preset`.

    In changes, a task with neither may be of any kind, since the task below it may have one; else it is a
    classification.
    """
    kinds = {kind: _ref(section.__name__ + suffix) for kind, section in KINDS.items()}
    preset_names = {"enum": list(PRESETS)}
    cases = [{"if": _has_value("kind", [kind]), "then": ref} for kind, ref in kinds.items()]
    neither = {"not": _any_of([{"required": ["kind"]}, {"required": ["preset"]}])}
    cases.append({"if": neither, "then": _any_of(kinds.values()) if suffix else kinds[DEFAULT_KIND]})
    for kind, section in KINDS.items():
        presets = [name for name, values in PRESETS.items() if values["kind"] == kind]
        of_preset = {**_has_value("preset", presets), "not": {"required": ["kind"]}}
        cases.append({"if": of_preset, "then": _ref(section.__name__ + CHANGES)})
    mapping: Schema = {
        "type": "object",
        "properties": {"kind": {"enum": list(KINDS)}, "preset": preset_names},
        "allOf": cases,
    }
    if not suffix:  # over a preset, a task of another kind has its changes alone
        mapping = {"type": "object", "if": {"required": ["preset"]}, "then": _ref("Task" + CHANGES), "else": mapping}
    return {"if": {"type": "string"}, "then": preset_names, "else": _any_of([mapping, NULL]) if suffix else mapping}


def _has_value(key: str, values: list[str]) -> Schema:
    """Return the schema of a mapping with one of `values` at `key`."""
    return {"required": [key], "properties": {key: {"enum": values}}}
