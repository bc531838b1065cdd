"""Base class of all kinds of tasks: data, head, losses and metrics. Each kind is a file of this package."""

from __future__ import annotations

import copy
import math
import re
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

from pruneonce.data import readers, streams
from pruneonce.data.readers import Table, read_file, read_hub
from pruneonce.errors import MissingColumnError, UserError
from pruneonce.metrics.units import Units
from pruneonce.models import load_model, load_reporting
from pruneonce.models.text_settings import TextSettings
from pruneonce.recipe import Task, Training
from pruneonce.tasks.cuts import Cut, beginnings, count_cut, in_parts, tokens_in
from pruneonce.tasks.labels import Classes, names_of
from pruneonce.wording import as_in_file, listed

Array = np.ndarray[Any, Any]
Batch = dict[str, Tensor]
Collate = Callable[[list[Any]], Batch]
T = TypeVar("T", bound=Task)

COLUMN_KEYS = (
    *("text", "text_pair", "query", "passage", "tokens", "tags", "question", "context", "answers", "id", "label"),
    "train_text",
)  # keys of a task that name columns
CROSS_ENCODER = ("sentence_transformers", "sbert_ce_default_activation_function")  # keys of its configuration
# A number as text; Python's `float` also takes 1_000, and digits of any script.
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
MULTIPLE = 8  # batches are padded to a multiple of these tokens: few lengths, as kernels are compiled for each


@dataclass(frozen=True)
class TaskData:
    """Data of a task in memory.

    Attributes:
        splits: `train`, `dev` and, where the task has them, `test` and further ones, with the columns of its kind.
        labels: the classes' names, in order; empty where there are none.
        unlabelled: rows without a label, for stages with a teacher.
        classes: the classes with the decisions on them; None where there are none.
    """

    splits: dict[str, Dataset]
    labels: list[str] = field(default_factory=list)
    unlabelled: Dataset | None = None
    classes: Classes | None = None

    @property
    def taught(self) -> Dataset:
        """Return the rows for a stage with a teacher: the training data and `unlabelled`, then all without labels."""
        if self.unlabelled is None:
            return self.splits["train"]
        train = self.splits["train"].select_columns(self.unlabelled.column_names)
        return concatenate_datasets([train, self.unlabelled])


