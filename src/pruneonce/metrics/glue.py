"""Metrics of GLUE (https://arxiv.org/abs/1804.07461) for classification and regression."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

CLASSIFICATION = ["accuracy", "f1", "f1_macro", "matthews_correlation"]
REGRESSION = ["pearson", "spearman"]


def classification(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Score logits [n, classes] against label numbers [n].

    Returns:
        `accuracy`, `matthews_correlation`, and the `f1` of class 1 for two classes or `f1_macro` for more.
    """
    predicted = logits.argmax(axis=1)
    binary = logits.shape[1] == 2
    return {
        "accuracy": accuracy(predicted, labels),
        **({"f1": f1(predicted, labels)} if binary else {"f1_macro": f1_macro(predicted, labels)}),
        "matthews_correlation": matthews_correlation(predicted, labels),
    }


def regression(scores: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Correlate predicted scores, [n] or [n, 1], with targets [n]: `pearson` and `spearman`."""
    scores = np.asarray(scores)
    if scores.ndim == 2:
        scores = scores.squeeze(axis=1)
    return {"pearson": pearson(scores, targets), "spearman": spearman(scores, targets)}


def accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    """The fraction of correct label numbers [n]."""
    return float(accuracy_score(labels, predicted))


def f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    """F1 of class 1 of classes 0 and 1; 0 if class 1 is neither a label nor predicted."""
    return float(f1_score(labels, predicted, average="binary", zero_division=0))


def f1_macro(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Mean F1 of all classes that are a label or predicted; a negative prediction is no class, and wrong."""
    classes = np.union1d(labels, predicted[predicted >= 0])
    return float(f1_score(labels, predicted, labels=classes, average="macro", zero_division=0))


def matthews_correlation(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Matthews' correlation, -1 to 1; 0 if the labels or the predictions are all of one class."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="A single label was found")
        return float(matthews_corrcoef(labels, predicted))


def pearson(scores: np.ndarray, targets: np.ndarray) -> float:
    """Pearson's correlation of [n] with [n], -1 to 1; 0 if it is undefined (see `_correlation`)."""
    return _correlation(stats.pearsonr, scores, targets)


def spearman(scores: np.ndarray, targets: np.ndarray) -> float:
    """Spearman's rank correlation of [n] with [n], ties sharing a rank, -1 to 1; 0 if it is undefined."""
    return _correlation(stats.spearmanr, scores, targets)


def _correlation(measure: Callable[..., tuple[float, float]], scores: np.ndarray, targets: np.ndarray) -> float:
    """Correlation by `measure`; 0 for constants, for fewer than two numbers, and with numbers that are not finite.

    A collapsed or diverged model then scores like a model without knowledge. A nan could not be compared.
    """
    scores, targets = np.asarray(scores, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    if scores.shape != targets.shape or scores.ndim != 1:
        raise ValueError(f"{scores.shape} scores for {targets.shape} targets; both have to be [n]")
    if len(scores) < 2 or not (np.isfinite(scores).all() and np.isfinite(targets).all()):
        return 0.0
    with warnings.catch_warnings():  # about constants and nearly constant numbers
        warnings.simplefilter("ignore")
        correlation = float(measure(scores, targets)[0])
    return correlation if np.isfinite(correlation) else 0.0
