"""Data files as streams of lines and characters: decompressed, decoded, and of bounded size."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from pruneonce.config.formats import COMPRESSIONS, format_of
from pruneonce.errors import UserError
from pruneonce.wording import first_line

MOST_BYTES = 1 << 24  # of a line, or of an object in a list
EXPANSION = 200  # bytes of content for each byte of a file that is compressed, or encoded as Parquet and Arrow are
EXPANDED_FREELY = 1 << 25  # bytes of content that any such file may have besides
CHARACTERS_AT_ONCE = 1 << 18

# The longer mark comes first: that of UTF-32 begins with that of UTF-16.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
UNREADABLE = (OSError, EOFError, lzma.LZMAError, zlib.error, zstandard.ZstdError)


def kind(path: Path) -> str | None:
    """Format of a file by its suffixes, or of a folder that `datasets` saved: a name in the table of formats."""
    if path.is_dir():
        return "saved" if (path / "state.json").is_file() else None
    return format_of(path.name)


def allowed(path: Path) -> int:
    """Bytes that the content of a compressed or encoded file may have: in proportion to the file."""
    return EXPANDED_FREELY + EXPANSION * path.stat().st_size


def too_large(path: Path) -> UserError:
    """Error for a file whose content is out of proportion."""
    return UserError(
        f"{path}: its content is more than {EXPANDED_FREELY >> 20} MiB and {EXPANSION} times the size of the file, "
        "which no text is; if it is yours, write it uncompressed as JSON lines, or in several files"
    )


def lines(path: Path, most: int = MOST_BYTES) -> Iterator[tuple[int, str]]:
    """Yield `(line number from 1, line with its end)` of a text file, decompressed on the way.

    Text is UTF-8, or UTF-16 or UTF-32 with a byte order mark. UTF-8 is decoded line by line, so that the number of a
    bad line is exact.

    Args:
        path: the file.
        most: bytes of a line; of UTF-16 and UTF-32, characters.

    Raises:
        UserError: the file cannot be read or decoded, a line is longer than `most`, or the content is out of proportion
            to a compressed file.
    """
    number = 0
    with _faults(path, lambda: f"line {number}"), opened(path) as (file, encoding):
        read: Callable[[int], Any] = file.readline
        if not encoding.startswith("utf-8"):
            read = io.TextIOWrapper(file, encoding, newline="\n").readline
        while line := read(most + 1):
            number += 1
            if len(line) > most:
                raise UserError(
                    f"{path}, line {number}: longer than {most >> 20} MiB, which no text of a corpus or task is; write "
                    "one text a line"
                )
            if isinstance(line, bytes):
                line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                if number == 1 and line[:200].count(0) * 3 > len(line[:200]):
                    raise UserError(f"{path}, line 1: {_convert('not UTF-8 but bytes of 0', 'utf-16', path)}")
                line = line.decode("utf-8")
            yield number, line


def characters(path: Path) -> Iterator[str]:
    """Yield the text of a file in pieces, decompressed and decoded as by `lines`."""
    read = 0
    with _faults(path, lambda: f"{read:,} characters"), opened(path) as (file, encoding):
        text = io.TextIOWrapper(file, encoding, newline="\n")
        while piece := text.read(CHARACTERS_AT_ONCE):
            read += len(piece)
            yield piece


@contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, str]]:
    """Open a file for reading, decompressed, with the encoding that its first bytes tell."""
    encoding = encoding_of(path)
    with _decompressed(path) as file:
        yield file, encoding


def encoding_of(path: Path) -> str:
    """Return the encoding that the first bytes of a file tell: UTF-8 where there is no byte order mark."""
    with _decompressed(path) as file:
        head = file.read(4)
    return next((name for mark, name in MARKS.items() if head.startswith(mark)), "utf-8")


@contextmanager
def _faults(path: Path, where: Callable[[], str]) -> Iterator[None]:
    """Turn the exceptions of reading and decoding into a `UserError` of one line."""
    try:
        yield
    except UnicodeDecodeError as error:
        if error.encoding.startswith("utf-8"):
            byte = error.object[error.start]
            what = f"not UTF-8: the byte 0x{byte:02X} ({bytes([byte]).decode('latin-1')!r} in Latin-1)"
            raise UserError(f"{path}, {where()}: {_convert(what, 'latin1', path)}") from None
        raise UserError(f"{path}, after {where()}: not {error.encoding.upper()}, as its first bytes say") from None
    except UNREADABLE as error:
        raise UserError(f"cannot read {path} after {where()}: {first_line(error)}") from None


def _convert(what: str, encoding: str, path: Path) -> str:
    return f"{what}; convert the file to UTF-8, such as by `iconv -f {encoding} -t utf-8 {path.name}`"


# -- decompression -------------------------------------------------------------------------------------------


@contextmanager
def _decompressed(path: Path) -> Iterator[BinaryIO]:
    openers: dict[str, Callable[[Any], Any]] = dict(
        zip(COMPRESSIONS, (gzip.open, bz2.open, lzma.open, _Zstandard), strict=True)
    )
    opener = openers.get(path.suffix.lower())
    with path.open("rb") as file:
        if opener is None:
            yield file
            return
        with opener(file) as inner, io.BufferedReader(_Proportionate(inner, path)) as expanded:
            yield expanded  # type: ignore[misc]


class _Proportionate(io.RawIOBase):
    """Decompressed bytes of a file, as long as they are in proportion to it."""

    def __init__(self, inner: Any, path: Path):
        self.inner = inner
        self.path = path
        self.left = allowed(path)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        read: int = self.inner.readinto(buffer)
        self.left -= read
        if self.left < 0:
            raise too_large(self.path)
        return read


class _Zstandard(io.RawIOBase):
    """Decompressed bytes of all frames of a Zstandard file.

    The reader of `zstandard` takes a file that breaks off for a whole one, so frames are decompressed one by one.
    """

    AT_ONCE = 1 << 10  # bytes of the file; at the highest compression they are tens of megabytes of content

    def __init__(self, file: BinaryIO):
        self.file = file
        self.frame: Any = None
        self.content = memoryview(b"")
        self.rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.content:
            compressed = self.rest or self.file.read(self.AT_ONCE)
            self.rest = b""
            if not compressed:
                if self.frame is not None:
                    raise EOFError("the file breaks off")
                return 0
            self.frame = self.frame or zstandard.ZstdDecompressor().decompressobj()
            self.content = memoryview(self.frame.decompress(compressed))
            if self.frame.eof:
                self.rest, self.frame = self.frame.unused_data, None
        size = min(len(buffer), len(self.content))
        buffer[:size] = self.content[:size]
        self.content = self.content[size:]
        return size
