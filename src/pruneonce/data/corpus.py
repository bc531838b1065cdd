"""Unlabelled text as blocks of tokens of one length, packed once and kept on disk.

A block is `[CLS] tokens [SEP]`, filled with consecutive documents that `[SEP]` parts, as the FULL-SENTENCES
input of RoBERTa (https://arxiv.org/abs/1907.11692, section 4.2). A document that does not end with its block
goes on in the next one, and the tokens after the last full block are dropped, so no block needs padding.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset

from pruneonce.data import readers
from pruneonce.errors import UserError
from pruneonce.recipe import Corpus

KINDS = ("text", "json", "parquet")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
SCHEMA = pa.schema({"input_ids": pa.list_(pa.int32())})

FILES_AT_ONCE = 64  # open files have a limit, and each holds a decompressor
DOCUMENTS_AT_ONCE = 1_000
CHARACTERS_AT_ONCE = 1_000_000  # the tokenizer's offsets and strings take a hundred times the text
BLOCKS_AT_ONCE = 1_000


def token_blocks(
    corpus: Corpus, tokenizer: Any, cache: Path, on_progress: Callable[[int], None] | None = None
) -> tuple[Dataset, Dataset]:
    """The (train, validation) blocks of a corpus, memory mapped from `cache`.

    Both have the one column `input_ids`: int32, `corpus.block_length` long, special tokens included. Blocks
    are shuffled with a fixed seed; `corpus.validation` of them, at least one, are held out. A corpus whose
    `corpus_key` was packed into `cache` before is not tokenized again.

    Args:
        corpus: what to read; of a folder's files a document each in turn, up to `corpus.max_tokens`.
        tokenizer: a fast tokenizer that puts special tokens at both ends of a text.
        cache: folder, made if missing; the blocks take about four bytes a token.
        on_progress: called now and then with the number of tokens read so far; never when nothing is read.

    Raises:
        UserError: the source is missing, unreadable or has no such column, or holds less than two blocks.
    """
    folder = cache / f"corpus-{corpus_key(corpus, tokenizer)[:16]}"
    file = folder / "blocks.arrow"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            _write(corpus, tokenizer, file, on_progress)
        except BaseException:
            shutil.rmtree(folder)
            raise
    blocks = Dataset.from_file(str(file))
    halves = blocks.train_test_split(
        test_size=max(1, round(corpus.validation * len(blocks))),
        seed=0,
        train_indices_cache_file_name=str(folder / "train.arrow"),
        test_indices_cache_file_name=str(folder / "validation.arrow"),
    )
    return halves["train"], halves["test"]


def corpus_key(corpus: Corpus, tokenizer: Any) -> str:
    """SHA-256 (hex) of all that makes the blocks: settings, tokenizer, and path, size and time of each file.

    A hub data set counts by its name alone: looking up its revision would need the network.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(f"{type(tokenizer).__name__} is not a fast tokenizer; save the model with a tokenizer.json")
    settings = corpus.model_dump()
    files = _files(corpus.source)
    if files is not None:
        settings["source"] = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    pieces = json.loads(tokenizer.backend_tokenizer.to_str())
    for state in ("truncation", "padding"):  # left behind by the last call, and none of it is used here
        pieces.pop(state, None)
    return hashlib.sha256(json.dumps([settings, pieces], sort_keys=True).encode()).hexdigest()


