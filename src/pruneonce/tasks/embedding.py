"""Embedding: a vector for a text, as near to the dense model's as a sparse model can give it.

The texts need no labels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModel

from pruneonce.errors import UserError
from pruneonce.losses.distillation import embedding_distillation, similarity_distillation
from pruneonce.metrics import glue, units
from pruneonce.metrics.retrieval import by_query_values, ranking
from pruneonce.metrics.units import Units
from pruneonce.models import load_encoder
from pruneonce.models.pooling import SIMILARITIES, Pooling
from pruneonce.models.sentence_transformers import EMBEDDER
from pruneonce.models.text_settings import TextSettings
from pruneonce.recipe import Embedding, Training, Transfer
from pruneonce.tasks.judgements import METRICS as RETRIEVAL
from pruneonce.tasks.judgements import by_query, check_relevances, undecided
from pruneonce.tasks.kind import Array, Kind, TaskData, architecture, checked_numbers, checked_texts, tokenized
from pruneonce.tasks.regression import METRICS as PAIRS

# By sentence-transformers' names: how like vectors [rows, width] are, the larger the more; for the cosine, of length 1.
COMPARISONS: dict[str, Callable[[Array, Array], Array]] = {
    "cosine": lambda one, other: np.asarray((one * other).sum(-1)),
    "dot": lambda one, other: np.asarray((one * other).sum(-1)),
    "euclidean": lambda one, other: -np.linalg.norm(one - other, axis=-1),
    "manhattan": lambda one, other: -np.abs(one - other).sum(-1),
}


class EmbeddingKind(Kind[Embedding]):
    """Embedding of texts.

    Rows have `text` (str) and, but for those of `train`, `text_pair` (str) and `label` (float), the similarity or the
    relevance. Outputs are vectors [width].
    """

    auto = AutoModel
    pooling: Pooling | None = None  # of the model; `for_model` reads it

    @classmethod
    def is_for(cls, config: Any) -> bool:
        return architecture(config).endswith("Model")

    def load(self, cache: Path) -> TaskData:
        """Read and check all splits: texts to train on, and judged pairs to measure on."""
        self.check_metric([*PAIRS, *RETRIEVAL], "an embedding")
        splits = {split: self._judged(where, cache) for split, where in self.task.splits().items() if split != "train"}
        task = self.task
        texts = self.training_texts(task.train, task.train_text or task.text, cache, task.examples)
        return TaskData({"train": Dataset.from_dict({"text": texts}), **splits})

    def encode(self, rows: Dataset, tokenizer: Any, training: bool = False) -> Dataset:
        """Encode each text in training; otherwise each distinct text once, whatever rows it is in."""
        texts = Dataset.from_dict({"text": self.inputs(rows, training)})
        return tokenized(texts, tokenizer, ["text"], self.max_length)

    def inputs(self, rows: Dataset, training: bool) -> list[Any]:
        return self.text_settings.prompted(rows["text"][:] if training else self.texts(rows))

    def texts(self, rows: Dataset) -> list[Any]:
        """Return the distinct texts, in the order of their first rows."""
        columns = [rows[column][:] for column in ("text", "text_pair") if column in rows.column_names]
        return list(dict.fromkeys(text for row in zip(*columns, strict=True) for text in row))

    def for_model(self, source: str | Path) -> Self:
        """Return this kind with the pooling, the prompt and the limit of tokens of a model.

        Raises:
            UserError: the model makes its vectors in a way that is not known here.
        """
        kind = copy.copy(self)
        kind.pooling = Pooling.of(source)
        kind.text_settings = TextSettings.of(source, EMBEDDER)
        return kind

    def output(self, outputs: Any, mask: Tensor) -> Tensor:
        assert self.pooling is not None, "which model's? `for_model` says"
        return self.pooling(outputs["last_hidden_state"], mask, self.text_settings.prompt_tokens)

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        raise AssertionError("there are no labels; `check_settings` refuses what would need them")

    def distillation(self, student: Tensor, teacher: Tensor, mask: Tensor, temperature: float) -> Tensor:
        """Return `a |s - t|^2 / |t|^2 + b (cos(s_i, s_j) - cos(t_i, t_j))^2` for vectors of student and teacher.

        Means are over texts and over pairs of texts in the batch. A vector has no temperature.
        """
        parts = []
        if self.task.embedding_weight:
            parts.append(self.task.embedding_weight * embedding_distillation(student, teacher))
        if self.task.similarity_weight:
            parts.append(self.task.similarity_weight * similarity_distillation(student, teacher))
        return torch.stack(parts).sum()

    def measure(self, outputs: Sequence[Array], rows: Dataset, examples: Dataset) -> dict[str, float]:
        """Return the metrics of the vectors by their cosine, or by another function that the model's files name.

        For pairs, the function is correlated with the similarity. For retrieval, it ranks all passages of the split for
        each query.
        """
        if self.task.metric in PAIRS:
            return glue.regression(self._scores(outputs, rows), np.asarray(rows["label"][:]))
        return ranking(self._queries(outputs, rows))

    @property
    def unit(self) -> str:
        return "pairs" if self.task.metric in PAIRS else "queries"

    def units(self, outputs: Sequence[Array], rows: Dataset, examples: Dataset) -> Units:
        if self.task.metric in PAIRS:
            return Units({"score": self._scores(outputs, rows), "target": np.asarray(rows["label"][:])})
        return Units(by_query_values(self._queries(outputs, rows)))

    def undefined(self, rows: Dataset, data: TaskData) -> str:
        if self.task.metric in PAIRS:
            return ""
        passages = len(set(rows["text_pair"]))  # all are candidates of each query; those without a row have 0
        judged = [[*one.values()] for one in by_query(rows["text"], rows["text_pair"], rows["label"]).values()]
        return undecided((None, one if len(one) == passages else [*one, 0.0]) for one in judged)

    def resampled(self, values: Mapping[str, Array], index: Array) -> Array:
        if self.task.metric in PAIRS:
            return units.correlation(self.task.metric, values["score"], values["target"], index)
        return super().resampled(values, index)

    def _scores(self, outputs: Sequence[Array], rows: Dataset) -> Array:
        """Return how like the texts of each row are by their vectors."""
        vectors, place = self._vectors(outputs, rows)
        first, second = ([place[text] for text in rows[column]] for column in ("text", "text_pair"))
        return COMPARISONS[self._similarity](vectors[first], vectors[second])

    def _queries(self, outputs: Sequence[Array], rows: Dataset) -> Iterator[tuple[Array, list[float]]]:
        """Yield the score by the vectors and the relevance of every passage of the split, for each query."""
        vectors, place = self._vectors(outputs, rows)
        passages = list(dict.fromkeys(rows["text_pair"]))
        passage_vectors = vectors[[place[passage] for passage in passages]]
        ranks_by_product = self._similarity in ("cosine", "dot")
        for query, relevant in by_query(rows["text"], rows["text_pair"], rows["label"]).items():
            one = vectors[place[query]]
            scores = passage_vectors @ one if ranks_by_product else COMPARISONS[self._similarity](passage_vectors, one)
            yield scores, [relevant.get(passage, 0.0) for passage in passages]

    @property
    def _similarity(self) -> str:
        return self.pooling.similarity if self.pooling else SIMILARITIES[0]

    def _vectors(self, outputs: Sequence[Array], rows: Dataset) -> tuple[Array, dict[Any, int]]:
        """Return the vectors, with a length of 1 where their cosine is asked for, and the row of each text."""
        vectors = np.stack(outputs)
        if self._similarity == "cosine":
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors, {text: index for index, text in enumerate(self.texts(rows))}

    def config(self, data: TaskData) -> dict[str, Any]:
        return {}

    def load_model(self, source: str | Path, **config: Any) -> Any:
        return load_encoder(source, **config)

    def load_finished(self, source: str | Path) -> Any:
        return self.load_model(source)  # there is no head

    def check_model(self, config: Any, data: TaskData, name: str) -> None:
        """Accept any model: every encoder gives vectors."""

    def check_settings(self, settings: Training) -> None:
        if not isinstance(settings, Transfer):
            raise UserError(
                "an embedding task has no labels to fine-tune on: the dense model is its teacher as it is; go on with "
                "`transfer`"
            )
        if settings.task_weight:
            raise UserError(
                f"an embedding task has no labels to learn, so `task_weight` has to be 0, not {settings.task_weight:g}"
            )

    def check_teacher(self, reader: Self, student: Any, teacher: Any, name: str) -> None:
        assert self.pooling is not None
        assert reader.pooling is not None
        ours, theirs = self.pooling.width(student.hidden_size), reader.pooling.width(teacher.hidden_size)
        if self.task.embedding_weight and ours != theirs:
            raise UserError(
                f"{name} gives vectors of {theirs} numbers, the model {ours}, so they "
                "cannot be compared; set the task's `embedding_weight: 0`, to distil their similarities alone, and "
                "`hidden_weight: 0`"
            )

    def freeze_unused(self, model: Any) -> None:
        """Freeze a pooler of the architecture's own, which no vector is made of."""
        if getattr(model, "pooler", None) is not None:
            model.pooler.requires_grad_(False)

    def _judged(self, where: str, cache: Path) -> Dataset:
        """Read a split to measure on, with every value checked."""
        task = self.task
        table = self.read(where, [task.text, task.text_pair, task.label], cache)
        first, second = checked_texts(table, task.text), checked_texts(table, task.text_pair)
        numbers = checked_numbers(table, task.label)
        if task.metric in RETRIEVAL:
            check_relevances(table, first, second, numbers)
        elif len(set(numbers)) < 2:
            raise UserError(f"{table.name}: all numbers in {task.label!r} are the same")
        return Dataset.from_dict({"text": first, "text_pair": second, "label": numbers})
