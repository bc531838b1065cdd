"""Tensors of a member as parts of a `Network`, each checked against the shape that config.json asks for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pruneonce_runtime.errors import PruneonceError
from pruneonce_runtime.file import Member, Weight
from pruneonce_runtime.spec import MAX_INPUTS, Floats, Linear, Matrix, Norm, Table

INPUTS = "quantized_inputs.json"


class Weights:
    """
    Args:
        prefix: of the base model's tensors where there is a head; names are given without it.
    """

    def __init__(self, member: Member, prefix: str) -> None:
        self.member = member
        self._prefix = prefix
        self._inputs = member.json(INPUTS) or {}
        if not isinstance(self._inputs, dict):
            raise PruneonceError(f"{member.packed.path} is damaged: {INPUTS} is not an object")

    def linear(self, name: str, outputs: int, inputs: int, biased: bool = True) -> Linear:
        full = self._full_name(f"{name}.weight")
        weight = self._weight(full, (outputs, inputs))
        bias = self.floats(f"{name}.bias", (outputs,)) if biased else None
        matrix = Matrix((outputs, inputs), weight.values, weight.pattern)
        if weight.scale is None:
            return Linear(matrix, bias=bias)
        scale, zero = self._input_grid(full.removesuffix(".weight"))
        grouped = weight.scale.ndim == 2 and weight.scale.shape[1] > 1
        if scale is not None and (grouped or inputs > MAX_INPUTS):
            raise PruneonceError(
                f"{self.member.packed.path}: {full} has quantized inputs with groups of weights, or more than "
                f"{MAX_INPUTS} inputs, which is not supported"
            )
        rows = weight.scale if grouped else weight.scale.reshape(-1)
        return Linear(matrix, weight.bits or 8, rows, bias, scale, zero)

    def table(self, name: str, rows: int, width: int) -> Table:
        weight = self._weight(self._full_name(f"{name}.weight"), (rows, width))
        if weight.scale is None:
            return Table(_frozen(weight.dense()))
        if weight.scale.size not in (1, rows):
            return Table(_frozen(weight.numbers()))
        scale = weight.scale.reshape(-1)
        return Table(_frozen(weight.dense()), scale if scale.size == rows else _frozen(np.full(rows, scale[0])))

    def norm(self, name: str, width: int, eps: float, biased: bool) -> Norm:
        bias = self.floats(f"{name}.bias", (width,)) if biased else None
        return Norm(self.floats(f"{name}.weight", (width,)), bias, eps)

    def floats(self, name: str, shape: tuple[int, ...]) -> Floats:
        """A tensor as float32, whatever it is stored as."""
        numbers: Floats = _frozen(self._weight(self._full_name(name), shape).numbers())
        return numbers

    def _full_name(self, name: str) -> str:
        tensors = self.member.tensors
        prefixed = self._prefix + name
        if prefixed in tensors or name in tensors:
            return prefixed if prefixed in tensors else name
        raise PruneonceError(f"{self.member.packed.path} has no weights for {name}")

    def _weight(self, name: str, shape: tuple[int, ...]) -> Weight:
        """The stored tensor; numbers without a grid are float32, shared with other members where they are stored so."""
        stored = self.member.tensors[name]
        if stored.shape != shape or not stored.dtype.startswith("F"):
            raise PruneonceError(
                f"{self.member.packed.path} is damaged: {name} is {stored.dtype} {list(stored.shape)}, and config.json "
                f"asks for numbers {list(shape)}"
            )
        weight = self.member.weight(name)
        if weight.scale is None and weight.values.dtype != np.float32:
            return Weight(shape, _frozen(weight.values), weight.pattern)
        return weight

    def _input_grid(self, module: str) -> tuple[np.float32 | None, int]:
        """Scale and zero point of a module's inputs; no scale where they are not quantized."""
        if module not in self._inputs:
            return None, 0
        grid: Any = self._inputs[module]
        try:
            with np.errstate(over="ignore", divide="ignore"):
                scale, zero = np.float32(float(grid["scale"])), int(grid["zero_point"])
                is_grid = scale > 0 and math.isfinite(scale) and math.isfinite(np.float32(1) / scale)
        except (KeyError, TypeError, ValueError, OverflowError):
            is_grid, scale, zero = False, np.float32(0), 0
        if not (is_grid and 0 <= zero <= 255):
            raise PruneonceError(
                f"{self.member.packed.path} is damaged: {INPUTS} has no scale and zero point for {module}"
            )
        return scale, zero


def _frozen(array: Any) -> Any:
    """The array itself where it is float32 or int8, C-contiguous and little-endian, else a float32 copy; read-only."""
    kind = np.int8 if array.dtype == np.int8 else np.float32
    found = np.ascontiguousarray(array, kind)
    found.flags.writeable = False
    return found
