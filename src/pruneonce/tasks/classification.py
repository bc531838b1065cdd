"""Classification: one class out of several, for a text or a pair of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor

from pruneonce.data.readers import Table
from pruneonce.errors import UserError
from pruneonce.losses.distillation import logit_distillation
from pruneonce.metrics import glue, units
from pruneonce.metrics.units import Units
from pruneonce.recipe import Classification
from pruneonce.tasks.kind import Array, TaskData, architecture
from pruneonce.tasks.labels import Classes
from pruneonce.tasks.texts import LabelledTexts

METRICS = ["accuracy", "f1", "f1_macro", "matthews_correlation"]


class ClassificationKind(LabelledTexts[Classification]):
    """Classification of texts.

    Rows have `text` (str), `text_pair` (str, only for pairs) and `label` (int, an index into the names).
    """

    @classmethod
    def is_for(cls, config: Any) -> bool:
        return architecture(config).endswith("ForSequenceClassification") and config.num_labels > 1

    def load(self, cache: Path) -> TaskData:
        """Read and check all splits, as `Kind.load`.

        A label is a name or a number, see `pruneonce.tasks.labels`.
        """
        task = self.task
        tables = {split: self.read(where, self._columns(), cache) for split, where in task.splits().items()}
        train = tables["train"]
        classes = Classes.of(task.labels, self.of_model, train, task.label, enumerate(train.columns[task.label]))
        labels = classes.names
        self.check_metric(_metrics_for(len(labels)), f"a task of {len(labels)} classes")
        splits = {split: self._checked(table, classes) for split, table in tables.items()}
        if self.of_model is None and len(set(splits["train"]["label"][:])) < 2:
            raise UserError(f"{train.name}: all labels are the same; a classifier needs at least two classes")
        return TaskData(splits, labels, self.unlabelled(cache), classes)

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(output, labels)

    def distillation(self, student: Tensor, teacher: Tensor, mask: Tensor, temperature: float) -> Tensor:
        return logit_distillation(student, teacher, temperature)

    def measure(self, outputs: Sequence[Array], rows: Dataset, examples: Dataset) -> dict[str, float]:
        return glue.classification(np.stack(outputs), np.asarray(rows["label"][:]))

    def units(self, outputs: Sequence[Array], rows: Dataset, examples: Dataset) -> Units:
        predicted, labels = np.stack(outputs).argmax(axis=1), np.asarray(rows["label"][:])
        return Units({"predicted": predicted, "label": labels}, predicted, predicted == labels)

    def resampled(self, values: Mapping[str, Array], index: Array) -> Array:
        return units.classification(self.task.metric, values["predicted"], values["label"], index)

    def undefined(self, rows: Dataset, data: TaskData) -> str:
        numbers = set(rows["label"][:])
        if len(numbers) > 1:
            return ""
        (number,) = numbers
        metrics = (
            "f1 and matthews_correlation are" if len(data.labels) == 2 and number == 0 else ("matthews_correlation is")
        )
        return f"every label is {data.labels[number]!r}, so {metrics} undefined; 0 stands for it"

    def _columns(self) -> list[str]:
        return [*self.columns().values(), self.task.label]

    def _checked(self, table: Table, classes: Classes) -> Dataset:
        """Return the table under its canonical names, with every value checked."""
        columns = self.read_texts(table)
        values = table.columns[self.task.label]
        if all(value is None or value in (-1, "-1") for value in values):
            raise UserError(f"{table.name} is unlabelled (every {self.task.label!r} is null or -1); use a labelled one")
        numbers = classes.numbers(table, self.task.label, enumerate(values))
        return Dataset.from_dict({**columns, "label": numbers})


def _metrics_for(classes: int) -> list[str]:
    return [name for name in METRICS if name != ("f1_macro" if classes == 2 else "f1")]
