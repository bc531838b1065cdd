"""Recipes from files: shipped ones and the user's, laid over those that they extend."""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path
from typing import Any

from pruneonce.config import safe_yaml
from pruneonce.config.validation import validate
from pruneonce.console import logger
from pruneonce.errors import UserError
from pruneonce.recipe.merging import merge, set_value
from pruneonce.recipe.presets import with_presets
from pruneonce.recipe.whole import Recipe

RECIPES = Path(str(resources.files("pruneonce") / "recipes"))


def shipped() -> dict[str, Path]:
    """Return names and paths of the recipes that come with the package, without bases, whose names begin with _."""
    return {path.stem: path for path in sorted(RECIPES.glob("*.yaml")) if not path.stem.startswith("_")}


def find(name_or_path: str) -> Path:
    """Return the file of a shipped recipe or of a path."""
    if name_or_path in shipped():
        return shipped()[name_or_path]
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.suffix in {".yaml", ".yml"} or len(path.parts) > 1:
        raise UserError(f"no recipe file at {path}")
    near = difflib.get_close_matches(name_or_path, shipped(), n=1)
    hint = f"did you mean {near[0]!r}?" if near else "see `pruneonce recipes list`"
    raise UserError(f"no recipe named {name_or_path!r}; {hint}")


def load(name_or_path: str, overrides: list[str] | None = None) -> Recipe:
    """Read and validate a recipe. `overrides` are `a.b=value` strings, the value read as YAML.

    Raises:
        UserError: no such recipe, not YAML, an unknown key (the nearest right one is named), or a value out of range.
    """
    values = _read(find(name_or_path), ())
    for override in overrides or []:
        set_value(values, override)
        _lay_out_tasks(values)
    return validate(Recipe, values)


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """Return the file's mapping, laid over that of the recipe it `extends`."""
    if path.resolve() in seen:
        raise UserError(f"{path}: recipes extend one another in a circle")
    values = safe_yaml.read(path)
    logger.debug("recipe read from %s", path)
    if not isinstance(values, dict):
        raise UserError(
            f"{path} is not a recipe: it should be a mapping with `name`, `model`, `corpus`, `prune` (or `sparse`)"
        )
    _lay_out_tasks(values)
    base = values.pop("extends", None)
    return values if base is None else merge(_read(_base(path, str(base)), (*seen, path.resolve())), values)


def _lay_out_tasks(values: dict[str, Any]) -> None:
    """Put a task in the place of its name, before anything is laid over it key by key."""
    if "tasks" in values:
        values["tasks"] = with_presets(values["tasks"])


def _base(path: Path, name: str) -> Path:
    """Return the recipe that the one at `path` extends: a file beside it, with or without .yaml, or a shipped one."""
    for folder in (path.parent, RECIPES):
        for file in (folder / name, folder / f"{name}.yaml"):
            if file.is_file():
                return file
    try:
        return find(name)
    except UserError as error:
        raise UserError(f"{path} extends {name!r}: {error}") from None
