"""Metrics of resampled examples: many resamples at once, each a row of positions in the arrays of a split's units.

A unit is the thing that is drawn: an example, a sentence, a question or a query.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import rankdata

Array = np.ndarray[Any, Any]

EXAMPLES = "examples"


def _nothing() -> Array:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Units:
    """Outcome of a model on a split, in the form that a metric needs.

    Attributes:
        values: arrays [n, ...] over the units, of which the metric of any resample can be computed.
        decisions: [m], the model's choice for each thing that it decides: the class of an example, the tag of a word,
            a hash of the answer to a question. Empty for scores and vectors.
        right: [m], whether the choice is right.
        noun: for people, of the things that are decided: "examples", "words", "answers".
    """

    values: Mapping[str, Array]
    decisions: Array = field(default_factory=_nothing)
    right: Array = field(default_factory=_nothing)
    noun: str = EXAMPLES

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    @property
    def decides_units(self) -> bool:
        """Return whether each unit is one decision, as an example with a class is, and a sentence of tags is not."""
        return self.noun == EXAMPLES and len(self.decisions) == len(self)


def classification(metric: str, predicted: Array, labels: Array, index: Array) -> Array:
    """Return a metric of `pruneonce.metrics.glue.classification` for each resample.

    Args:
        metric: its name.
        predicted: class numbers [n].
        labels: class numbers [n].
        index: positions [..., m] in both.

    Returns:
        [...].
    """
    guessed, true = predicted[index], labels[index]
    hit = guessed == true
    if metric == "accuracy":
        return np.asarray(hit.mean(-1))
    classes = max(2, int(predicted.max()) + 1, int(labels.max()) + 1)
    hits, guesses, truths = (
        _histogram(values, kept, classes) for values, kept in ((true, hit), (guessed, None), (true, None))
    )
    if metric == "matthews_correlation":
        return _matthews(hits.sum(-1), guesses, truths, index.shape[-1])
    f1 = ratio(2 * hits, guesses + truths)
    return np.asarray(f1[..., 1]) if metric == "f1" else macro(f1, guesses + truths)


def _histogram(values: Array, kept: Array | None, classes: int) -> Array:
    """Return the counts [..., classes] of the numbers in the last dimension, of those that are `kept`."""
    rows = values.reshape(-1, values.shape[-1])
    places = rows + classes * np.arange(len(rows))[:, None]
    weights = None if kept is None else kept.reshape(-1)
    counts = np.bincount(places.reshape(-1), weights, minlength=classes * len(rows))
    return counts.reshape(*values.shape[:-1], classes)


def _matthews(hits: Array, guesses: Array, truths: Array, size: int) -> Array:
    """Return Matthews' correlation for several classes, from the margins of the table of confusion.

    (c s - sum p_k t_k) / sqrt((s^2 - sum p_k^2) (s^2 - sum t_k^2)), Gorodkin 2004,
    https://doi.org/10.1016/j.compbiolchem.2004.09.006
    """
    guesses, truths = guesses.astype(np.float64), truths.astype(np.float64)
    covariance = hits * size - (guesses * truths).sum(-1)
    spread = (size**2 - (guesses**2).sum(-1)) * (size**2 - (truths**2).sum(-1))
    return ratio(covariance, np.sqrt(spread))


def macro(f1: Array, seen: Array) -> Array:
    """Return the mean F1 [...] over the classes [..., k] that are a label or predicted in the resample."""
    return ratio((f1 * (seen > 0)).sum(-1), (seen > 0).sum(-1))


def ratio(part: Array, whole: Array) -> Array:
    """Return part / whole, 0 where the divisor is 0."""
    return np.divide(part, whole, out=np.zeros(np.shape(part), dtype=np.float64), where=np.asarray(whole) != 0)


def totals(counts: Array, index: Array) -> Array:
    """Return the sums [..., k] of the counts [n, k] of the units at `index` [..., m]."""
    rows = index.reshape(-1, index.shape[-1])
    drawn = np.stack([np.bincount(row, minlength=len(counts)) for row in rows])
    return np.asarray((drawn @ counts).reshape(*index.shape[:-1], counts.shape[-1]))


def correlation(metric: str, scores: Array, targets: Array, index: Array) -> Array:
    """Return Pearson's or Spearman's correlation for each resample; 0 where it is undefined, as in `glue`.

    Args:
        metric: `pearson` or `spearman`.
        scores: [n].
        targets: [n].
        index: positions [..., m] in both.

    Returns:
        [...].
    """
    if not (np.isfinite(scores).all() and np.isfinite(targets).all()):
        return np.zeros(index.shape[:-1])
    both = [np.asarray(numbers, dtype=np.float64)[index] for numbers in (scores, targets)]
    if metric == "spearman":
        both = [rankdata(numbers, axis=-1) for numbers in both]
    constant = [(numbers == numbers[..., :1]).all(-1) for numbers in both]
    one, other = (numbers - numbers.mean(-1, keepdims=True) for numbers in both)
    spread = np.sqrt((one**2).sum(-1) * (other**2).sum(-1))
    return ratio((one * other).sum(-1), np.where(constant[0] | constant[1], 0.0, spread))
