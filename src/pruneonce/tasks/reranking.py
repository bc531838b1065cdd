"""Reranking: a score for a query and a passage, by a cross-encoder, one model that reads both.

Rows of a query are its candidates.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor

from pruneonce.errors import UserError
from pruneonce.metrics.retrieval import by_query_values, ranking
from pruneonce.metrics.units import Units
from pruneonce.models.cross_encoders import check_reranker
from pruneonce.models.sentence_transformers import RERANKER
from pruneonce.models.text_settings import TextSettings
from pruneonce.recipe import Reranking
from pruneonce.tasks.judgements import METRICS, by_query, check_relevances, undecided
from pruneonce.tasks.kind import Array, TaskData, architecture, checked_numbers, is_reranker
from pruneonce.tasks.texts import TextKind


class RerankingKind(TextKind[Reranking]):
    """Reranking of passages.

    Rows have `query` (str), `passage` (str), `label` (float), the relevance, and `target` (float, 0 to 1): the
    relevance over the largest one in the training data, 0 below 0. Outputs are scores, whose sigmoid is the target.

    `sentence_transformers.CrossEncoder(folder)` gives that sigmoid, as it does for any model with one label, or the
    score itself where the model was made of a `CrossEncoder` that does.
    """

    target = "target"
    derived = (target,)

    @classmethod
    def is_for(cls, config: Any) -> bool:
        return architecture(config).endswith("ForSequenceClassification") and is_reranker(config)

    def columns(self) -> dict[str, str]:
        return {"query": self.task.query, "passage": self.task.passage}

    def load(self, cache: Path) -> TaskData:
        self.check_metric(METRICS, "a reranking")
        splits, largest = {}, 0.0
        for split, where in self.task.splits().items():
            table = self.read(where, [self.task.query, self.task.passage, self.task.label], cache)
            texts = self.read_texts(table)
            queries, passages = texts.values()
            relevances = checked_numbers(table, self.task.label)
            check_relevances(table, queries, passages, relevances)
            if split == "train":
                largest = max(relevances)
                if min(relevances) == largest:
                    raise UserError(f"{table.name}: all passages are as relevant; a ranking is learnt from differences")
            targets = [min(max(relevance, 0.0) / largest, 1.0) for relevance in relevances]
            splits[split] = Dataset.from_dict({**texts, "label": relevances, "target": targets})
        return TaskData(splits, unlabelled=self.unlabelled(cache))

    def for_model(self, source: str | Path) -> Self:
        """Return this kind with the prompt and the limit of tokens of a model.

        Raises:
            UserError: a setting of a `CrossEncoder` cannot be followed.
        """
        kind = copy.copy(self)
        check_reranker(source)
        kind.text_settings = TextSettings.of(source, RERANKER)
        return kind

    def output(self, outputs: Any, mask: Tensor) -> Tensor:
        return outputs["logits"].squeeze(-1)  # type: ignore[no-any-return]

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(output, labels.to(output.dtype))

    def distillation(self, student: Tensor, teacher: Tensor, mask: Tensor, temperature: float) -> Tensor:
        """Return the mean squared difference of the scores; a score has no temperature.

        Margin-MSE (https://arxiv.org/abs/2010.02666) compares differences between two passages of a query instead, so
        that a student of another architecture may have a range of scores of its own. Here both have the same range,
        equal scores have equal margins, and a batch need not hold passages of one query together.
        """
        return F.mse_loss(student, teacher)

    def measure(self, outputs: Sequence[Array], rows: Dataset, examples: Dataset) -> dict[str, float]:
        """Return the metrics of the ranking of each query's candidates."""
        return ranking(_queries(outputs, rows))

    @property
    def unit(self) -> str:
        return "queries"

    def undefined(self, rows: Dataset, data: TaskData) -> str:
        return undecided(_queries([0.0] * len(rows), rows))

    def units(self, outputs: Sequence[Array], rows: Dataset, examples: Dataset) -> Units:
        return Units(by_query_values(_queries(outputs, rows)))

    def config(self, data: TaskData) -> dict[str, Any]:
        """Return one label, and the loss that transformers has for it: its pipelines then give the sigmoid too."""
        return {"num_labels": 1, "problem_type": "multi_label_classification"}

    def check_model(self, config: Any, data: TaskData, name: str) -> None:
        if config.num_labels != 1:
            raise UserError(f"{name} has {config.num_labels} labels; a reranker has one score")


def _queries(outputs: Sequence[Any], rows: Dataset) -> Iterator[tuple[Sequence[float], Sequence[float]]]:
    """Yield the scores and the relevances of each query's candidates."""
    pairs = zip(outputs, rows["label"], strict=True)
    judged = by_query(rows["query"], rows["passage"], [(float(score), label) for score, label in pairs])
    for candidates in judged.values():
        scores, relevances = zip(*candidates.values(), strict=True)
        yield scores, relevances
