"""Size of a packed model, and its entropy limit.

The limit is of order 0 and by tensor: every tensor is coded by itself, with symbols independent of one another and of
their place. For a zero pattern of n weights with density d, it is n*H(d), with H the binary entropy. For integers, it
is their count times the entropy of their histogram; for other numbers, the same for each of their bytes. The
description of the code is free: scales, histograms, names and shapes count as packed bytes, not towards the limit.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pruneonce.storage import coding

PARTS = ("encoder", "embeddings", "rest")


def entropy(counts: npt.NDArray[np.integer]) -> float:
    """Entropy in bits of a sequence with this histogram: sum of c * log2(n / c)."""
    counts = counts[counts > 0]
    return float((counts * np.log2(counts.sum() / counts)).sum())


def pattern_limit(kept: int, size: int) -> float:
    """Entropy n*H(d) of a zero pattern, in bits."""
    return entropy(np.array([kept, size - kept]))


def values_limit(values: npt.NDArray[np.int8]) -> float:
    """Entropy of int8 values, in bits."""
    return entropy(np.bincount(values.view(np.uint8), minlength=1))


def planes_limit(numbers: npt.NDArray[np.generic]) -> float:
    """Entropy of numbers of any type, in bits, each of their bytes by itself."""
    return sum(entropy(np.bincount(plane, minlength=1)) for plane in coding.planes(numbers))


@dataclass
class Part:
    """Sizes of a part of a model's tensors.

    Attributes:
        weights: number of weights.
        dense: bytes of the dense tensors.
        packed: bytes of the packed streams; streams shared by several members count once.
        limit: entropy limit of these streams, in bytes.
    """

    weights: int = 0
    dense: int = 0
    packed: int = 0
    limit: float = 0.0

    def __add__(self, other: Part) -> Part:
        return Part(
            *(ours + theirs for ours, theirs in zip(asdict(self).values(), asdict(other).values(), strict=True))
        )

    def to_json(self) -> dict[str, Any]:
        """Sizes and ratios as values for JSON."""
        return {
            "weights": self.weights,
            "dense_bytes": self.dense,
            "packed_bytes": self.packed,
            "bits_per_weight": 8 * self.packed / self.weights if self.weights else None,
            "limit_bytes": round(self.limit),
            "over_limit": self.packed / self.limit if self.limit else None,
            "times_smaller": self.dense / self.packed if self.packed else None,
        }


@dataclass
class RoundingError:
    """Error of rounding in one part of a model.

    Attributes:
        largest: largest |difference|.
        differences: sum of difference^2.
        weights: sum of weight^2.
    """

    largest: float = 0.0
    differences: float = 0.0
    weights: float = 0.0

    def __iadd__(self, other: RoundingError) -> RoundingError:
        self.largest = max(self.largest, other.largest)
        self.differences += other.differences
        self.weights += other.weights
        return self

    def add(self, before: npt.NDArray[np.float32], after: npt.NDArray[np.float32]) -> None:
        """Add the error of one weight."""
        difference = after - before
        self.largest = max(self.largest, float(np.abs(difference).max()))
        self.differences += float(np.vdot(difference, difference))
        self.weights += float(np.vdot(before, before))

    def to_json(self) -> dict[str, float]:
        """Largest error, and relative error: the root of sum(difference^2) / sum(weight^2)."""
        return {"largest": self.largest, "relative": (self.differences / self.weights) ** 0.5 if self.weights else 0.0}


@dataclass
class Sizes:
    """Sizes of a packed file in bytes: `files` is configuration and tokenizer, `index` the index and header."""

    file: str
    members: list[str]
    values: str
    parts: dict[str, Part] = field(default_factory=lambda: {name: Part() for name in PARTS})
    errors: dict[str, RoundingError] = field(default_factory=lambda: {name: RoundingError() for name in PARTS})
    files: int = 0
    total: int = 0

    @property
    def model(self) -> Part:
        """All tensors."""
        return sum(self.parts.values(), Part())

    @property
    def index(self) -> int:
        """Bytes of the index and the header."""
        return self.total - self.files - self.model.packed

    def to_json(self) -> dict[str, Any]:
        """All sizes as values for JSON."""
        parts = {name: part.to_json() for name, part in (*self.parts.items(), ("model", self.model))}
        rounded = {name: error.to_json() for name, error in self.errors.items() if error.weights}
        return {
            "file": self.file,
            "members": self.members,
            "values": self.values,
            "bytes": self.total,
            "parts": parts,
            "files_bytes": self.files,
            "index_bytes": self.index,
            "rounding": rounded,
        }
