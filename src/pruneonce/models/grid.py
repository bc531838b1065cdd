"""Quantization grids (a weight is an integer times a scale), and the file that records them beside the weights.

This module has the grid in NumPy. `pruneonce.quantization.functions` has the same grid in PyTorch, for training, on any
device. Both use the constants of this module, and a test checks that their scales and integers are equal, bit for bit.

This package makes symmetric grids without -2^(b-1): `|q| <= 2^(b-1) - 1`. A grid from a file may use -2^(b-1), as int8
weights of other makers do: `Grid.quantize` returns it, so that their models are packed without loss. With a scale of
`fit`, no weight reaches it.

Quantization-aware training and `pruneonce unpack` record the grids of their weights with `save`. `pruneonce pack` reads
them with `load`, and then packs without loss.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from pruneonce.errors import UserError

FILE = "quantization.safetensors"
FORMAT = {"format": "pruneonce-quantization", "version": "1"}
SUFFIX = ".scale"
BITS = range(2, 9)
# Scales are rounded up to 8 significant bits: the error grows by under 1 %, and a scale takes some 10 bits, not 26.
SCALE_CARRY, SCALE_MASK = 0xFFFF, 0xFFFF0000  # added to the bits of a float32, then applied to them

Floats = npt.NDArray[np.float32]
Int8s = npt.NDArray[np.int8]


def largest_integer(bits: int) -> int:
    """Largest integer `2^(b-1) - 1` of a grid: 127 for 8 bits, 7 for 4."""
    return int(2 ** (bits - 1) - 1)


@dataclass(frozen=True, eq=False)
class Grid:
    """Symmetric quantization grid `weight = q * scale` in float32, on which 0 is exactly 0.

    Attributes:
        bits: of the integers q, 2 to 8.
        scale: float32, positive; [1], [out_channels], or [out_channels, groups] with equal groups along the input.
    """

    bits: int
    scale: Floats

    def __post_init__(self) -> None:
        if self.bits not in BITS or self.scale.ndim not in (1, 2) or self.scale.dtype != np.float32:
            raise ValueError("a grid has 2 to 8 bits and float32 scales in one or two dimensions")
        if not (np.isfinite(self.scale) & (self.scale > 0)).all():
            raise ValueError("the scales of a grid are positive numbers")

    @property
    def highest(self) -> int:
        """The largest integer of the grid."""
        return largest_integer(self.bits)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Return whether the scales fit a weight of this shape."""
        if len(shape) < 2 or 0 in shape:
            return False
        inputs = int(np.prod(shape[1:]))
        channels, groups = self.scale.shape if self.scale.ndim == 2 else (self.scale.size, 1)
        return (channels == shape[0] or self.scale.shape == (1,)) and groups > 0 and inputs % groups == 0

    def quantize(self, weight: Floats) -> Int8s:
        """Round a weight to the nearest integers, in its shape."""
        with np.errstate(over="ignore"):  # a weight far off the grid is set to its end
            nearest = np.rint(self._grouped(weight) / self._spread())
        return np.clip(nearest, -self.highest - 1, self.highest).astype(np.int8).reshape(weight.shape)

    def dequantize(self, integers: Int8s) -> Floats:
        """Multiply integers by their scales, in their shape."""
        with np.errstate(over="ignore"):
            return (self._grouped(integers).astype(np.float32) * self._spread()).reshape(integers.shape)

    def _grouped(self, array: npt.NDArray) -> npt.NDArray:
        return array.reshape(len(array), self.scale.shape[1] if self.scale.ndim == 2 else 1, -1)

    def _spread(self) -> Floats:
        """Scales [out_channels or 1, groups or 1, 1], to multiply the arrays of `_grouped`."""
        return self.scale.reshape(self.scale.shape[0], -1, 1)


def fit(weight: Floats, bits: int, groups: int = 1) -> Grid:
    """Fit a grid to the largest magnitude of every output channel (and group of inputs).

    The scale `max|w| / (2^(bits-1) - 1)` is rounded up to 8 significant bits, those of bfloat16. The scale of zeros
    alone is 1.
    """
    largest = np.abs(weight.reshape(len(weight), groups, -1)).max(axis=2)
    exact = (largest / np.float32(largest_integer(bits))).astype(np.float32)
    exact = np.maximum(exact, np.finfo(np.float32).tiny)  # a subnormal scale would divide inexactly
    scale = ((exact.view(np.uint32) + np.uint32(SCALE_CARRY)) & np.uint32(SCALE_MASK)).view(np.float32)
    return Grid(
        bits, np.where(largest == 0, np.float32(1), scale).reshape(len(weight), *([groups] if groups > 1 else []))
    )


def save(folder: Path, grids: Mapping[str, Grid]) -> None:
    """Record the grids of a model folder's weights, by their names in model.safetensors."""
    scales = {name + SUFFIX: grid.scale for name, grid in grids.items()}
    bits = json.dumps({name: grid.bits for name, grid in grids.items()}, sort_keys=True)
    save_file(scales, folder / FILE, metadata={**FORMAT, "bits": bits})


def load(folder: Path) -> dict[str, Grid]:
    """Read the grids that `save` recorded; return an empty dictionary if there is no file.

    Raises:
        UserError: the file is damaged or has another format.
    """
    file = folder / FILE
    if not file.is_file():
        return {}
    try:
        with safe_open(file, framework="np") as opened:
            recorded = opened.metadata() or {}
        scales = load_file(file)
        bits = json.loads(recorded["bits"])
        if recorded.get("format") != FORMAT["format"] or set(scales) != {name + SUFFIX for name in bits}:
            raise ValueError("not a list of scales with their bits")
        return {name: Grid(width, scales[name + SUFFIX]) for name, width in bits.items()}
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{file} does not record quantization grids: {error}; remove it to quantize anew") from None
