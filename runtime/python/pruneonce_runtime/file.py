"""A .pruneonce file: the container, its members, and their weights as integers and scales.

docs/format.md of the repository describes the layout: a safetensors file of two byte tensors, `index` and `data`.
Nothing of what was read is used before it was checked.

Memory: the bytes of the file; 16 MiB of index as Python objects; of the weights that are in use int8 or float32 of the
kept ones, and a bit of pattern for every weight, each stream once however many members have it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from pruneonce_runtime import coding
from pruneonce_runtime.coding import DamagedError
from pruneonce_runtime.errors import PruneonceError
from pruneonce_runtime.index import DTYPES, MAX_INDEX, Index, Scales, Tensor, load_json, parse
from pruneonce_runtime.spec import Floats, Pattern

T = TypeVar("T")

FORMAT, VERSION = "pruneonce-packed", "1"
MAX_HEADER = 1 << 16  # bytes; ours has some 300
MAX_JSON = 1 << 22  # bytes of a file that Python parses; a configuration with 30,000 labels has 2 MiB
CHUNK = 1 << 20  # weights that are dequantized at a time


@dataclass(frozen=True, eq=False)
class Weight:
    """A tensor as stored: numbers, or integers and their scales.

    Attributes:
        values: of the tensor's shape, or with a pattern [kept].
        bits, scale: of a quantized tensor; scale is float32 [1], [rows] or [rows, groups].
    """

    shape: tuple[int, ...]
    values: npt.NDArray[Any]
    pattern: Pattern | None = None
    bits: int | None = None
    scale: Floats | None = None

    def dense(self) -> npt.NDArray[Any]:
        """Integers or numbers in the tensor's shape; made anew at each call where there is a pattern."""
        if self.pattern is None:
            return self.values
        full = np.zeros(self.pattern.size, self.values.dtype)
        full[self.pattern.mask()] = self.values
        return full.reshape(self.shape)

    def numbers(self) -> npt.NDArray[Any]:
        """The unpacked tensor: `q * scale` in float32 where it is quantized."""
        dense = self.dense()
        return dense if self.scale is None else dequantized(dense, self.scale)


def dequantized(integers: npt.NDArray[Any], scale: Floats) -> Floats:
    """`q * scale` in float32.

    Args:
        integers: [rows, ...].
        scale: [1], [rows] or [rows, groups].
    """
    groups = scale.shape[1] if scale.ndim == 2 else 1
    with np.errstate(over="ignore"):
        spread = integers.reshape(len(integers), groups, -1).astype(np.float32) * scale.reshape(len(scale), groups, 1)
    numbers: Floats = spread.reshape(integers.shape)
    return numbers


class PackedFile:
    """A packed file that was read and checked.

    Attributes:
        members: the names of the models in it.

    Raises:
        PruneonceError: there is no such file, it is of another kind or a newer version, or it is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._shared: WeakValueDictionary[tuple[Any, ...], Any] = WeakValueDictionary()
        with self.reading():
            index, self._data = _read_parts(self.path)
            if coding.content_size(index) > MAX_INDEX:
                raise DamagedError("its index is too large")
            self.index: Index = parse(coding.decompress(index, coding.content_size(index)), len(self._data))
            self._ends = [0, *accumulate(self.index.streams)]

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(self.index.members)

    def member(self, name: str | None = None) -> Member:
        """A model of the file; of a file with one model, that one.

        Raises:
            PruneonceError: there is no such member, or `name` is needed to choose one.
        """
        if name is None and len(self.members) == 1:
            name = self.members[0]
        if name not in self.index.members:
            problem = "is a family: choose a member" if name is None else f"has no member {name!r}"
            raise PruneonceError(f"{self.path} {problem}; it holds {', '.join(self.members)}")
        return Member(self, name)

    def stream(self, number: int) -> memoryview:
        return self._data[self._ends[number] : self._ends[number + 1]]

    def shared(self, key: tuple[Any, ...], make: Callable[[], T]) -> T:
        """What `make` gives, made once as long as somebody holds it."""
        value: T | None = self._shared.get(key)
        if value is None:
            value = make()
            self._shared[key] = value
        return value

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turns what decoders say of damage into one line that names the file."""
        try:
            yield
        except DamagedError as error:
            raise PruneonceError(
                f"{self.path} is damaged: {error}; copy the whole file again, or pack the models again"
            ) from None


