"""Classification and regression, with the metrics of GLUE (https://arxiv.org/abs/1804.07461)."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

CLASSIFICATION = ["accuracy", "f1", "f1_macro", "matthews_correlation"]
REGRESSION = ["pearson", "spearman"]


def classification(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The quality of logits [n, classes] against label numbers [n].

    Returns:
        `accuracy`, `matthews_correlation` and, with two classes, the `f1` of class 1, with more `f1_macro`.
    """
    chosen = logits.argmax(axis=1)
    binary = logits.shape[1] == 2
    return {
        "accuracy": accuracy(chosen, labels),
        **({"f1": f1(chosen, labels)} if binary else {"f1_macro": f1_macro(chosen, labels)}),
        "matthews_correlation": matthews_correlation(chosen, labels),
    }


def regression(scores: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """The quality of predicted scores, [n] or [n, 1] as a model gives them, against targets [n]: both correlations."""
    scores = np.asarray(scores)
    if scores.ndim == 2:
        scores = scores.squeeze(axis=1)
    return {"pearson": pearson(scores, targets), "spearman": spearman(scores, targets)}


def accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    """The fraction of label numbers [n] that are right."""
    return float(accuracy_score(labels, predicted))


def f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    """F1 of class 1 out of 0 and 1; 0 where class 1 neither is nor is predicted."""
    return float(f1_score(labels, predicted, average="binary", zero_division=0))


def f1_macro(predicted: np.ndarray, labels: np.ndarray) -> float:
    """The mean of the F1 of all classes that are or are predicted. A negative prediction is none, and so wrong."""
    classes = np.union1d(labels, predicted[predicted >= 0])
    return float(f1_score(labels, predicted, labels=classes, average="macro", zero_division=0))


def matthews_correlation(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Matthews' correlation, -1 to 1; 0 where one class alone is or is predicted."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="A single label was found")
        return float(matthews_corrcoef(labels, predicted))


def pearson(scores: np.ndarray, targets: np.ndarray) -> float:
    """Pearson's correlation of [n] with [n], -1 to 1; 0 where it is undefined (see `_correlation`)."""
    return _correlation(stats.pearsonr, scores, targets)


def spearman(scores: np.ndarray, targets: np.ndarray) -> float:
    """Spearman's rank correlation of [n] with [n], ties sharing a rank, -1 to 1; 0 where it is undefined."""
    return _correlation(stats.spearmanr, scores, targets)


def _correlation(measure: Callable[..., tuple[float, float]], scores: np.ndarray, targets: np.ndarray) -> float:
    """What `measure` finds; 0 for a constant, fewer than two numbers, or any that is not finite.

    A collapsed or diverged model then compares as one that knows nothing, where a nan would compare as nothing.
    """
    scores, targets = np.asarray(scores, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    if scores.shape != targets.shape or scores.ndim != 1:
        raise ValueError(f"{scores.shape} scores for {targets.shape} targets; both have to be [n]")
    if len(scores) < 2 or not (np.isfinite(scores).all() and np.isfinite(targets).all()):
        return 0.0
    with warnings.catch_warnings():  # of constants, and of what rounding makes nearly constant
        warnings.simplefilter("ignore")
        found = float(measure(scores, targets)[0])
    return found if np.isfinite(found) else 0.0
