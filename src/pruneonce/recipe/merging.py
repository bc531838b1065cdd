"""Changes laid over a recipe: by `extends`, by `--set`, by a task for itself."""

from __future__ import annotations

from typing import Any

from pruneonce.config import safe_yaml
from pruneonce.config.validation import validate
from pruneonce.errors import UserError


def changed(section: Any, changes: dict[str, Any], at: str = "") -> Any:
    """Return a copy of `section` with `changes` laid over it; `at` names their origin in errors."""
    return validate(type(section), merge(section.model_dump(), changes), at)


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Lay `over` over `base`, mapping by mapping. A null takes a key out, and one of steps and epochs the other."""
    merged = dict(base)
    for key, other in (("steps", "epochs"), ("epochs", "steps")):
        if over.get(key) is not None and other not in over:
            merged.pop(other, None)
    for key, value in over.items():
        if isinstance(value, dict):
            inside = merged.get(key)
            merged[key] = merge(inside if isinstance(inside, dict) else {}, value)
        elif value is None:
            merged.pop(key, None)
        else:
            merged[key] = value
    return merged


def set_value(values: dict[str, Any], override: str) -> None:
    """Lay `a.b=value` over `values`, in place."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise UserError(f"--set takes key.key=value, not {override!r}")
    try:
        value = safe_yaml.parse(text)
    except ValueError:
        raise UserError(f"--set {path}: {text!r} is not a YAML value") from None
    for key in reversed(keys):
        value = {key: value}
    merged = merge(values, value)
    values.clear()
    values.update(merged)
