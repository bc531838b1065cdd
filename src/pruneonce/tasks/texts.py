"""Base of the kinds of tasks that judge a text or a pair: their columns, and texts without a label."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from datasets import Dataset

from pruneonce.data.readers import Table
from pruneonce.errors import UserError
from pruneonce.recipe import TextTask, Training, Transfer
from pruneonce.tasks.kind import Kind, checked_texts, tokenized

X = TypeVar("X", bound=TextTask)


class TextKind(Kind[X]):
    """Kind of task whose rows have a text or a pair, and may have no label."""

    target: ClassVar[str] = "label"  # the column that becomes `labels`

    @abstractmethod
    def columns(self) -> dict[str, str]:
        """Return the task's columns of text, one or two, by their names in rows."""

    def encode(self, rows: Dataset, tokenizer: Any, training: bool = False) -> Dataset:
        labels = self.target if self.target in rows.column_names else None
        columns = list(self.columns())
        if self.text_settings.prompt:
            first = self.text_settings.prompted(rows[columns[0]][:])
            others = {name: rows[name][:] for name in rows.column_names if name != columns[0]}
            rows = Dataset.from_dict({columns[0]: first, **others})
        return tokenized(rows, tokenizer, columns, self.max_length, labels)

    def texts(self, rows: Dataset) -> list[Any]:
        first, *others = [rows[column][:] for column in self.columns()]
        first = self.text_settings.prompted(first)
        return list(zip(first, *others, strict=True)) if others else list(first)

    def read_texts(self, table: Table) -> dict[str, list[Any]]:
        """Return the texts of a table by their names in rows.

        Raises:
            UserError: a value is not text.
        """
        return {name: checked_texts(table, column) for name, column in self.columns().items()}

    def unlabelled(self, cache: Path) -> Dataset | None:
        """Return the rows of `task.unlabelled`; None where there are none."""
        where, columns = self.task.unlabelled, self.columns()
        if where is None:
            return None
        if len(columns) == 1:
            [(name, column)] = columns.items()
            return Dataset.from_dict({name: self.training_texts(where, column, cache)})
        return Dataset.from_dict(self.read_texts(self.read(where, list(columns.values()), cache)))

    def check_settings(self, settings: Training) -> None:
        if self.task.unlabelled and isinstance(settings, Transfer) and settings.task_weight:
            raise UserError(
                "`unlabelled` texts have no label to learn, so `task_weight` has to be 0, not "
                f"{settings.task_weight:g}; or leave `unlabelled` out"
            )


class LabelledTexts(TextKind[X]):
    """Kind of task whose rows have `text`, for pairs alone `text_pair`, and `label`."""

    def columns(self) -> dict[str, str]:
        columns = {"text": self.task.text, "text_pair": self.task.text_pair}  # type: ignore[attr-defined]
        return {name: column for name, column in columns.items() if column}
