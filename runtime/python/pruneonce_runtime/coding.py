"""Streams of a packed file as arrays: a zero pattern, small integers, and numbers of any type.

Each stream is one Zstandard frame; docs/format.md of the repository has the byte layouts. A decoder knows what size to
expect and refuses any other before it allocates. Arrays are views of no other array: who has a view of one keeps it, so
that it can be found again (see `PackedFile.shared`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard

from pruneonce_runtime.spec import Bytes, Int8s, Pattern

ESCAPE = 255


class DamagedError(ValueError):
    """The bytes are not what the format says; the message is the end of a line that names the file."""


def decompress(frame: bytes | memoryview, size: int) -> bytes:
    """The content of one frame.

    Args:
        size: bytes of the content, known beforehand.

    Raises:
        DamagedError: not a frame, or one of another size.
    """
    if content_size(frame) != size:
        raise DamagedError("a stream has not the size that its tensor needs")
    try:
        return zstandard.ZstdDecompressor().decompress(frame, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise DamagedError(f"a stream does not decompress ({error})") from None


def content_size(frame: bytes | memoryview) -> int:
    """Bytes that a frame says it holds; nothing is decompressed.

    Raises:
        DamagedError: not a frame.
    """
    try:
        return int(zstandard.get_frame_parameters(frame).content_size)
    except zstandard.ZstdError:
        raise DamagedError("a stream is not a Zstandard frame") from None


def decode_pattern(coding: str, frame: memoryview, size: int) -> Pattern:
    """The zero pattern of `size` weights.

    Raises:
        DamagedError: the bytes are not a pattern of this size.
    """
    if coding == "bits":
        bits = np.frombuffer(decompress(frame, -(-size // 8)), np.uint8)
        mask = np.unpackbits(bits, count=size)
        bits = np.packbits(mask)  # the unused bits at the end are 0 from here on
    else:
        mask = _from_gaps(frame, size)
        bits = np.packbits(mask)
    bits.flags.writeable = False
    return Pattern(bits, size, int(np.count_nonzero(mask)))


def _from_gaps(frame: memoryview, size: int) -> Bytes:
    """[size], 1 where a weight is kept: for each kept weight a byte says how many zeros come before it."""
    length = content_size(frame)
    if length > size:  # every byte stands for one weight at least
        raise DamagedError("a zero pattern is longer than its tensor")
    gaps = np.frombuffer(decompress(frame, length), np.uint8)
    ends = np.cumsum(np.where(gaps == ESCAPE, ESCAPE, gaps.astype(np.int64) + 1))
    if length and ends[-1] > size:
        raise DamagedError("a zero pattern reaches beyond its tensor")
    mask = np.zeros(size, np.uint8)
    mask[ends[gaps != ESCAPE] - 1] = 1
    return mask


def decode_values(coding: str, frame: memoryview, size: int) -> Int8s:
    """`size` integers.

    Raises:
        DamagedError: the bytes are not that many integers.
    """
    if coding == "bytes":
        return np.frombuffer(decompress(frame, size), np.int8)
    pairs = np.frombuffer(decompress(frame, -(-size // 2)), np.int8)
    # An arithmetic shift to the right brings the sign along.
    values: Int8s = np.stack([pairs << 4 >> 4, pairs >> 4], axis=1).ravel()[:size].copy()
    values.flags.writeable = False
    return values


def decode_planes(frame: memoryview, dtype: np.dtype[Any], size: int) -> npt.NDArray[Any]:
    """`size` numbers of any type: their first bytes, then their second bytes, and so on.

    Raises:
        DamagedError: the bytes are not that many numbers.
    """
    planes = np.frombuffer(decompress(frame, size * dtype.itemsize), np.uint8).reshape(dtype.itemsize, -1)
    numbers = np.empty(size, dtype)
    numbers.view(np.uint8).reshape(size, dtype.itemsize)[:] = planes.T
    numbers.flags.writeable = False
    return numbers
