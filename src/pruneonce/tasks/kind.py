"""The base of all kinds of tasks: data, head, losses and metrics. Each kind is a file of this package."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
from datasets import (
    Dataset,
    are_progress_bars_disabled,
    concatenate_datasets,
    disable_progress_bars,
    enable_progress_bars,
)
from torch import Tensor
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding

from pruneonce.data import readers
from pruneonce.data.readers import Table, read_file, read_hub
from pruneonce.errors import UserError
from pruneonce.models import load_model, load_reporting
from pruneonce.recipe import Task, Training

Array = np.ndarray[Any, Any]
Batch = dict[str, Tensor]
Collate = Callable[[list[Any]], Batch]
T = TypeVar("T", bound=Task)

MULTIPLE = 8  # of which batches have tokens: few lengths, as kernels are compiled for each


@dataclass(frozen=True)
class TaskData:
    """A task's data in memory.

    Attributes:
        splits: `train`, `dev` and, where the task has them, `test` and further ones, with the columns of its kind.
        labels: the classes' names, in order; empty where there are none.
        unlabelled: rows without a label, for stages with a teacher.
    """

    splits: dict[str, Dataset]
    labels: list[str] = field(default_factory=list)
    unlabelled: Dataset | None = None

    @property
    def taught(self) -> Dataset:
        """What a stage with a teacher learns from: the training data and, all without labels then, `unlabelled`."""
        if self.unlabelled is None:
            return self.splits["train"]
        train = self.splits["train"].select_columns(self.unlabelled.column_names)
        return concatenate_datasets([train, self.unlabelled])


class Kind(ABC, Generic[T]):
    """A kind of task, for one task of a recipe.

    What a model says of a row of model input is called its output: [classes] for a text, [tokens, 2] for the start and
    the end of an answer, [width] for an embedding.
    """

    auto: ClassVar[Any] = AutoModelForSequenceClassification  # transformers' class with the head
    full_score: ClassVar[float] = 1.0  # what a perfect model gets by the kind's metrics

    def __init__(self, task: T):
        self.task = task

    @classmethod
    def is_for(cls, config: Any) -> bool:
        """Whether a model with this configuration can be seen to be of this kind. False where models of this kind look
        like those of another one."""
        return False

    @abstractmethod
    def load(self, cache: Path) -> TaskData:
        """Read and check all splits.

        Args:
            cache: folder that hub data is downloaded to; files are read in place.

        Raises:
            UserError: a file, split or column is missing, empty or broken; a value is not what it should be; the
                metric does not fit.
        """

    @abstractmethod
    def encode(self, rows: Dataset, tokenizer: Any, training: bool = False) -> Dataset:
        """Model input for the rows of a split, unpadded, in memory, with nothing written to disk.

        Returns:
            `input_ids`, `attention_mask`, `token_type_ids` where the tokenizer gives them, and where the kind has a
            loss with labels, `labels`. There may be several for a row, and with `training` other ones than without.
        """

    @abstractmethod
    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a batch against its labels."""

    @abstractmethod
    def distillation(self, student: Tensor, teacher: Tensor, mask: Tensor, temperature: float) -> Tensor:
        """The mean distance of a batch's outputs from the teacher's, which has no gradient.

        Args:
            mask: [rows, tokens], 0 where there is padding.
        """

    @abstractmethod
    def measure(self, outputs: Sequence[Array], rows: Dataset, examples: Dataset) -> dict[str, float]:
        """Metrics of the outputs for `examples`, one each, which `encode` made of `rows`."""

    @abstractmethod
    def texts(self, rows: Dataset) -> list[Any]:
        """A text or a pair for each row, as a tokenizer takes them."""

    def output(self, found: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """The outputs [rows, ...] out of what a model or an engine gives, by name."""
        return found["logits"]

    def collate(self, tokenizer: Any) -> Collate:
        """Makes batches out of what `encode` gives."""
        return DataCollatorWithPadding(tokenizer, pad_to_multiple_of=MULTIPLE)

    def config(self, data: TaskData) -> dict[str, Any]:
        """What the task changes in a model's configuration."""
        return {
            "num_labels": len(data.labels),
            "id2label": dict(enumerate(data.labels)),
            "label2id": {label: index for index, label in enumerate(data.labels)},
        }

    def load_model(self, source: str | Path, **config: Any) -> Any:
        """A model for the task, its head new where `source` has none."""
        return load_model(self.auto, source, **config)

    def load_finished(self, source: str | Path) -> Any:
        """A model that was fine-tuned on the task.

        Raises:
            UserError: it has no head for the task.
        """
        model, missing = load_reporting(self.auto, source)
        if missing:
            raise UserError(
                f"{source} has no head for {self.task.kind} ({', '.join(sorted(missing))} would be random); give a "
                "model that was fine-tuned on such a task"
            )
        return model

    def check_model(self, config: Any, data: TaskData, name: str) -> None:
        """
        Raises:
            UserError: a model with this configuration is for other labels than the task has.
        """
        names = [config.id2label[index] for index in range(config.num_labels)]
        if names != data.labels:
            raise UserError(f"{name} has the labels {names}, the task has {data.labels}")

    def for_model(self, source: str | Path) -> Self:
        """This kind for one model, where how its outputs are read is a property of the model."""
        return self

    def check_settings(self, settings: Training) -> None:
        """
        Raises:
            UserError: they ask for what this kind cannot do.
        """

    def check_teacher(self, student: Any, teacher: Any, name: str) -> None:
        """
        Args:
            student: configuration of the model that is taught; `teacher`: of the one that teaches, called `name`.

        Raises:
            UserError: the outputs of the two cannot be compared.
        """

    def freeze_unused(self, model: Any) -> None:
        """Freeze what no output is made of, for training on the outputs alone."""

    def read(self, where: str, columns: list[str], cache: Path) -> Table:
        """`columns` of a file, or of a split of the task's hub data."""
        if self.task.source is None:
            return read_file(Path(where).expanduser(), columns)
        return read_hub(self.task.source, self.task.subset, where, columns, cache)

    def training_texts(self, where: str, column: str, cache: Path, most: int | None = None) -> list[str]:
        """The first `most` texts that are not blank: lines of a text file, else a column's."""
        file = Path(where).expanduser()
        if self.task.source is None and readers.kind(file) == "text":
            readers.check_file(file, ["text"])
            found: Iterator[str] = (line.strip() for _, line in readers.lines(file))
        else:
            found = iter(checked_texts(self.read(where, [column], cache), column))
        texts = list(islice((text for text in found if text.strip()), most))
        if not texts:
            raise UserError(f"{where} has no text to train on")
        return texts

    def check_metric(self, names: Sequence[str], what: str) -> None:
        """
        Raises:
            UserError: the task's metric is none of `names`, which `what` has.
        """
        if self.task.metric not in names:
            raise UserError(f"no metric {self.task.metric!r} for {what}; there are {', '.join(names)}")


def architecture(config: Any) -> str:
    """The name of the model class in a configuration; empty where there is none."""
    return str((config.architectures or [""])[0])


def tokenized(
    rows: Dataset, tokenizer: Any, columns: Sequence[str], max_length: int, labels: str | None = None
) -> Dataset:
    """Texts, or pairs, as model input; `labels` is the column that becomes `labels`."""

    def tokenize(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        encoded = tokenizer(*(batch[column] for column in columns), truncation=True, max_length=max_length)
        return {**encoded, **({"labels": batch[labels]} if labels else {})}

    with no_progress_bars():
        return rows.map(tokenize, batched=True, remove_columns=rows.column_names)


def checked_texts(table: Table, column: str) -> list[str]:
    """
    Raises:
        UserError: one of them is no text.
    """
    for row, text in enumerate(table.columns[column]):
        if not isinstance(text, str):
            raise UserError(f"{table.place(row)}: {column!r} has to be text, not {shown(text)}")
    return table.columns[column]


def checked_numbers(table: Table, column: str) -> list[float]:
    """Numbers, or text that is one, as CSV has it.

    Raises:
        UserError: one of them is no finite number.
    """
    numbers = []
    for row, value in enumerate(table.columns[column]):
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise UserError(f"{table.place(row)}: {column!r} has to be a number, not {shown(value)}")
        numbers.append(number)
    return numbers


def shown(value: Any) -> str:
    """`value` as a data file has it: null and true rather than None and True."""
    return f"{json.dumps(value, default=str):.40}"


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Without those of `datasets`."""
    were_shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if were_shown:
            enable_progress_bars()
