"""Packing of text into token blocks of one length: documents are read, tokenized and packed as a stream.

A block is `[CLS] tokens [SEP]`, filled with consecutive documents with `[SEP]` between them, as the FULL-SENTENCES
input of RoBERTa (https://arxiv.org/abs/1907.11692, section 4.2). A document longer than the rest of its block goes on
in the next block. The tokens after the last full block are dropped, so no block needs padding.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from tokenizers import Tokenizer

from pruneonce.config.formats import CORPUS, suffixes
from pruneonce.console import console
from pruneonce.data import columnar, readers, streams
from pruneonce.errors import UserError
from pruneonce.recipe import Corpus

SCHEMA = pa.schema({"input_ids": pa.list_(pa.int32())})  # of blocks
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")

# Other formats that lie beside these in a folder, such as a table of licences or a compressed copy, are left out.
FIRST = re.compile(r"\.(txt|jsonl|json)(\.(gz|bz2|xz))?$|\.parquet$", re.IGNORECASE)

WORD = 10_000  # characters in which a space is looked for
BETWEEN_WORDS = re.compile(r"(?<=\w) (?=\w)")

FILES_AT_ONCE = 64  # open files have a limit, and each holds a decompressor
DOCUMENTS_AT_ONCE = 1_000
CHARACTERS_AT_ONCE = 1_000_000  # the tokenizer's strings take many times the text


def backend(tokenizer: Any) -> str:
    """The tokenizer as JSON, without the truncation and padding that the latest call left in it.

    Raises:
        UserError: `tokenizer` is not a fast tokenizer.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(f"{type(tokenizer).__name__} is not a fast tokenizer; save the model with a tokenizer.json")
    pieces = json.loads(tokenizer.backend_tokenizer.to_str())
    return json.dumps({**pieces, "truncation": None, "padding": None}, sort_keys=True)


def frame(words: Tokenizer) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and after a text."""
    probe = words.encode("a")
    ids, special = probe.ids, probe.special_tokens_mask
    first, last = ids[: special.index(0)], ids[len(ids) - special[::-1].index(0) :]
    if not (first and last):
        raise UserError("the tokenizer puts no special tokens around a text; is its model an encoder?")
    return first, last


def frame_of(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that a fast tokenizer of transformers puts before and after a text."""
    return frame(Tokenizer.from_str(backend(tokenizer)))


def blocks(
    corpus: Corpus,
    files: list[Path] | None,
    words: Tokenizer,
    most: int | None,
    count: Callable[[int], object] = lambda tokens: None,
) -> Iterator[list[int]]:
    """The blocks of `corpus.block_length` tokens, special tokens included, of `files` or of the hub data set.

    Args:
        corpus: column and block length of the text.
        files: local files, read in turn, a document from each; None reads the hub data set `corpus.source`.
        words: the tokenizer.
        most: tokens to read at most, special tokens not counted; None reads all.
        count: called now and then with the number of tokens read so far.

    Raises:
        UserError: a file or a record cannot be read; the tokenizer puts no special tokens around a text.
    """
    first, last = frame(words)
    texts = _tokenized(_documents(corpus, files), words, most, count)
    for body in _packed(texts, last, corpus.block_length - len(first) - len(last)):
        yield [*first, *body, *last]


def _packed(documents: Iterable[list[int]], separator: list[int], capacity: int) -> Iterator[list[int]]:
    """Pieces of exactly `capacity` tokens of `documents` joined by `separator`; no piece begins with one."""
    rest: list[int] = []
    for document in documents:
        rest = [*rest, *separator, *document] if rest else document
        full = len(rest) - len(rest) % capacity
        for start in range(0, full, capacity):
            yield rest[start : start + capacity]
        rest = rest[full:]


def _tokenized(
    documents: Iterable[str], words: Tokenizer, most: int | None, count: Callable[[int], object]
) -> Iterator[list[int]]:
    """Token ids of each document, without special tokens, up to `most` tokens in all."""
    read = 0
    for batch in _batches(documents):
        # transformers' own call also makes offsets, which takes a fourth of the time.
        for ids in _ids(batch, words):
            kept = ids if most is None else ids[: most - read]
            read += len(kept)
            if kept:
                yield kept
        count(read)
        if read == most:
            return


