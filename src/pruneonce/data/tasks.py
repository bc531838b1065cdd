"""Classification of a text or of a pair: from labelled files or hub data to model input, and its metrics.

Another kind of task is another module with these four: `load_task`, `encode`, `metrics`, `METRICS`; reading
files and hub data is in `readers`.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from pruneonce.data.readers import Table, read_file, read_hub
from pruneonce.errors import UserError
from pruneonce.recipe import Task

METRICS = ["accuracy", "f1", "f1_macro", "matthews_correlation"]


@dataclass(frozen=True)
class TaskData:
    """A task's data in memory.

    Attributes:
        labels: the classes' names, in order.
        splits: `train`, `dev` and, where the task has one, `test`, with the columns `text` (str), `text_pair`
            (str, only for pairs) and `label` (int, an index into `labels`).
    """

    labels: list[str]
    splits: dict[str, Dataset]


def load_task(task: Task, cache: Path) -> TaskData:
    """Read and check all splits of a task.

    A label is a name or a number from 0. The names are `task.labels`, else those that hub data comes with,
    else the sorted names (or the numbers) in the training data. A label that reads like one of the names is
    that one; any other number, or text that is a number as in CSV, is an index.

    Args:
        task: the recipe's task.
        cache: folder that hub data is downloaded to; files are read in place.

    Raises:
        UserError: a file, split or column is missing, empty or broken; a text is null; a label is null,
            unknown or out of range; the training data has one class only; the metric does not fit.
    """
    named = {"train": task.train, "dev": task.dev, "test": task.test}
    tables = {split: _read(task, where, cache) for split, where in named.items() if where is not None}
    labels = _names(task, tables["train"])
    allowed = _metrics_for(len(labels))
    if task.metric not in allowed:
        raise UserError(
            f"no metric {task.metric!r} for a task of {len(labels)} classes; there are {', '.join(allowed)}"
        )
    splits = {split: _checked(task, table, labels) for split, table in tables.items()}
    if len(set(splits["train"]["label"][:])) < 2:
        raise UserError(f"{tables['train'].name}: all labels are the same; a classifier needs at least two classes")
    return TaskData(labels, splits)


def encode(dataset: Dataset, tokenizer: Any, task: Task) -> Dataset:
    """Model input for a split of `TaskData`, cut at `task.max_length` tokens; unpadded, as collators pad.

    Returns:
        `input_ids`, `attention_mask`, `token_type_ids` where the tokenizer gives them, and `labels`; in
        memory, with nothing written to disk.
    """
    texts = [column for column in ("text", "text_pair") if column in dataset.column_names]

    def tokenize(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        encoded = tokenizer(*(batch[column] for column in texts), truncation=True, max_length=task.max_length)
        return {**encoded, "labels": batch["label"]}

    with _no_progress_bars():
        return dataset.map(tokenize, batched=True, remove_columns=dataset.column_names)


def metrics(predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The quality of logits [n, classes] against label numbers [n].

    Returns:
        `accuracy`, `matthews_correlation` and, with two classes, the `f1` of class 1, with more `f1_macro`.
    """
    chosen = predictions.argmax(axis=1)
    binary = predictions.shape[1] == 2
    f1 = f1_score(labels, chosen, average="binary" if binary else "macro", zero_division=0)
    with warnings.catch_warnings():  # one class alone, in few or poorly predicted rows, has a correlation of 0
        warnings.filterwarnings("ignore", message="A single label was found")
        correlation = matthews_corrcoef(labels, chosen)
    return {
        "accuracy": float(accuracy_score(labels, chosen)),
        "f1" if binary else "f1_macro": float(f1),
        "matthews_correlation": float(correlation),
    }


def _metrics_for(classes: int) -> list[str]:
    return [name for name in METRICS if name != ("f1_macro" if classes == 2 else "f1")]


def _read(task: Task, where: str, cache: Path) -> Table:
    columns = [task.text, *([task.text_pair] if task.text_pair else []), task.label]
    if task.source is None:
        return read_file(Path(where).expanduser(), columns)
    return read_hub(task.source, task.subset, where, columns, cache)


def _names(task: Task, train: Table) -> list[str]:
    """The classes' names; without any to read, those of numbers are the numbers."""
    if task.labels is not None:
        if len(set(task.labels)) < max(2, len(task.labels)):
            raise UserError(f"`labels` has to be two or more different names, not {task.labels}")
        return task.labels
    if task.label in train.class_names:
        return train.class_names[task.label]
    values = {_plain(value, train.place(row)) for row, value in enumerate(train.columns[task.label])}
    numbers = {_number(value) for value in values}
    if None not in numbers:
        if numbers != set(range(len(numbers))):
            raise UserError(
                f"{train.name}: labels that are numbers have to be 0, 1, ... with none left out, not "
                f"{_some(sorted(values, key=str))}; renumber them, or name all classes in `labels`"
            )
        return [str(number) for number in range(len(numbers))]
    if not all(isinstance(value, str) for value in values):
        raise UserError(f"{train.name}: labels are both names and numbers: {_some(sorted(values, key=str))}")
    return sorted(str(value) for value in values)


def _checked(task: Task, table: Table, labels: list[str]) -> Dataset:
    """The table under its canonical names, each value of it looked at."""
    columns: dict[str, list[Any]] = {}
    for name, column in (("text", task.text), ("text_pair", task.text_pair)):
        if column:
            columns[name] = table.columns[column]
            for row, text in enumerate(columns[name]):
                if not isinstance(text, str):
                    raise UserError(f"{table.place(row)}: {column!r} has to be text, not {_shown(text)}")
    values = table.columns[task.label]
    if all(value is None or value in (-1, "-1") for value in values):
        raise UserError(f"{table.name} is unlabelled (every {task.label!r} is null or -1); use a labelled one")
    # A ClassLabel's numbers are indices even where its names are numbers too, such as "1" to "5".
    index = {} if task.label in table.class_names else {name: number for number, name in enumerate(labels)}
    numbers = []
    for row, value in enumerate(values):
        value = _plain(value, table.place(row))
        number = index.get(str(value), _number(value))
        if number is None or not 0 <= number < len(labels):
            raise UserError(
                f"{table.place(row)}: label {value!r} is none of {_some(labels)}, "
                f"nor a number from 0 to {len(labels) - 1}"
            )
        numbers.append(number)
    return Dataset.from_dict({**columns, "label": numbers})


def _plain(value: Any, place: str) -> int | str:
    """`value` if it can be a label at all. A bool is an int to Python, but not to who wrote it."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise UserError(f"{place}: a label has to be a name or a whole number, not {_shown(value)}")
    return value


def _number(value: int | str) -> int | None:
    if isinstance(value, int):
        return value
    return int(value) if re.fullmatch(r"\s*-?\d{1,9}\s*", value, re.ASCII) else None


def _shown(value: Any) -> str:
    """`value` as a data file has it: null and true rather than None and True."""
    return f"{json.dumps(value, default=str):.40}"


def _some(values: list[Any]) -> str:
    shown = [repr(value) for value in values[:10]]
    return ", ".join([*shown, f"... ({len(values)} in all)"] if len(values) > 10 else shown)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()
