"""Kinds of tasks, a file each: data, head, losses and metrics.

The settings of a kind, and the list of kinds, are in `pruneonce.recipe.tasks`.
"""

from collections.abc import Collection
from importlib import import_module
from pathlib import Path
from typing import Any

from pruneonce.recipe import KINDS, Task
from pruneonce.system.durable import read_json
from pruneonce.tasks.kind import Batch, Collate, Kind, TaskData

NOTES = "config_sentence_transformers.json"

__all__ = ["Batch", "Collate", "Kind", "TaskData", "kind_class", "kind_for", "kind_of"]


def kind_class(kind: str) -> type[Kind[Any]]:
    """Return the class that does the work of a kind, by the kind's name in a recipe."""
    module, _, name = KINDS[kind].code.partition(":")
    return getattr(import_module(module), name)  # type: ignore[no-any-return]


def kind_of(task: Task) -> Kind[Any]:
    """Return the object that does the work of a recipe's task."""
    return kind_class(task.kind)(task)


def kind_for(config: Any, keys: Collection[str] = (), folder: str | Path = "") -> str:
    """Return the kind of a model's configuration, as far as it shows; else the first kind.

    Args:
        config: configuration of the model.
        keys: keys given for the task; columns of texts, not of queries and passages, make a reranker a regression, as
            models of sentence similarity have the same configuration.
        folder: the model's folder, in which sentence-transformers notes a `CrossEncoder`.
    """
    kind = next((kind for kind in KINDS if kind_class(kind).is_for(config)), next(iter(KINDS)))
    noted = read_json(Path(folder) / NOTES) if folder else None
    if kind == "regression" and isinstance(noted, dict) and noted.get("model_type") == "CrossEncoder":
        kind = "reranking"
    return "regression" if kind == "reranking" and {"text", "text_pair"} & set(keys) else kind