def _write(corpus: Corpus, tokenizer: Any, file: Path, on_progress: Callable[[int], None] | None) -> None:
    """Read, tokenize and pack the corpus into an Arrow stream, which is whole once it has the name `file`."""
    found = 0

    def count(tokens: int) -> None:
        nonlocal found
        found = tokens
        if on_progress:
            on_progress(tokens)

    first, last = _frame(tokenizer)
    capacity = corpus.block_length - len(first) - len(last)
    documents = _tokenized(_documents(corpus), tokenizer, corpus.max_tokens, count)
    blocks = ([*first, *body, *last] for body in _packed(documents, last, capacity))
    partial = file.with_suffix(".partial")
    written = 0
    with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
        while batch := list(islice(blocks, BLOCKS_AT_ONCE)):
            writer.write_batch(pa.record_batch([pa.array(batch, SCHEMA.types[0])], schema=SCHEMA))
            written += len(batch)
    if written < 2:
        raise UserError(
            f"the corpus {corpus.source!r} is too small: {found} tokens, where a block takes {capacity} and "
            "two blocks are needed; add text, or lower `corpus.block_length`"
        )
    partial.replace(file)


def _frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and after a text."""
    probe = tokenizer("a", return_special_tokens_mask=True)
    ids, special = probe["input_ids"], probe["special_tokens_mask"]
    first, last = ids[: special.index(0)], ids[len(ids) - special[::-1].index(0) :]
    if not (first and last):
        raise UserError("the tokenizer puts no special tokens around a text; is its model an encoder?")
    return first, last


def _packed(documents: Iterable[list[int]], separator: list[int], capacity: int) -> Iterator[list[int]]:
    """Pieces of just `capacity` tokens out of `documents` joined by `separator`; none begins with one."""
    rest: list[int] = []
    for document in documents:
        rest = [*rest, *separator, *document] if rest else document
        full = len(rest) - len(rest) % capacity
        for start in range(0, full, capacity):
            yield rest[start : start + capacity]
        rest = rest[full:]


def _tokenized(
    documents: Iterable[str], tokenizer: Any, max_tokens: int | None, count: Callable[[int], None]
) -> Iterator[list[int]]:
    """Token ids of each document, without special tokens; cut off at `max_tokens` in all."""
    read = 0
    for batch in _batches(documents):
        encoded = tokenizer(
            batch,
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # documents may be longer than the model takes: they are cut into blocks
        )
        for ids in encoded["input_ids"]:
            kept = ids if max_tokens is None else ids[: max_tokens - read]
            read += len(kept)
            if kept:
                yield kept
        count(read)
        if read == max_tokens:
            return


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


def _documents(corpus: Corpus) -> Iterator[str]:
    """The corpus's documents: lines of text files, `column` of records; empty and null ones are left out."""
    files = _files(corpus.source)
    if files is None:
        rows = readers.hub_records(corpus.source, corpus.subset, corpus.split, corpus.column)
        yield from _texts(rows, corpus.column, lambda number: f"{corpus.source!r}, row {number}")
    else:
        yield from _in_turn(_file_documents(file, corpus.column) for file in files)


def _file_documents(file: Path, column: str) -> Iterator[str]:
    if readers.kind(file) == "text":
        return (text for _, line in readers.lines(file) if (text := line.strip()))
    return _texts(readers.records(file, [column]), column, lambda number: readers.place(file, number))


def _texts(numbered: Iterable[tuple[int, readers.Record]], column: str, place: Callable[[int], str]) -> Iterator[str]:
    for number, record in numbered:
        text = record[column]
        if not isinstance(text, str | None):
            raise UserError(f"{place(number)}: {column!r} is not text but {text!r:.40}")
        if text and (text := text.strip()):
            yield text


def _in_turn(streams: Iterable[Iterator[str]]) -> Iterator[str]:
    """A document from each stream in turn; as one ends, the next that waits takes its place."""
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


def _files(source: str) -> list[Path] | None:
    """The files of a local source; None when `source` is a hub id."""
    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and readers.kind(file) in KINDS)
        if not files:
            raise UserError(f"nothing to read in the folder {path}: no file ends in {readers.suffixes(KINDS)}")
        return files
    if path.exists():
        readers.check_file(path, KINDS)
        return [path]
    if readers.kind(path) or not HUB_ID.fullmatch(source):
        raise UserError(f"no such file or folder: {source}")
    return None
