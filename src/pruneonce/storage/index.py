"""Index of a packed file: the place of every tensor and file, and the checks of an index before use.

docs/format.md describes every field. An index is not trusted: sizes are bounded before memory of that size is
allocated, and names cannot leave the folder of unpacking.
"""

from __future__ import annotations

import re
from math import prod
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from pruneonce.models.source import FLOATS
from pruneonce.storage.coding import DamagedError

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}

# Bounds of a reader's allocations, far above the size of any encoder.
MAX_INDEX = 1 << 24  # bytes
MAX_NUMBERS = 1 << 30  # of one member
MAX_FILE = 1 << 26  # bytes
MAX_EXPANSION = 1024  # bytes unpacked for a byte of the file; at 99 % zeros in int8 it is 200
EXPANSION_FREE = 1 << 22  # bytes; a tiny model expands more

# A file of a model folder, or of one of its sentence-transformers modules: nothing outside, hidden, or executable.
FILE_NAME = r"(?:\d{1,2}_[A-Za-z]+/)?[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\.(?:json|txt|md|model|jinja|safetensors)"
MEMBER_NAME = r"[A-Za-z0-9_][A-Za-z0-9_. -]{0,99}"

Count = Annotated[int, Field(ge=0)]
Shape = Annotated[tuple[Annotated[int, Field(ge=0, le=MAX_NUMBERS)], ...], Field(max_length=8)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Coded(_Record):
    """Number of a stream, and its coding: see `coding`."""

    stream: Count
    coding: Literal["gaps", "bits", "bytes", "nibbles", "planes"]


class Scales(_Record):
    """Quantization grid; its scales are stored as float32 planes."""

    bits: Annotated[int, Field(ge=2, le=8)]
    shape: Shape
    stream: Count


class Tensor(_Record):
    """One tensor.

    Attributes:
        name: in the model.
        dtype: type of the numbers, by its name in safetensors.
        shape: of the tensor.
        values: the kept numbers; with a `grid`, their integers.
        pattern: the places of the kept numbers; None: all numbers are kept.
        grid: quantization grid of the numbers; None: not quantized.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,300}$")]
    dtype: Literal["F64", "F32", "F16", "I64", "I32", "I16", "I8", "U8", "BOOL"]
    shape: Shape
    values: Coded
    pattern: Coded | None = None
    grid: Scales | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Size of the unpacked tensor."""
        return self.size * DTYPES[self.dtype].itemsize


class File(_Record):
    """Small file of a model folder, by name, unpacked size in bytes, and number of its stream."""

    name: str
    size: Annotated[int, Field(ge=0, le=MAX_FILE)]
    stream: Count


class Member(_Record):
    """One model; `sha256` is the `weights_hash` of its unpacked tensors."""

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    tensors: list[Tensor]
    files: list[File]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the floating-point tensors by name."""
        return {tensor.name: tensor.shape for tensor in self.tensors if tensor.dtype in FLOATS}


class Index(_Record):
    """Index of a packed file; `streams` are the lengths in bytes of the streams in `data`, in order."""

    streams: list[Count]
    members: dict[str, Member]


def check(index: Index, stored: int) -> None:
    """Check the constraints of an index beyond the types of its fields.

    Args:
        index: the index.
        stored: bytes of `data`.

    Raises:
        DamagedError: a constraint is violated; the message names the first.
    """
    if sum(index.streams) != stored:
        raise DamagedError("its streams are not as long as its data")
    if not index.members:
        raise DamagedError("it has no member")
    unpacked = 0
    for name, member in index.members.items():
        if not re.fullmatch(MEMBER_NAME, name):
            raise DamagedError(f"{name!r} is no name for a member")
        if sum(tensor.size for tensor in member.tensors) > MAX_NUMBERS:
            raise DamagedError(f"it declares more than {MAX_NUMBERS:,} numbers")
        _check_names([tensor.name for tensor in member.tensors], [file.name for file in member.files])
        for tensor in member.tensors:
            _check_tensor(tensor, len(index.streams))
        if any(file.stream >= len(index.streams) for file in member.files):
            raise DamagedError("a file has no stream")
        unpacked += sum(part.bytes for part in member.tensors) + sum(file.size for file in member.files)
    if unpacked > EXPANSION_FREE + MAX_EXPANSION * stored:
        raise DamagedError("it declares far more than its bytes can hold")


def _check_names(tensors: list[str], files: list[str]) -> None:
    if len(set(tensors)) < len(tensors) or "__metadata__" in tensors:
        raise DamagedError("two tensors have one name")
    if len({name.lower() for name in files}) < len(files):
        raise DamagedError("two files have one name")
    for name in files:
        if not is_file_name(name):
            raise DamagedError(f"it holds a file called {name!r}")


def is_file_name(name: str) -> bool:
    """Return whether a file may be packed: a known ending, inside the folder, and not the model's own weights."""
    return bool(re.fullmatch(FILE_NAME, name)) and ("/" in name or not name.endswith(".safetensors"))


def _check_tensor(tensor: Tensor, streams: int) -> None:
    if any(part and part.stream >= streams for part in (tensor.values, tensor.pattern, tensor.grid)):
        raise DamagedError(f"{tensor.name} has no stream")
    if tensor.pattern and tensor.pattern.coding not in ("gaps", "bits"):
        raise DamagedError(f"{tensor.name} has no zero pattern")
    if tensor.values.coding not in (("bytes", "nibbles") if tensor.grid else ("planes",)):
        raise DamagedError(f"{tensor.name} has no values")
    if tensor.grid and (tensor.dtype != "F32" or prod(tensor.grid.shape) > tensor.size):
        raise DamagedError(f"{tensor.name} has no quantization grid")