class Kind(ABC, Generic[T]):
    """Kind of task, for one task of a recipe.

    The output of a model for a row of model input is [classes] for a text, [tokens, 2] for the start and the end of an
    answer, [width] for an embedding.
    """

    auto: ClassVar[Any] = AutoModelForSequenceClassification  # transformers' class with the head
    full_score: ClassVar[float] = 1.0  # the score of a perfect model by the kind's metrics
    one_output: ClassVar[bool] = True  # a text has one output; False: each of its tokens has
    derived: ClassVar[tuple[str, ...]] = ()  # columns of rows that depend on other splits too

    of_model: list[str] | None = None  # names of the measured model's classes, where the task has none of its own
    text_settings = TextSettings()  # of the model, where the kind follows them; `for_model` reads them
    order: list[int] | None = None  # index of each class of the task in a model's outputs; None: the same order

    def __init__(self, task: T):
        self.task = task

    @classmethod
    def is_for(cls, config: Any) -> bool:
        """Return whether a model's configuration shows that it is of this kind.

        False where models of this kind look like those of another one.
        """
        return False

    @abstractmethod
    def load(self, cache: Path) -> TaskData:
        """Read and check all splits.

        Args:
            cache: folder that hub data is downloaded to; files are read in place.

        Raises:
            UserError: a file, split or column is missing, empty or broken; a value is invalid; the metric does not fit.
        """

    @abstractmethod
    def encode(self, rows: Dataset, tokenizer: Any, training: bool = False) -> Dataset:
        """Return model input for the rows of a split, unpadded, in memory, with nothing written to disk.

        Returns:
            `input_ids`, `attention_mask`, `token_type_ids` where the tokenizer gives them, and `labels` where the kind
            has a loss with labels. A row may have several examples, and other ones with `training` than without.
        """

    @abstractmethod
    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of a batch against its labels."""

    @abstractmethod
    def distillation(self, student: Tensor, teacher: Tensor, mask: Tensor, temperature: float) -> Tensor:
        """Return the mean distance of a batch's outputs from the teacher's, which have no gradient.

        Args:
            student: outputs of the student.
            teacher: outputs of the teacher.
            mask: [rows, tokens], 0 where there is padding.
            temperature: of the distributions, where outputs are logits.
        """

    @abstractmethod
    def measure(self, outputs: Sequence[Array], rows: Dataset, examples: Dataset) -> dict[str, float]:
        """Return the metrics of the outputs for `examples`, one each, which `encode` made of `rows`."""

    def undefined(self, rows: Dataset, data: TaskData) -> str:
        """Return a sentence on metrics that cannot tell models apart on `rows`; empty where all can."""
        return ""

    @abstractmethod
    def units(self, outputs: Sequence[Array], rows: Dataset, examples: Dataset) -> Units:
        """Return the outcome by unit, of which the metric of any resample can be computed; arguments as `measure`."""

    def resampled(self, values: Mapping[str, Array], index: Array) -> Array:
        """Return the task's metric for the units at the positions `index` [..., m], [...].

        By default the metric is the mean of its values of the units.
        """
        return np.asarray(values[self.task.metric][index].mean(-1))

    @abstractmethod
    def texts(self, rows: Dataset) -> list[Any]:
        """Return a text or a pair for each row, as a tokenizer takes them."""

    def cut(self, rows: Dataset, examples: Dataset, tokenizer: Any, training: bool = False) -> Cut:
        """Return the account of what `max_length` cuts off `rows`, of which `encode` made `examples`."""
        most = self.max_length
        kept = [len(ids) for ids in examples["input_ids"]]
        full = [index for index, size in enumerate(kept) if size >= most]
        texts = self.inputs(rows, training) if full else []
        parts = {index: texts[index] if isinstance(texts[index], tuple) else (texts[index],) for index in full}
        whole = {index: sum(tokens_in(part, tokenizer) for part in of_one) for index, of_one in parts.items()}
        is_pair = any(len(of_one) > 1 for of_one in parts.values())
        return count_cut(kept, most, tokenizer.num_special_tokens_to_add(pair=is_pair), whole)

    @property
    def max_length(self) -> int:
        """Tokens of the longest input: `max_length` of the task, or those that the model is set to if fewer."""
        return self.text_settings.longest(self.task.max_length)

    def inputs(self, rows: Dataset, training: bool) -> list[Any]:
        """Return the text or pair of each example of `encode`."""
        return self.texts(rows)

    def output(self, outputs: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Return the outputs [rows, ...] out of the named tensors of a model or an engine."""
        logits = outputs["logits"]
        return logits if self.order is None else logits[..., self.order]

    def collate(self, tokenizer: Any) -> Collate:
        """Return the collator that makes batches of examples from `encode`."""
        return DataCollatorWithPadding(tokenizer, pad_to_multiple_of=MULTIPLE)

    def config(self, data: TaskData) -> dict[str, Any]:
        """Return the task's changes to a model's configuration."""
        return {
            "num_labels": len(data.labels),
            "id2label": dict(enumerate(data.labels)),
            "label2id": {label: index for index, label in enumerate(data.labels)},
        }

    def load_model(self, source: str | Path, **config: Any) -> Any:
        """Load a model for the task, its head new where `source` has none."""
        return load_model(self.auto, source, **config)

    def load_finished(self, source: str | Path) -> Any:
        """Load a model that was fine-tuned on the task.

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
        """Check that a model with this configuration is for the task's labels.

        Raises:
            UserError: it is for other labels.
        """
        if data.classes is not None:
            data.classes.order_in(names_of(config, name), name)

    def reading(self, config: Any, data: TaskData, name: str) -> Self:
        """Return this kind for the outputs of a model, whose classes may stand in another order than the task's.

        Args:
            config: configuration of the model.
            data: the task's data.
            name: of the model, for the message.

        Raises:
            UserError: as `check_model`.
        """
        self.check_model(config, data, name)
        kind = copy.copy(self)
        kind.order = None if data.classes is None else data.classes.order_in(names_of(config, name), name)
        return kind

    def for_model(self, source: str | Path) -> Self:
        """Return this kind for one model, where the reading of texts or outputs depends on the model."""
        return self

    def check_settings(self, settings: Training) -> None:
        """Check that this kind can train by `settings`.

        Raises:
            UserError: they ask for more than this kind can do.
        """

    def check_teacher(self, reader: Self, student: Any, teacher: Any, name: str) -> None:
        """Check that the outputs of student and teacher can be compared.

        Args:
            reader: this kind for the teacher.
            student: configuration of the model that is taught.
            teacher: configuration of the model that teaches.
            name: of the teacher, for the message.

        Raises:
            UserError: they cannot.
        """

    def freeze_unused(self, model: Any) -> None:
        """Freeze parameters that no output is made of, for training on the outputs alone."""

    def read(self, where: str, columns: list[str], cache: Path) -> Table:
        """Read `columns` of a file, or of a split of the task's hub data."""
        try:
            if self.task.source is None:
                return read_file(Path(where).expanduser(), columns)
            return read_hub(self.task.source, self.task.subset, where, columns, cache)
        except MissingColumnError as error:
            keys = [key for key in COLUMN_KEYS if getattr(self.task, key, None) in columns]
            names = listed([f"`{key}`" for key in keys])
            raise UserError(f"{error}; {names} of the task name the columns of {self.task.kind}") from None

    def training_texts(self, where: str, column: str, cache: Path, most: int | None = None) -> list[str]:
        """Return the first `most` texts that are not blank: lines of a text file, else a column's."""
        file = Path(where).expanduser()
        if self.task.source is None and streams.kind(file) == "text":
            readers.check_file(file, ["text"])
            candidates: Iterator[str] = (line.strip() for _, line in streams.lines(file))
        else:
            candidates = iter(checked_texts(self.read(where, [column], cache), column))
        texts = list(islice((text for text in candidates if text.strip()), most))
        if not texts:
            raise UserError(f"{where} has no text to train on")
        return texts

    def check_metric(self, names: Sequence[str], what: str) -> None:
        """Check the task's metric.

        Raises:
            UserError: it is none of `names`, the metrics of `what`.
        """
        if self.task.metric not in names:
            raise UserError(f"no metric {self.task.metric!r} for {what}; there are {', '.join(names)}")


