"""Encoding of a tensor into streams, and decoding."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pruneonce.models.grid import Grid
from pruneonce.storage import coding, sizes
from pruneonce.storage.coding import Bools, DamagedError, Int8s
from pruneonce.storage.container import PackedFile
from pruneonce.storage.index import DTYPES, Coded, Scales, Tensor

Array = npt.NDArray[np.generic]
CODES = {dtype: code for code, dtype in DTYPES.items()}

# Stores a stream with its entropy limit in bits, and returns its number.
Add = Callable[[bytes, float], int]


@dataclass(frozen=True, eq=False)
class Content:
    """Content of a tensor: `stored` is the tensor itself or, with a `grid`, its integers in the same shape."""

    stored: Array
    grid: Grid | None = None

    @property
    def numbers(self) -> Array:
        """The unpacked tensor."""
        return self.grid.dequantize(self.stored) if self.grid else self.stored  # type: ignore[arg-type]

    @property
    def kept(self) -> Bools:
        """Mask [n] of the numbers to store: all but those with all bits 0. A -0.0 is stored, to restore its sign."""
        flat = np.ascontiguousarray(self.stored).ravel()
        return flat.view(f"u{flat.dtype.itemsize}") != 0


def encode(name: str, content: Content, kept: Bools | None, add: Add) -> Tensor:
    """Encode a tensor into streams.

    Args:
        name: of the tensor in the model.
        content: the content.
        kept: [n], pattern of the numbers to store, which may include zeros; None stores every number.
        add: stores a stream.
    """
    flat = content.stored.ravel()
    pattern = None
    if kept is not None:
        kind, data = coding.encode_pattern(kept)
        limit = sizes.pattern_limit(int(kept.sum()), kept.size)
        pattern = Coded(stream=add(data, limit), coding=kind)  # type: ignore[arg-type]
        flat = flat[kept]
    grid = None
    if content.grid:
        integers: Int8s = flat  # type: ignore[assignment]
        kind, data = coding.encode_values(integers, content.grid.bits)
        values = Coded(stream=add(data, sizes.values_limit(integers)), coding=kind)  # type: ignore[arg-type]
        scale = add(coding.encode_planes(content.grid.scale.ravel()), 0.0)
        grid = Scales(bits=content.grid.bits, shape=content.grid.scale.shape, stream=scale)
    else:
        values = Coded(stream=add(coding.encode_planes(flat), sizes.planes_limit(flat)), coding="planes")
    dtype = "F32" if grid else CODES[content.stored.dtype]
    return Tensor(name=name, dtype=dtype, shape=content.stored.shape, values=values, pattern=pattern, grid=grid)  # type: ignore[arg-type]


def decode(tensor: Tensor, file: PackedFile) -> Content:
    """Decode the content of a tensor that `encode` stored.

    Raises:
        DamagedError: the streams do not fit the tensor.
    """
    kept = None
    count = tensor.size
    if tensor.pattern:
        kept = coding.decode_pattern(tensor.pattern.coding, file.stream(tensor.pattern.stream), tensor.size)
        count = int(kept.sum())
    data = file.stream(tensor.values.stream)
    grid = None
    values: Array
    if tensor.grid:
        grid = _decode_grid(tensor.grid, file)
        if not grid.fits(tensor.shape):
            raise DamagedError(f"the quantization grid of {tensor.name} does not fit its shape")
        values = coding.decode_values(tensor.values.coding, data, count)
    else:
        values = coding.decode_planes(data, DTYPES[tensor.dtype], count)
    if kept is not None:
        dense = np.zeros(tensor.size, values.dtype)
        dense[kept] = values
        values = dense
    return Content(values.reshape(tensor.shape), grid)


def _decode_grid(stored: Scales, file: PackedFile) -> Grid:
    scale = coding.decode_planes(file.stream(stored.stream), DTYPES["F32"], int(np.prod(stored.shape)))
    try:
        return Grid(stored.bits, scale.reshape(stored.shape))  # type: ignore[arg-type]
    except ValueError as error:
        raise DamagedError(str(error)) from None


class WeightsHash:
    """Hash (sha256) of name, type, shape and bytes of tensors, to be added in the order of names."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, name: str, numbers: Array) -> None:
        """Add a tensor."""
        self._digest.update(f"{name} {CODES[numbers.dtype]} {list(numbers.shape)}\n".encode())
        self._digest.update(np.ascontiguousarray(numbers).reshape(-1).view(np.uint8).data)

    def hexdigest(self) -> str:
        """The hash."""
        return self._digest.hexdigest()


def weights_hash(tensors: Mapping[str, Array]) -> str:
    """Hash of tensors, as `WeightsHash`."""
    digest = WeightsHash()
    for name in sorted(tensors):
        digest.add(name, tensors[name])
    return digest.hexdigest()
