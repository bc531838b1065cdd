"""The index of a packed file: what is where in it, and the checks that it passes before anything is read by it.

docs/format.md of the repository describes every field. Sizes are bounded here, before anything of that size exists.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, TypeVar

import numpy as np

from pruneonce_runtime.coding import DamagedError

T = TypeVar("T")

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

# Bounds, far above any encoder's: what a file may make its reader allocate.
MAX_INDEX = 1 << 24  # bytes
MAX_NUMBERS = 1 << 30  # of one member
MAX_FILE = 1 << 26  # bytes
MAX_EXPANSION = 1024  # bytes unpacked for a byte of the file; at 99 % zeros in int8 it is 200
EXPANSION_FREE = 1 << 22  # bytes; a tiny model expands more
MAX_COUNT = (1 << 63) - 1

FILE_NAME = r"(?:\d{1,2}_[A-Za-z]+/)?[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\.(?:json|txt|md|model|jinja|safetensors)"
MEMBER_NAME = r"[A-Za-z0-9_][A-Za-z0-9_. -]{0,99}"
TENSOR_NAME = r"[A-Za-z0-9_.-]{1,300}"
SHA256 = r"[0-9a-f]{64}"


@dataclass(frozen=True)
class Coded:
    """A stream by its number, and how it is coded: see `coding`."""

    stream: int
    coding: str


@dataclass(frozen=True)
class Scales:
    """A quantization grid; its scales are float32 planes."""

    bits: int
    shape: tuple[int, ...]
    stream: int


@dataclass(frozen=True)
class Tensor:
    """`pattern` says which numbers `values` are (all, where there is none); with a `grid` they are its integers."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    values: Coded
    pattern: Coded | None = None
    grid: Scales | None = None

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Of the unpacked tensor."""
        return self.size * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class File:
    """`size` is that of the content."""

    name: str
    size: int
    stream: int


@dataclass(frozen=True)
class Member:
    """One model. `sha256` is over its tensors as unpacked."""

    sha256: str
    tensors: tuple[Tensor, ...]
    files: tuple[File, ...]


@dataclass(frozen=True)
class Index:
    """`streams` are the lengths of the streams in `data`, in order."""

    streams: tuple[int, ...]
    members: dict[str, Member]


def parse(content: bytes, stored: int) -> Index:
    """The index in `content`, JSON of at most `MAX_INDEX` bytes.

    Args:
        stored: bytes of `data`.

    Raises:
        DamagedError: at the first thing that is wrong.
    """
    index = _index(load_json(content), "")
    _check(index, stored)
    return index


def load_json(content: bytes) -> Any:
    """JSON in UTF-8, without the constants NaN and Infinity, and with every key of an object once.

    Raises:
        DamagedError: it is not.
    """
    try:
        return json.loads(content.decode(), parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"JSON that cannot be read ({error})") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key comes twice")
    return values


# -- schema: each function takes a value and the place of it, and gives what it means ----------------------------


def _wrong(at: str) -> DamagedError:
    return DamagedError(f"its index is wrong at `{at[1:]:.200}`")


def _integer(low: int, high: int) -> Callable[[Any, str], int]:
    def check(value: Any, at: str) -> int:
        if type(value) is not int or not low <= value <= high:
            raise _wrong(at)
        return value

    return check


def _text(pattern: str) -> Callable[[Any, str], str]:
    def check(value: Any, at: str) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise _wrong(at)
        return value

    return check


def _list_of(item: Callable[[Any, str], T], most: int = MAX_INDEX) -> Callable[[Any, str], tuple[T, ...]]:
    def check(value: Any, at: str) -> tuple[T, ...]:
        if not isinstance(value, list) or len(value) > most:
            raise _wrong(at)
        return tuple(item(each, f"{at}.{number}") for number, each in enumerate(value))

    return check


def _record(
    make: Callable[..., T], optional: tuple[str, ...] = (), **fields: Callable[[Any, str], Any]
) -> Callable[[Any, str], T]:
    """An object with these fields and no other; optional ones may be absent or null."""

    def check(value: Any, at: str) -> T:
        if not isinstance(value, dict):
            raise _wrong(at)
        if unknown := sorted(value.keys() - fields.keys()):
            raise _wrong(f"{at}.{unknown[0]}")
        values = {}
        for name, field in fields.items():
            if name in optional and value.get(name) is None:
                continue
            if name not in value:
                raise _wrong(f"{at}.{name}")
            values[name] = field(value[name], f"{at}.{name}")
        return make(**values)

    return check


def _members(value: Any, at: str) -> dict[str, Member]:
    if not isinstance(value, dict) or not value:
        raise _wrong(at)
    for name in value:
        if not re.fullmatch(MEMBER_NAME, name):
            raise DamagedError(f"{name[:120]!r} is no name for a member")
    return {name: _member(each, f"{at}.{name}") for name, each in value.items()}


_count = _integer(0, MAX_COUNT)
_shape = _list_of(_integer(0, MAX_NUMBERS), most=8)
_coded = _record(Coded, stream=_count, coding=_text("gaps|bits|bytes|nibbles|planes"))
_scales = _record(Scales, bits=_integer(2, 8), shape=_shape, stream=_count)
_tensor = _record(
    Tensor,
    ("pattern", "grid"),
    name=_text(TENSOR_NAME),
    dtype=_text("|".join(DTYPES)),
    shape=_shape,
    values=_coded,
    pattern=_coded,
    grid=_scales,
)
_file = _record(File, name=_text(r"(?s:.*)"), size=_integer(0, MAX_FILE), stream=_count)
_member = _record(Member, sha256=_text(SHA256), tensors=_list_of(_tensor), files=_list_of(_file))
_index = _record(Index, streams=_list_of(_count), members=_members)


# -- what the types of fields do not say -------------------------------------------------------------------------


def _check(index: Index, stored: int) -> None:
    if sum(index.streams) != stored:
        raise DamagedError("its streams are not as long as its data")
    unpacked = 0
    for member in index.members.values():
        if sum(tensor.size for tensor in member.tensors) > MAX_NUMBERS:
            raise DamagedError(f"it declares more than {MAX_NUMBERS:,} numbers")
        _check_names([tensor.name for tensor in member.tensors], [file.name for file in member.files])
        for tensor in member.tensors:
            _check_tensor(tensor, len(index.streams))
        if any(file.stream >= len(index.streams) for file in member.files):
            raise DamagedError("a file has no stream")
        unpacked += sum(tensor.bytes for tensor in member.tensors) + sum(file.size for file in member.files)
    if unpacked > EXPANSION_FREE + MAX_EXPANSION * stored:
        raise DamagedError("it declares far more than its bytes can hold")


def _check_names(tensors: list[str], files: list[str]) -> None:
    if len(set(tensors)) < len(tensors) or "__metadata__" in tensors:
        raise DamagedError("two tensors have one name")
    if len({name.lower() for name in files}) < len(files):
        raise DamagedError("two files have one name")
    for name in files:
        if not re.fullmatch(FILE_NAME, name) or ("/" not in name and name.endswith(".safetensors")):
            raise DamagedError(f"it holds a file called {name[:120]!r}")


def _check_tensor(tensor: Tensor, streams: int) -> None:
    if any(part and part.stream >= streams for part in (tensor.values, tensor.pattern, tensor.grid)):
        raise DamagedError(f"{tensor.name} has no stream")
    if tensor.pattern and tensor.pattern.coding not in ("gaps", "bits"):
        raise DamagedError(f"{tensor.name} has no zero pattern")
    if tensor.values.coding not in (("bytes", "nibbles") if tensor.grid else ("planes",)):
        raise DamagedError(f"{tensor.name} has no values")
    if tensor.grid and (tensor.dtype != "F32" or prod(tensor.grid.shape) > tensor.size):
        raise DamagedError(f"{tensor.name} has no quantization grid")
