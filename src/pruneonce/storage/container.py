"""Container: a safetensors file of two byte tensors, `index` (compressed JSON) and `data` (streams end to end).

docs/format.md describes the format. Every part of a file is checked before use.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pruneonce.errors import UserError
from pruneonce.storage import coding
from pruneonce.storage.coding import DamagedError
from pruneonce.storage.index import MAX_INDEX, Index, Member, check
from pruneonce.system.durable import must_be_readable

FORMAT = "pruneonce-packed"
VERSION = 1
SUFFIX = ".pruneonce"
AGAIN = "copy the whole file again, or pack the models again"


def place_of(path: str | Path) -> tuple[Path, str | None] | None:
    """File and member of a packed model that a path names; None: there is no packed file at it.

    Args:
        path: FILE.pruneonce, or FILE.pruneonce/MEMBER, as if the file were a folder of its models.
    """
    path = Path(path)
    for file, member in ((path, None), (path.parent, path.name)):
        if file.suffix == SUFFIX and file.is_file():
            return file, member
    return None


def is_a_family(file: Path, members: Sequence[str]) -> UserError:
    """The error for a packed file of several models, where a path has to name one."""
    places = ", ".join(f"{file}/{name}" for name in members)
    return UserError(f"{file} holds several models; name one of them: {places}")


class Writer:
    """Writer of a packed file: collects streams, and stores equal streams once."""

    def __init__(self) -> None:
        self._streams: list[bytes] = []
        self._numbers: dict[bytes, int] = {}

    def add(self, stream: bytes) -> tuple[int, bool]:
        """Add a stream; return its number, and True if it is new."""
        number = self._numbers.setdefault(hashlib.sha256(stream).digest(), len(self._streams))
        is_new = number == len(self._streams)
        if is_new:
            self._streams.append(stream)
        return number, is_new

    def write(self, members: dict[str, Member], file: Path) -> None:
        """Write the collected streams, with the index of `members`, to `file`."""
        index = Index(streams=[len(stream) for stream in self._streams], members=members)
        parts = {
            "index": coding.compress_text(index.model_dump_json(exclude_none=True).encode()),
            "data": b"".join(self._streams),
        }
        metadata = {"format": FORMAT, "version": str(VERSION), "sha256": _hash(parts["index"], parts["data"])}
        save_file({name: np.frombuffer(part, np.uint8) for name, part in parts.items()}, file, metadata=metadata)


class PackedFile:
    """Packed file, read and checked: its `index`, and its streams by `stream(number)`.

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
            self._ends = [0, *accumulate(self.index.streams)]
            check(self.index, len(self._data))
        except DamagedError as error:
            raise UserError(f"{path} is damaged: {error}; {AGAIN}") from None
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"]))
            raise UserError(f"{path} is damaged: its index is wrong at `{where}`") from None

    def stream(self, number: int) -> bytes:
        """The bytes of a stream."""
        return self._data[self._ends[number] : self._ends[number + 1]]


def _read_parts(path: Path) -> tuple[bytes, bytes]:
    """Read the bytes of index and data, and check their hash against the header."""
    must_be_readable(path)
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
            if any(opened.get_slice(name).get_dtype() != "U8" for name in opened.keys()):  # noqa: SIM118
                raise UserError(f"{path} is damaged: its parts are not bytes")
            index, data = (opened.get_tensor(name).tobytes() for name in ("index", "data"))
    except SafetensorError as error:
        raise UserError(f"{path} is not a packed file, or is damaged: {error}; {AGAIN}") from None
    if metadata.get("sha256") != _hash(index, data):
        raise UserError(f"{path} is damaged: its bytes are not those that were written; {AGAIN}")
    return index, data


def _hash(index: bytes, data: bytes) -> str:
    return hashlib.sha256(index + data).hexdigest()
