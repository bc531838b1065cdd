"""Number of blocks of a corpus, counted or estimated without packing all of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokenizers import Tokenizer

from pruneonce.config.formats import COMPRESSIONS
from pruneonce.data import json_rows, packing, streams
from pruneonce.errors import UserError
from pruneonce.recipe import Corpus

SAMPLE_BYTES = 2_000_000
SAMPLE_FILES = 64


def count_blocks(corpus: Corpus, tokenizer: Any) -> tuple[int | None, str]:
    """The number of blocks, held-out blocks included, and a phrase that says how it was counted.

    Local files of up to 2 MB are packed and their blocks counted. For larger files of uncompressed text or JSON, the
    number is estimated from 2 MB of them. Otherwise the number follows from `corpus.max_tokens`, or is None.

    Raises:
        UserError: the source is missing, unreadable, or holds less than two blocks.
    """
    words = Tokenizer.from_str(packing.backend(tokenizer))
    files = packing.local_files(corpus.source)
    if files is not None:
        size = sum(file.stat().st_size for file in files)
        if size <= SAMPLE_BYTES:
            blocks = sum(1 for _ in packing.blocks(corpus, files, words, corpus.max_tokens))
            if blocks < 2:
                raise UserError(f"the corpus {corpus.source!r} is too small: {blocks} blocks, where two are needed")
            return blocks, "counted"
        if all(map(_has_texts_in_lines, files)):
            return _estimate(corpus, files, size, words)
    if corpus.max_tokens is not None:
        capacity = corpus.block_length - sum(map(len, packing.frame(words)))
        return corpus.max_tokens // capacity, "if it has as many tokens as `corpus.max_tokens`"
    return None, "cannot be told without reading all of it: it is compressed, in columns, or on the hub"


def _has_texts_in_lines(file: Path) -> bool:
    """Return whether the first lines of a file are a file of the same format."""
    is_plain = file.suffix.lower() not in COMPRESSIONS and streams.encoding_of(file).startswith("utf-8")
    format = streams.kind(file)
    return is_plain and (format == "text" or (format == "json" and not json_rows.is_list(file)))


def _estimate(corpus: Corpus, files: list[Path], size: int, words: Tokenizer) -> tuple[int, str]:
    """Estimate the blocks of `files` (`size` bytes in all) from the beginnings of up to 64 files."""
    chosen = files[:: -(-len(files) // SAMPLE_FILES)]
    tokens = 0

    def count(read: int) -> None:
        nonlocal tokens
        tokens = read

    with TemporaryDirectory() as scratch:
        heads = {Path(scratch) / f"{number}{file.suffix}": file for number, file in enumerate(chosen)}
        for head, file in heads.items():
            _copy_lines(file, head, SAMPLE_BYTES // len(chosen))
        read = sum(head.stat().st_size for head in heads)
        blocks = _with_original_names(
            lambda: sum(1 for _ in packing.blocks(corpus, list(heads), words, corpus.max_tokens, count)), heads
        )
    if tokens == corpus.max_tokens:
        return blocks, "counted up to `corpus.max_tokens`"
    scale = size / read
    if corpus.max_tokens is not None:
        scale = min(scale, corpus.max_tokens / max(1, tokens))
    return round(blocks * scale), f"estimated from {read / 1e6:.1f} of its {size / 1e6:.1f} MB"


def _copy_lines(file: Path, target: Path, size: int) -> None:
    """Copy the first whole lines of `file` to `target`: `size` bytes, or a little more."""
    with file.open("rb") as source, target.open("wb") as sink:
        while sink.tell() < size and (line := source.readline()):
            sink.write(line)


def _with_original_names(function: Callable[[], int], heads: dict[Path, Path]) -> int:
    """Call `function`; in its error message, replace the paths of `heads` by the paths of the whole files."""
    try:
        return function()
    except UserError as error:
        text = str(error)
        for head, file in heads.items():
            text = text.replace(str(head), str(file))
        raise UserError(text) from None
