"""Coding of zero patterns, small integers and numbers of any type as byte strings near their entropy.

The coder is Zstandard (RFC 8878) with the search for repetitions practically off. The rest of it, a Huffman code per
128 KiB, suits memoryless data. docs/format.md has the byte layouts and measurements of other coders.

A decoder gets the expected size, and refuses any other size before it allocates memory.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import zstandard

Bools = npt.NDArray[np.bool_]
Int8s = npt.NDArray[np.int8]

# A hash table of 64 entries and matches of at least 7 bytes: repetitions by chance are not worth a code.
ENTROPY_ONLY = zstandard.ZstdCompressionParameters(
    window_log=20, hash_log=6, chain_log=6, search_log=1, min_match=7, strategy=zstandard.STRATEGY_FAST
)
TEXT_LEVEL = 19
FLUSH_BLOCK = zstandard.COMPRESSOBJ_FLUSH_BLOCK
ESCAPE = 255


class DamagedError(ValueError):
    """Bytes that violate the format; the message is for the user."""


def compress(*sections: bytes) -> bytes:
    """Compress bytes without repetitions to one Zstandard frame, which holds the size of its content.

    Args:
        *sections: parts of the content with different histograms: each begins a block, and so a Huffman code.
    """
    coder = zstandard.ZstdCompressor(compression_params=ENTROPY_ONLY).compressobj(size=sum(map(len, sections)))
    frame = [part for data in sections for part in (coder.compress(data), coder.flush(FLUSH_BLOCK))]
    return b"".join([*frame, coder.flush()])


def compress_text(data: bytes) -> bytes:
    """Compress text to one Zstandard frame, with a slower search for repetitions."""
    return zstandard.ZstdCompressor(level=TEXT_LEVEL).compress(data)


def decompress(data: bytes, size: int) -> bytes:
    """Decompress one Zstandard frame.

    Args:
        data: the frame.
        size: bytes of the content, known beforehand.

    Raises:
        DamagedError: the data is not a frame, or its content has another size.
    """
    if content_size(data) != size:
        raise DamagedError("a stream has not the size that its tensor needs")
    try:
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise DamagedError(f"a stream does not decompress ({error})") from None


def content_size(data: bytes) -> int:
    """Size of a frame's content in bytes, as the frame declares it, without decompression.

    Raises:
        DamagedError: the data is not a frame.
    """
    try:
        return int(zstandard.get_frame_parameters(data).content_size)
    except zstandard.ZstdError:
        raise DamagedError("a stream is not a Zstandard frame") from None


def encode_pattern(kept: Bools) -> tuple[str, bytes]:
    """Encode a zero pattern; return the shorter coding, `gaps` or `bits`, and its bytes.

    Args:
        kept: [n], True at kept weights.
    """
    choices = {"bits": compress(np.packbits(kept).tobytes())}
    if 2 * np.count_nonzero(kept) <= kept.size:
        choices["gaps"] = compress(_gaps(kept).tobytes())
    coding = min(choices, key=lambda name: len(choices[name]))
    return coding, choices[coding]


def _gaps(kept: Bools) -> npt.NDArray[np.uint8]:
    """The number of zeros before each kept weight; 255 stands for 255 zeros with more to follow."""
    gaps = np.diff(np.flatnonzero(kept), prepend=-1) - 1
    escapes = gaps // ESCAPE
    coded = np.full(int((escapes + 1).sum()), ESCAPE, np.uint8)
    coded[np.cumsum(escapes + 1) - 1] = gaps % ESCAPE
    return coded


def decode_pattern(coding: str, data: bytes, size: int) -> Bools:
    """Decode the pattern of `size` weights that `encode_pattern` wrote.

    Raises:
        DamagedError: the bytes are not a pattern of this size.
    """
    if coding == "bits":
        packed = np.frombuffer(decompress(data, -(-size // 8)), np.uint8)
        return np.unpackbits(packed, count=size).astype(bool)
    length = content_size(data)
    if length > size:  # every byte stands for at least one weight
        raise DamagedError("a zero pattern is longer than its tensor")
    gaps = np.frombuffer(decompress(data, length), np.uint8)
    ends = np.cumsum(np.where(gaps == ESCAPE, ESCAPE, gaps.astype(np.int64) + 1))
    if length and ends[-1] > size:
        raise DamagedError("a zero pattern reaches beyond its tensor")
    kept = np.zeros(size, bool)
    kept[ends[gaps != ESCAPE] - 1] = True
    return kept


def encode_values(values: Int8s, bits: int) -> tuple[str, bytes]:
    """Encode integers; return the shorter coding, `bytes` or (up to 4 bits) `nibbles`, and its bytes.

    Args:
        values: [n], the integers.
        bits: of the integers.
    """
    choices = {"bytes": compress(values.tobytes())}
    if bits <= 4:
        low, high = _pairs(values)
        choices["nibbles"] = compress((low | high << 4).tobytes())
    coding = min(choices, key=lambda name: len(choices[name]))
    return coding, choices[coding]


def _pairs(values: Int8s) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Pairs of values as four bits each, in two's complement; a 0 is appended to an odd number of values."""
    nibbles = (np.append(values, np.zeros(values.size % 2, np.int8)) & 15).astype(np.uint8)
    return nibbles[::2], nibbles[1::2]


def decode_values(coding: str, data: bytes, size: int) -> Int8s:
    """Decode the `size` integers that `encode_values` wrote.

    Raises:
        DamagedError: the bytes are not that many integers.
    """
    if coding == "bytes":
        return np.frombuffer(decompress(data, size), np.int8)
    pairs = np.frombuffer(decompress(data, -(-size // 2)), np.int8)
    # An arithmetic shift to the right keeps the sign.
    return np.stack([pairs << 4 >> 4, pairs >> 4], axis=1).ravel()[:size]


def planes(numbers: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """Byte planes [bytes of a number, n] of numbers: all first bytes, all second bytes, ..., little-endian.

    Exponents are alike and mantissas are not, so each plane is coded by itself.
    """
    little = np.ascontiguousarray(numbers, numbers.dtype.newbyteorder("<"))
    return little.view(np.uint8).reshape(-1, numbers.dtype.itemsize).T


def encode_planes(numbers: npt.NDArray[np.generic]) -> bytes:
    """Encode numbers of any type, [n], without loss."""
    return compress(*(plane.tobytes() for plane in planes(numbers)))


def decode_planes(data: bytes, dtype: np.dtype, size: int) -> npt.NDArray[np.generic]:
    """Decode the `size` numbers that `encode_planes` wrote.

    Raises:
        DamagedError: the bytes are not that many numbers.
    """
    byte_planes = np.frombuffer(decompress(data, size * dtype.itemsize), np.uint8).reshape(dtype.itemsize, -1)
    return np.array(byte_planes.T, order="C").view(dtype).ravel()
