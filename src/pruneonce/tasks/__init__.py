"""Kinds of tasks, a file each: data, head, losses and metrics.

The settings of a kind, and the list of kinds, are in `pruneonce.recipe.tasks`.
"""

from importlib import import_module
from typing import Any

from pruneonce.recipe import KINDS, Task
from pruneonce.tasks.kind import Batch, Collate, Kind, TaskData

__all__ = ["Batch", "Collate", "Kind", "TaskData", "kind_class", "kind_for", "kind_of"]


def kind_class(kind: str) -> type[Kind[Any]]:
    """Return the class that does the work of a kind, by the kind's name in a recipe."""
    module, _, name = KINDS[kind].code.partition(":")
    return getattr(import_module(module), name)  # type: ignore[no-any-return]


def kind_of(task: Task) -> Kind[Any]:
    """Return the object that does the work of a recipe's task."""
    return kind_class(task.kind)(task)


def kind_for(config: Any) -> str:
    """Return the kind of a model's configuration, as far as it shows; else the first kind."""
    return next((kind for kind in KINDS if kind_class(kind).is_for(config)), next(iter(KINDS)))
