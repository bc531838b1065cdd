"""The container: a safetensors file of two byte tensors, `index` (compressed JSON) and `data` (streams end to end).

docs/format.md describes every field. What is read here is not trusted: everything is checked before it is used, and
sizes are bounded before anything of that size is allocated.
"""

from __future__ import annotations

import hashlib
import re
from math import prod
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pruneonce.errors import UserError
from pruneonce.storage import coding
from pruneonce.storage.coding import DamagedError

FORMAT = "pruneonce-packed"
VERSION = 1
SUFFIX = ".pruneonce"

DTYPES = {
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

# A file of a model folder, or of one of its sentence-transformers modules: nothing outside, hidden, or executable.
FILE_NAME = r"(?:\d{1,2}_[A-Za-z]+/)?[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\.(?:json|txt|md|model|jinja|safetensors)"
MEMBER_NAME = r"[A-Za-z0-9_][A-Za-z0-9_. -]{0,99}"

Count = Annotated[int, Field(ge=0)]
Shape = Annotated[tuple[Annotated[int, Field(ge=0, le=MAX_NUMBERS)], ...], Field(max_length=8)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Coded(_Record):
    """A stream by its number, and how it is coded: see `coding`."""

    stream: Count
    coding: Literal["gaps", "bits", "bytes", "nibbles", "planes"]


class Scales(_Record):
    """A quantization grid; its scales are float32 planes."""

    bits: Annotated[int, Field(ge=2, le=8)]
    shape: Shape
    stream: Count


class Tensor(_Record):
    """`pattern` says which numbers `values` are (all, where there is none); with a `grid` they are its integers."""

    name: Annotated[str, Field(min_length=1, max_length=300)]
    dtype: Literal["F64", "F32", "F16", "I64", "I32", "I16", "I8", "U8", "BOOL"]
    shape: Shape
    values: Coded
    pattern: Coded | None = None
    grid: Scales | None = None

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.size * DTYPES[self.dtype].itemsize


class File(_Record):
    name: str
    size: Annotated[int, Field(ge=0, le=MAX_FILE)]
    stream: Count


class Member(_Record):
    """One model. `sha256` is `weights_hash` of its tensors as unpacked."""

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    tensors: list[Tensor]
    files: list[File]


class Index(_Record):
    """`streams` are the lengths of the streams in `data`, in order."""

    streams: list[Count]
    members: dict[str, Member]


class Writer:
    """Collects streams; equal ones are stored once."""

    def __init__(self) -> None:
        self._streams: list[bytes] = []
        self._numbers: dict[bytes, int] = {}

    def add(self, stream: bytes) -> tuple[int, bool]:
        """The stream's number, and whether it is a new one."""
        number = self._numbers.setdefault(hashlib.sha256(stream).digest(), len(self._streams))
        is_new = number == len(self._streams)
        if is_new:
            self._streams.append(stream)
        return number, is_new

    def write(self, members: dict[str, Member], file: Path) -> None:
        index = Index(streams=[len(stream) for stream in self._streams], members=members)
        parts = {
            "index": coding.compress_text(index.model_dump_json(exclude_none=True).encode()),
            "data": b"".join(self._streams),
        }
        metadata = {"format": FORMAT, "version": str(VERSION), "sha256": _hash(parts["index"], parts["data"])}
        save_file({name: np.frombuffer(part, np.uint8) for name, part in parts.items()}, file, metadata=metadata)


class PackedFile:
    """A packed file that was read and checked: `index`, and `stream(number)`.

    Raises:
        UserError: there is no such file, it is of another kind or a newer version, or it is damaged.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise UserError(f"no packed file at {path}")
        self.path = path
        index, self._data = _read_parts(path)
        try:
            if coding.content_size(index) > MAX_INDEX:
                raise DamagedError("its index is too large")
            self.index = Index.model_validate_json(coding.decompress(index, coding.content_size(index)))
            self._ends = np.cumsum([0, *self.index.streams], dtype=object)
            _check(self.index, len(self._data))
        except DamagedError as error:
            raise UserError(f"{path} is damaged: {error}") from None
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"]))
            raise UserError(f"{path} is damaged: its index is wrong at `{where}`") from None

    def stream(self, number: int) -> bytes:
        return self._data[self._ends[number] : self._ends[number + 1]]


def _read_parts(path: Path) -> tuple[bytes, bytes]:
    """The bytes of index and data, which have the hash that the header tells."""
    try:
        with safe_open(path, framework="np") as opened:
            metadata = opened.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise UserError(f"{path} is a safetensors file, but not one that `pruneonce pack` made")
            if metadata.get("version") != str(VERSION):
                raise UserError(
                    f"{path} has format version {metadata.get('version')}, and this pruneonce reads version {VERSION}; "
                    "install a newer one"
                )
            if sorted(opened.keys()) != ["data", "index"]:
                raise UserError(f"{path} is damaged: it has other parts than `index` and `data`")
            found = [opened.get_tensor(name) for name in ("index", "data")]
    except SafetensorError as error:
        raise UserError(f"{path} is not a packed file, or is damaged: {error}") from None
    if any(part.dtype != np.uint8 or part.ndim != 1 for part in found):
        raise UserError(f"{path} is damaged: its parts are not bytes")
    index, data = (part.tobytes() for part in found)
    if metadata.get("sha256") != _hash(index, data):
        raise UserError(f"{path} is damaged: its bytes are not those that were written")
    return index, data


def _hash(index: bytes, data: bytes) -> str:
    return hashlib.sha256(index + data).hexdigest()


def _check(index: Index, stored: int) -> None:
    """Everything about an index that its fields' types do not say.

    Raises:
        DamagedError: at the first thing that is wrong.
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
    """Whether a file may travel: by its ending, and inside the folder; weights at the top are tensors, not files."""
    return bool(re.fullmatch(FILE_NAME, name)) and ("/" in name or not name.endswith(".safetensors"))


def _check_tensor(tensor: Tensor, streams: int) -> None:
    coded = [tensor.values, *([tensor.pattern] if tensor.pattern else []), *([tensor.grid] if tensor.grid else [])]
    if any(part.stream >= streams for part in coded):
        raise DamagedError(f"{tensor.name} has no stream")
    if tensor.pattern and tensor.pattern.coding not in ("gaps", "bits"):
        raise DamagedError(f"{tensor.name} has no zero pattern")
    if tensor.values.coding not in (("bytes", "nibbles") if tensor.grid else ("planes",)):
        raise DamagedError(f"{tensor.name} has no values")
    if tensor.grid and (tensor.dtype != "F32" or prod(tensor.grid.shape) > tensor.size):
        raise DamagedError(f"{tensor.name} has no quantization grid")