def _ids(documents: list[str], words: Tokenizer) -> Iterator[list[int]]:
    """Token ids of each document; one that is longer than `CHARACTERS_AT_ONCE` is tokenized in pieces."""
    for size, group in groupby(documents, key=lambda document: len(document) > CHARACTERS_AT_ONCE):
        if not size:
            yield from (one.ids for one in words.encode_batch_fast(list(group), add_special_tokens=False))
            continue
        for document in group:
            ids: list[int] = []
            for piece in pieces(document):
                ids += words.encode_batch_fast([piece], add_special_tokens=False)[0].ids
            yield ids


def pieces(text: str, size: int = CHARACTERS_AT_ONCE) -> Iterator[str]:
    """Cut a text into pieces of at most `size` characters, before a space between two words where there is one.

    Tokenizers split a text there first of all, so the tokens of the pieces are those of the text.
    """
    start = 0
    while len(text) - start > size:
        end = start + size
        backwards = text[max(start + 1, end - WORD) : end][::-1]
        space = BETWEEN_WORDS.search(backwards)
        end -= space.end() if space else 0
        yield text[start:end]
        start = end
    yield text[start:]


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document)
        if len(batch) == DOCUMENTS_AT_ONCE or characters >= CHARACTERS_AT_ONCE:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


# -- documents ----------------------------------------------------------------------------------------------


def _documents(corpus: Corpus, files: list[Path] | None) -> Iterator[str]:
    """The documents of a corpus: lines of text files, `column` of records. Empty and null documents are left out."""
    if files is None:
        rows = readers.hub_records(corpus.source, corpus.subset, corpus.split, corpus.column)
        yield from _texts(rows, corpus.column, lambda number: f"{corpus.source!r}, row {number}")
    else:
        yield from _in_turn(_file_documents(file, corpus.column) for file in files)


def _file_documents(file: Path, column: str) -> Iterator[str]:
    if streams.kind(file) == "text":
        return (text for _, line in streams.lines(file) if (text := line.strip()))
    return _texts(readers.records(file, [column]), column, lambda number: readers.place(file, number))


def _texts(numbered: Iterable[tuple[int, readers.Record]], column: str, place: Callable[[int], str]) -> Iterator[str]:
    for number, record in numbered:
        text = record[column]
        if not isinstance(text, str | None):
            raise UserError(f"{place(number)}: {column!r} is not text but {text!r:.40}")
        if text and (text := text.strip()):
            yield text


def _in_turn(streams: Iterable[Iterator[str]]) -> Iterator[str]:
    """A document from each stream in turn. A waiting stream takes the place of a stream that ends."""
    waiting = iter(streams)
    turns = deque(islice(waiting, FILES_AT_ONCE))
    while turns:
        stream = turns.popleft()
        document = next(stream, None)
        if document is None:
            turns.extend(islice(waiting, 1))
        else:
            turns.append(stream)
            yield document


def local_files(source: str) -> list[Path] | None:
    """The files of a local source; None when `source` is a hub id."""
    path = Path(source).expanduser()
    if path.is_dir():
        return _files_in(path)
    if path.exists():
        readers.check_file(path, CORPUS)
        return [path]
    if streams.kind(path) or not HUB_ID.fullmatch(source):
        raise UserError(f"no such file or folder: {source}")
    return None


def _files_in(folder: Path) -> list[Path]:
    """The files of a folder and its subfolders: those of `FIRST`, or, where there is none, of all other formats."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and streams.kind(file) in CORPUS)
    # Beside its data, `datasets` keeps descriptions in a saved folder, and copies that it made in working with it.
    saved = {file.parent for file in files if file.name == columnar.STATE and any(file.parent.glob("*.arrow"))}
    data = {file for inner in saved for file in columnar.data_files(inner)}
    files = [file for file in files if file in data or not (file.parent in saved or file.name == columnar.SPLITS)]
    first = [file for file in files if FIRST.search(file.name)]
    if not files:
        raise UserError(f"nothing to read in the folder {folder}: no file ends in {suffixes(CORPUS)}")
    if first and len(first) < len(files):
        other = next(file.name for file in files if file not in first)
        console.print(
            f"{folder}: {len(first)} of {len(files)} files are read, those in .txt, .jsonl, .json or .parquet; "
            f"put the others, such as {other}, into a folder of their own to read them",
            markup=False,
            soft_wrap=True,
        )
    return first or files