def architecture(config: Any) -> str:
    """Return the name of the model class in a configuration; empty where there is none."""
    return str((config.architectures or [""])[0])


def is_reranker(config: Any) -> bool:
    """Return whether a model with one label ranks passages.

    The loss of a reranker made here is in its configuration; a `CrossEncoder` of sentence-transformers has the function
    behind its score there.
    """
    made_here = getattr(config, "problem_type", None) == "multi_label_classification"
    cross_encoder = any(
        hasattr(config, name) for name in ("sentence_transformers", "sbert_ce_default_activation_function")
    )
    return bool(config.num_labels == 1 and (made_here or cross_encoder))


def tokenized(
    rows: Dataset, tokenizer: Any, columns: Sequence[str], max_length: int, labels: str | None = None
) -> Dataset:
    """Return texts, or pairs, as model input; `labels` is the column that becomes `labels`."""

    def tokenize(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        rows = zip(*(batch[column] for column in columns), strict=True)
        texts = list(zip(*(beginnings(row, tokenizer, max_length) for row in rows), strict=True))
        parts = [
            tokenizer(*(column[start:end] for column in texts), truncation=True, max_length=max_length)
            for start, end in in_parts(texts)
        ]
        encoded = {name: [value for part in parts for value in part[name]] for name in parts[0]}
        return {**encoded, **({"labels": batch[labels]} if labels else {})}

    with no_progress_bars():
        return rows.map(tokenize, batched=True, remove_columns=rows.column_names)


def checked_texts(table: Table, column: str) -> list[str]:
    """Return a column of texts.

    Raises:
        UserError: a value is not text.
    """
    for row, text in enumerate(table.columns[column]):
        if not isinstance(text, str):
            raise UserError(f"{table.place(row)}: {column!r} has to be text, not {as_in_file(text)}")
    return table.columns[column]


def checked_numbers(table: Table, column: str) -> list[float]:
    """Return a column of numbers, or of texts that are numbers, as CSV has them.

    Raises:
        UserError: a value is no finite number.
    """
    numbers = []
    for row, value in enumerate(table.columns[column]):
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        is_plain = not isinstance(value, str) or NUMBER.fullmatch(value.strip())
        if not math.isfinite(number) or not is_plain:
            hint = f"; write it as {number:g}" if math.isfinite(number) else ""
            raise UserError(f"{table.place(row)}: {column!r} has to be a number, not {as_in_file(value)}{hint}")
        numbers.append(number)
    return numbers


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Hide the progress bars of `datasets`."""
    were_shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if were_shown:
            enable_progress_bars()
