"""Regression: a number for a text or a pair of texts, such as how similar two sentences are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor

from pruneonce.errors import UserError
from pruneonce.metrics import glue, units
from pruneonce.metrics.units import Units
from pruneonce.recipe import Regression
from pruneonce.tasks.kind import Array, TaskData, architecture, checked_numbers, is_reranker
from pruneonce.tasks.texts import LabelledTexts

METRICS = ["pearson", "spearman"]


class RegressionKind(LabelledTexts[Regression]):
    """Regression on texts.

    Rows have `text` (str), `text_pair` (str, only for pairs) and `label` (float).
    """

    @classmethod
    def is_for(cls, config: Any) -> bool:
        return (
            architecture(config).endswith("ForSequenceClassification")
            and config.num_labels == 1
            and (not is_reranker(config))
        )

    def load(self, cache: Path) -> TaskData:
        self.check_metric(METRICS, "a regression")
        splits = {}
        for split, where in self.task.splits().items():
            table = self.read(where, [*self.columns().values(), self.task.label], cache)
            numbers = checked_numbers(table, self.task.label)
            splits[split] = Dataset.from_dict({**self.read_texts(table), "label": numbers})
            if len(set(splits[split]["label"][:])) < 2:
                raise UserError(f"{table.name}: all numbers in {self.task.label!r} are the same")
        return TaskData(splits, unlabelled=self.unlabelled(cache))

    def output(self, outputs: Any, mask: Tensor) -> Tensor:
        return outputs["logits"].squeeze(-1)  # type: ignore[no-any-return]

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        return F.mse_loss(output, labels.to(output.dtype))

    def distillation(self, student: Tensor, teacher: Tensor, mask: Tensor, temperature: float) -> Tensor:
        """Return the mean squared difference; a number has no temperature."""
        return F.mse_loss(student, teacher)

    def measure(self, outputs: Sequence[Array], rows: Dataset, examples: Dataset) -> dict[str, float]:
        return glue.regression(np.asarray(outputs), np.asarray(rows["label"][:]))

    def units(self, outputs: Sequence[Array], rows: Dataset, examples: Dataset) -> Units:
        return Units({"score": np.asarray(outputs), "target": np.asarray(rows["label"][:])})

    def resampled(self, values: Mapping[str, Array], index: Array) -> Array:
        return units.correlation(self.task.metric, values["score"], values["target"], index)

    def config(self, data: TaskData) -> dict[str, Any]:
        return {"num_labels": 1, "problem_type": "regression"}

    def check_model(self, config: Any, data: TaskData, name: str) -> None:
        if config.num_labels != 1:
            raise UserError(f"{name} has {config.num_labels} labels; a regression has one number")
