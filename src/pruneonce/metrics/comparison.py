"""Uncertainty of a score, and of the difference between two models that were measured on the same examples.

Intervals are percentile bootstrap intervals (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, 13.3) over
the examples, which are drawn with replacement and of which the metric is computed anew. For a difference, both models
get the same examples: the interval is paired.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from pruneonce.metrics.units import Array, Units

RESAMPLES = 2000
CONFIDENCE = 0.95
SEED = 0
MOST = 4_000_000  # positions in a batch of resamples

Metric = Callable[[Mapping[str, Array], Array], Array]  # of a split's units [n, ...] and positions [..., m]: [...]


@dataclass(frozen=True)
class Comparison:
    """A model beside the reference, on the same units.

    Attributes:
        metric: of a resample, higher is better.
        ours: of the model.
        theirs: of the reference.
    """

    metric: Metric
    ours: Units
    theirs: Units

    def difference(self, index: Array) -> Array:
        """Return the metric of the model minus that of the reference, for the units at `index`."""
        return self.metric(self.ours.values, index) - self.metric(self.theirs.values, index)

    def p_value(self) -> tuple[str, float]:
        """Return a two-sided test of "the two are equally good", by name, and its p-value.

        For classes, McNemar's exact test of the examples on which one alone is right. For others, a permutation test
        that swaps the two models' outcomes on each unit at random.
        """
        if self.ours.decides_units:
            lost, won = self.changes()["right_to_wrong"], self.changes()["wrong_to_right"]
            return "McNemar, exact", mcnemar(lost, won)
        return "paired permutation", self._permutation()

    def _permutation(self) -> float:
        size = len(self.ours)
        both = {name: np.concatenate([self.ours.values[name], self.theirs.values[name]]) for name in self.ours.values}

        def statistic(ours: Array, theirs: Array, axis: int) -> Array:
            return self.metric(both, ours) - self.metric(both, theirs)

        tested = stats.permutation_test(
            (np.arange(size), np.arange(size, 2 * size)),
            statistic,
            permutation_type="samples",
            vectorized=True,
            n_resamples=RESAMPLES,
            batch=max(1, MOST // size),
            random_state=np.random.default_rng(SEED),
        )
        return float(tested.pvalue)

    def changes(self) -> dict[str, Any]:
        """Return how many decisions differ, and how many of them became wrong or right; empty where none is made."""
        if not len(self.ours.decisions):
            return {}
        ours, theirs = self.ours.right, self.theirs.right
        return {
            "of": self.ours.noun,
            "number": len(ours),
            "changed": int((self.ours.decisions != self.theirs.decisions).sum()),
            "right_to_wrong": int((theirs & ~ours).sum()),
            "wrong_to_right": int((ours & ~theirs).sum()),
        }


def interval(
    statistic: Callable[[Array], Array], size: int, confidence: float = CONFIDENCE, *, upper_only: bool = False
) -> tuple[float, float] | None:
    """Return a bootstrap interval of a statistic of `size` units; None of fewer than two.

    Args:
        statistic: of positions [..., size], [...].
        size: the number of units.
        confidence: of the interval.
        upper_only: the lower end is minus infinity, and the upper one a one-sided bound.
    """
    if size < 2:
        return None
    drawn = stats.bootstrap(
        (np.arange(size),),
        lambda index, axis: statistic(index),
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=max(1, MOST // size),
        confidence_level=confidence,
        alternative="less" if upper_only else "two-sided",
        method="percentile",
        random_state=np.random.default_rng(SEED),
    )
    return float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)


def mcnemar(lost: int, won: int) -> float:
    """Return the p-value of McNemar's exact test, two-sided: of the pairs that differ, half would be lost.

    Args:
        lost: pairs of which the reference alone is right.
        won: pairs of which the model alone is right.
    """
    return float(stats.binomtest(lost, lost + won).pvalue) if lost + won else 1.0
