"""Kinds of tasks, a file each: data, head, losses and metrics. Settings are in `pruneonce.recipe`."""

from typing import Any

from pruneonce.recipe import Task
from pruneonce.tasks.classification import ClassificationKind
from pruneonce.tasks.embedding import EmbeddingKind
from pruneonce.tasks.kind import Batch, Collate, Kind, TaskData
from pruneonce.tasks.question_answering import QuestionAnsweringKind
from pruneonce.tasks.regression import RegressionKind
from pruneonce.tasks.reranking import RerankingKind
from pruneonce.tasks.token_classification import TokenClassificationKind

KINDS: dict[str, type[Kind[Any]]] = {
    "classification": ClassificationKind,
    "regression": RegressionKind,
    "question-answering": QuestionAnsweringKind,
    "token-classification": TokenClassificationKind,
    "embedding": EmbeddingKind,
    "reranking": RerankingKind,
}


def kind_of(task: Task) -> Kind[Any]:
    """What does the work of a recipe's task."""
    return KINDS[task.kind](task)


HEADS = {"ForQuestionAnswering": "question-answering", "ForTokenClassification": "token-classification"}


def kind_for(config: Any) -> str:
    """The kind that a model with this configuration is for, as far as that can be seen; a reranker's is regression."""
    name = (config.architectures or [""])[0]
    for head, kind in HEADS.items():
        if name.endswith(head):
            return kind
    if name.endswith("Model"):
        return "embedding"
    return "regression" if config.num_labels == 1 else "classification"


__all__ = ["KINDS", "Batch", "Collate", "Kind", "TaskData", "kind_for", "kind_of"]
