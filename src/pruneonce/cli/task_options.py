"""Options of a task on the command line, shared by all verbs that take a task, and the values that they give."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Annotated, Any

import typer

from pruneonce import recipe
from pruneonce.config.formats import FORMATS, TABLES, listed_suffixes
from pruneonce.errors import UserError
from pruneonce.wording import listed

FLAGS = {"source": "--hub", "preset": "--task"}


def _task_option(help: str, *names: str, metavar: str) -> Any:
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel="Task")


TABLE_FILES = f"File ({', '.join(listed_suffixes([FORMATS[name] for name in TABLES]))}) or saved folder"
KIND_NAMES = listed(list(recipe.KINDS), "or")
TextColumn = Annotated[str | None, _task_option("Default: text.", "--text", metavar="COLUMN")]
PairColumn = Annotated[str | None, _task_option("Second text of a pair.", "--text-pair", metavar="COLUMN")]

# A task's options, named as the fields of recipe.Task.
TASK: dict[str, Any] = {
    "preset": Annotated[
        str | None,
        _task_option(f"A known one, data and columns: {', '.join(recipe.PRESETS)}.", "--task", metavar="NAME"),
    ],
    "kind": Annotated[str | None, _task_option(f"{KIND_NAMES}. Default: {next(iter(recipe.KINDS))}.", metavar="KIND")],
    "train": Annotated[str | None, _task_option(f"{TABLE_FILES}; with --hub, a split.", metavar="FILE")],
    "dev": Annotated[str | None, _task_option("Held-out file or split.", metavar="FILE")],
    "test": Annotated[str | None, _task_option("File or split to measure on.", metavar="FILE")],
    "source": Annotated[str | None, _task_option("Hub data set, instead of files.", "--hub", metavar="ID")],
    "subset": Annotated[str | None, _task_option("Configuration of the hub data set.", metavar="NAME")],
    "text": TextColumn,
    "text_pair": PairColumn,
    "label": Annotated[str | None, _task_option("Default: label.", "--label", metavar="COLUMN")],
    "labels": Annotated[str | None, _task_option("Label names in order. Default: from the data.", metavar="A,B,...")],
}
# The options of a verb that measures a model, which knows its kind; no training data are read.
MEASURED = {name: option for name, option in TASK.items() if name != "train"} | {
    "kind": Annotated[str | None, _task_option(f"{KIND_NAMES}. Default: what the model is for.", metavar="KIND")]
}
TaskSets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change the task, such as task.max_length=64; may be repeated."),
]


def takes_task(options: Mapping[str, Any] = TASK) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds a task's options to a verb, which gets their values as `task`."""

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        @wraps(verb)
        def run(**values: Any) -> None:
            task = {name: value for name in options if (value := values.pop(name)) is not None}
            verb(**values, task=task)

        parameters = inspect.signature(verb, eval_str=True).parameters.values()
        others = [parameter for parameter in parameters if parameter.name != "task"]
        added = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
            for name, option in options.items()
        ]
        run.__signature__ = inspect.Signature([*others, *added])  # type: ignore[attr-defined]  # typer reads it
        return run

    return decorate


def task_values(typed: dict[str, Any]) -> dict[str, Any]:
    """Return a task's values from its options."""
    values = dict(typed)
    has_splits = bool({"train", "dev", "test"} & values.keys())
    if "preset" not in values and not has_splits:
        raise UserError("no data: give --train and --dev, or a known task by --task")
    if "preset" in values and has_splits and "source" not in values:
        values["source"] = None  # the splits are files, and the known task says how to read them
    if "labels" in values:
        values["labels"] = [name.strip() for name in values["labels"].split(",")]
    return values


def with_sets(task: dict[str, Any], sets: list[str] | None, verb: str = "evaluate") -> dict[str, Any]:
    """Return a task's values after `--set task.KEY=VALUE`, for a verb that takes nothing else by --set."""
    values: dict[str, Any] = {"task": task}
    for override in sets or []:
        recipe.set_value(values, override)
    task = values.pop("task", {})
    if values:
        raise UserError(f"unknown key `{next(iter(values))}`; `{verb}` takes `task.KEY`")
    return task


def as_options(task: dict[str, Any], sets: list[str] | None) -> list[str]:
    """Return a task's values, and its settings by `--set`, in the form in which they were typed."""
    typed = {**task, "labels": ",".join(task.get("labels", []))}
    flags = {name: FLAGS.get(name, f"--{name.replace('_', '-')}") for name in typed}
    options = [part for name, value in typed.items() if value for part in (flags[name], value)]
    overrides = [override for override in sets or [] if override.startswith("task.")]
    return options + [part for override in overrides for part in ("--set", override)]
