"""A task on the command line: its options, which all verbs that take a task have, and what was given by them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pruneonce import recipe
from pruneonce.errors import UserError

# A task's options, named as the fields of recipe.Task.
TASK = ("kind", "preset", "source", "subset", "train", "dev", "test", "text", "text_pair", "label", "labels")
FLAGS = {"source": "--hub", "preset": "--task"}


def _task_option(help: str, *names: str, metavar: str) -> Any:
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel="Task")


KINDS = f"{', '.join(list(recipe.KINDS)[:-1])} or {list(recipe.KINDS)[-1]}"
Preset = Annotated[
    str | None,
    _task_option(f"A known one, data and columns: {', '.join(recipe.PRESETS)}.", "--task", metavar="NAME"),
]
Kind = Annotated[str | None, _task_option(f"{KINDS}. Default: {next(iter(recipe.KINDS))}.", metavar="KIND")]
OwnKind = Annotated[str | None, _task_option(f"{KINDS}. Default: what the model is for.", metavar="KIND")]
Train = Annotated[str | None, _task_option("JSONL, CSV or Parquet file; with --hub, a split.", metavar="FILE")]
Dev = Annotated[str | None, _task_option("Held-out file or split.", metavar="FILE")]
Test = Annotated[str | None, _task_option("File or split to measure on.", metavar="FILE")]
Hub = Annotated[str | None, _task_option("Hub data set, instead of files.", "--hub", metavar="ID")]
Subset = Annotated[str | None, _task_option("Configuration of the hub data set.", metavar="NAME")]
TextColumn = Annotated[str | None, _task_option("Default: text.", "--text", metavar="COLUMN")]
PairColumn = Annotated[str | None, _task_option("Second text of a pair.", "--text-pair", metavar="COLUMN")]
LabelColumn = Annotated[str | None, _task_option("Default: label.", "--label", metavar="COLUMN")]
Labels = Annotated[str | None, _task_option("Label names in order. Default: from the data.", metavar="A,B,...")]
TaskSets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change the task, such as task.max_length=64; may be repeated."),
]


def task_values(parameters: dict[str, Any]) -> dict[str, Any]:
    """The task's options out of all of a verb's."""
    values = {name: parameters[name] for name in TASK if parameters.get(name) is not None}
    has_splits = bool({"train", "dev", "test"} & values.keys())
    if "preset" not in values and not has_splits:
        raise UserError("no data: give --train and --dev, or a known task by --task")
    if "preset" in values and has_splits and "source" not in values:
        values["source"] = None  # what is given are files, and the known task says how to read them
    if "labels" in values:
        values["labels"] = [name.strip() for name in values["labels"].split(",")]
    return values


def with_sets(task: dict[str, Any], sets: list[str] | None) -> dict[str, Any]:
    """A task's values after `--set task.KEY=VALUE`, where a verb takes nothing else by --set."""
    values: dict[str, Any] = {"task": task}
    for override in sets or []:
        recipe.set_value(values, override)
    task = values.pop("task", {})
    if values:
        raise UserError(f"unknown key `{next(iter(values))}`; `evaluate` takes `task.KEY`")
    return task


def as_options(task: dict[str, Any], sets: list[str] | None) -> list[str]:
    """A task's values, and what was set of it, as they were typed."""
    typed = {**task, "labels": ",".join(task.get("labels", []))}
    flags = {name: FLAGS.get(name, f"--{name.replace('_', '-')}") for name in typed}
    options = [part for name, value in typed.items() if value for part in (flags[name], value)]
    return options + [part for one in sets or [] if one.startswith("task.") for part in ("--set", one)]
