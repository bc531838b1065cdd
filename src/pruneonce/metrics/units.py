"""Metrics of resampled examples: many resamples at once, each a row of positions in the arrays of a split's units.

A unit is the thing that is drawn: an example, a sentence, a question or a query.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import rankdata

from pruneonce.errors import UserError

Array = np.ndarray[Any, Any]

EXAMPLES = "examples"
MOST = 1 << 27  # numbers in an array that is read


def _nothing() -> Array:
    return np.empty(0, dtype=np.int64)


def _packed(numbers: Array) -> dict[str, Any]:
    """Return an array as JSON; integers in as few bytes as hold them."""
    if numbers.dtype.kind in "iu" and numbers.size:
        smallest = np.result_type(np.min_scalar_type(numbers.min()), np.min_scalar_type(numbers.max()))
        numbers = numbers.astype(smallest if smallest.kind in "iu" else np.int64)
    data = base64.b64encode(zlib.compress(np.ascontiguousarray(numbers).tobytes(), 9)).decode()
    return {"dtype": numbers.dtype.newbyteorder("<").str, "shape": list(numbers.shape), "data": data}


def _unpacked(packed: Mapping[str, Any]) -> Array:
    """Return the array of `_packed`, its integers as int64; no more memory is taken than its shape says."""
    dtype, shape = np.dtype(str(packed["dtype"])), [int(size) for size in packed["shape"]]
    if dtype.kind not in "iuf" or not 1 <= len(shape) <= 2 or min(shape) < 0 or math.prod(shape) > MOST:
        raise ValueError(f"an array of {dtype} {shape}")
    size = math.prod(shape) * dtype.itemsize
    content = zlib.decompressobj().decompress(base64.b64decode(packed["data"], validate=True), size + 1)
    if len(content) != size:
        raise ValueError("an array of another size than it says")
    numbers = np.frombuffer(content, dtype).reshape(shape)
    return numbers.astype(np.int64 if dtype.kind in "iu" else np.float64)


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

    def to_json(self) -> dict[str, Any]:
        """Return the units as JSON, their arrays compressed."""
        values = {name: _packed(numbers) for name, numbers in self.values.items()}
        return {
            "of": self.noun,
            "values": values,
            "decisions": _packed(self.decisions),
            "right": _packed(self.right.astype(np.int64)),
        }

    @classmethod
    def from_json(cls, packed: Mapping[str, Any]) -> Units:
        """Return the units of `to_json`.

        Raises:
            UserError: the JSON is damaged.
        """
        try:
            values = {str(name): _unpacked(numbers) for name, numbers in packed["values"].items()}
            decisions, right = _unpacked(packed["decisions"]), _unpacked(packed["right"]).astype(bool)
            units = cls(values, decisions, right, str(packed["of"]))
            if (
                not values
                or {len(numbers) for numbers in values.values()} != {len(units)}
                or len(right) != len(decisions)
            ):
                raise ValueError("arrays of different lengths")
        except (KeyError, TypeError, ValueError, AttributeError, StopIteration, zlib.error) as error:
            raise UserError(f"the outcomes by example are damaged: {error}") from None
        return units

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