class Member:
    """One model of a packed file. Its weights are decoded one by one, when they are asked for."""

    def __init__(self, packed: PackedFile, name: str) -> None:
        self.packed = packed
        self.name = name
        self._entry = packed.index.members[name]
        self.tensors = {tensor.name: tensor for tensor in self._entry.tensors}
        self.files = {file.name: file for file in self._entry.files}

    def weight(self, name: str) -> Weight:
        """A tensor as stored.

        Raises:
            PruneonceError: its streams are damaged.
        """
        tensor = self.tensors[name]
        with self.packed.reading():
            pattern = self._pattern(tensor)
            scale = self._scale(tensor.grid, tensor) if tensor.grid else None
            values = self._values(tensor, tensor.size if pattern is None else pattern.kept)
        if pattern is None:
            values = values.reshape(tensor.shape)
        return Weight(tensor.shape, values, pattern, tensor.grid.bits if tensor.grid else None, scale)

    def _pattern(self, tensor: Tensor) -> Pattern | None:
        stored = tensor.pattern
        if stored is None:
            return None
        key = ("pattern", stored.stream, stored.coding, tensor.size)
        stream = self.packed.stream(stored.stream)
        return self.packed.shared(key, lambda: coding.decode_pattern(stored.coding, stream, tensor.size))

    def _values(self, tensor: Tensor, count: int) -> npt.NDArray[Any]:
        stored, grid = tensor.values, tensor.grid
        stream = self.packed.stream(stored.stream)

        def decode() -> npt.NDArray[Any]:
            if grid is None:
                return coding.decode_planes(stream, DTYPES[tensor.dtype], count)
            values = coding.decode_values(stored.coding, stream, count)
            most = 1 << (grid.bits - 1)
            if values.size and not -most <= values.min() <= values.max() < most:
                raise DamagedError(f"an integer of {tensor.name} has more than {grid.bits} bits")
            return values

        kind = tensor.dtype if grid is None else f"{stored.coding} {grid.bits}"
        return self.packed.shared(("values", stored.stream, kind, count), decode)

    def _scale(self, grid: Scales, tensor: Tensor) -> Floats:
        def decode() -> Floats:
            scale: Floats = coding.decode_planes(stream, DTYPES["F32"], prod(grid.shape))
            if not (np.isfinite(scale) & (scale > 0)).all():
                raise DamagedError(f"the scales of {tensor.name} are not positive numbers")
            return scale

        if not _fits(grid.shape, tensor.shape):
            raise DamagedError(f"the quantization grid of {tensor.name} does not fit its shape")
        stream = self.packed.stream(grid.stream)
        return self.packed.shared(("scale", grid.stream, prod(grid.shape)), decode).reshape(grid.shape)

    def file(self, name: str) -> bytes | None:
        """The content of a file that travels with the weights; None where there is no such file.

        Raises:
            PruneonceError: its stream is damaged.
        """
        if name not in self.files:
            return None
        entry = self.files[name]
        with self.packed.reading():
            return coding.decompress(self.packed.stream(entry.stream), entry.size)

    def json(self, name: str) -> Any:
        """The content of a JSON file; None where there is no such file.

        Raises:
            PruneonceError: it is damaged, or larger than 4 MiB.
        """
        with self.packed.reading():
            if name in self.files and self.files[name].size > MAX_JSON:
                raise DamagedError(f"{name} has {self.files[name].size:,} bytes")
            content = self.file(name)
            return None if content is None else load_json(content)

    def verify(self) -> None:
        """Compare the unpacked weights with their hash: sha256 over name, type, shape and bytes of every tensor.

        The file's own hash guards its bytes; this one guards their decoding. One tensor at a time is unpacked, and a
        quantized one to float32 by the chunk.

        Raises:
            PruneonceError: the weights are not those that were packed.
        """
        digest = hashlib.sha256()
        for name in sorted(self.tensors):
            tensor = self.tensors[name]
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            weight = self.weight(name)
            dense = np.ascontiguousarray(weight.dense())
            if weight.scale is None:
                digest.update(dense.reshape(-1).view(np.uint8).data)
                continue
            step = max(1, CHUNK * len(dense) // dense.size)
            for start in range(0, len(dense), step):
                scale = weight.scale if weight.scale.shape == (1,) else weight.scale[start : start + step]
                digest.update(dequantized(dense[start : start + step], scale).reshape(-1).view(np.uint8).data)
        if digest.hexdigest() != self._entry.sha256:
            raise PruneonceError(f"{self.packed.path} is damaged: the weights are not those that were packed")


def _fits(scales: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a weight of `shape` can lie on a grid with scales of this shape."""
    if len(scales) not in (1, 2) or len(shape) < 2 or 0 in shape or 0 in scales:
        return False
    groups = scales[1] if len(scales) == 2 else 1
    return (scales[0] == shape[0] or scales == (1,)) and prod(shape[1:]) % groups == 0


def _read_parts(path: Path) -> tuple[memoryview, memoryview]:
    """The bytes of index and data, which have the hash that the header says.

    A safetensors file is the length of its header in 8 bytes, the header in JSON, and the tensors end to end.
    """
    if not path.is_file():
        raise PruneonceError(f"no packed file at {path}")
    try:
        content = memoryview(path.read_bytes())
    except OSError as error:
        raise PruneonceError(f"cannot read {path}: {error.strerror}") from None
    start = 8 + int.from_bytes(content[:8], "little")
    if not 8 < start <= min(8 + MAX_HEADER, len(content)):
        raise PruneonceError(f"{path} is not a packed file; `pruneonce pack` makes one of a model folder")
    header = load_json(bytes(content[8:start]))
    metadata = header.pop("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise PruneonceError(f"{path} is a safetensors file, but not one that `pruneonce pack` made")
    if metadata.get("version") != VERSION:
        raise PruneonceError(
            f"{path} has format version {metadata.get('version')!s:.20}, and this pruneonce-runtime reads version "
            f"{VERSION}; install a newer one"
        )
    if header.keys() != {"index", "data"}:
        raise DamagedError("it has other parts than `index` and `data`")
    parts = {name: _part(entry, content[start:]) for name, entry in header.items()}
    if sum(map(len, parts.values())) != len(content) - start:
        raise DamagedError("it is longer or shorter than its parts")
    digest = hashlib.sha256(parts["index"])
    digest.update(parts["data"])
    if metadata.get("sha256") != digest.hexdigest():
        raise DamagedError("its bytes are not those that were written")
    return parts["index"], parts["data"]


def _part(entry: Any, content: memoryview) -> memoryview:
    """A byte tensor by its entry in the header."""
    if isinstance(entry, dict) and entry.keys() == {"dtype", "shape", "data_offsets"} and entry["dtype"] == "U8":
        offsets = entry["data_offsets"]
        if isinstance(offsets, list) and len(offsets) == 2 and all(type(offset) is int for offset in offsets):
            start, end = offsets
            if 0 <= start <= end <= len(content) and entry["shape"] == [end - start]:
                return content[start:end]
    raise DamagedError("its header is wrong")
