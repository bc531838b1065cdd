"""A corpus as token blocks on disk: packed once by several processes, then memory mapped.

The files are divided into groups, and each group is packed by itself. The division depends on the files alone, so any
number of processes makes the same blocks.
"""

from __future__ import annotations

import heapq
import shutil
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pyarrow as pa
from datasets import Dataset, concatenate_datasets
from datasets.table import MemoryMappedTable
from joblib.externals.loky import ProcessPoolExecutor
from tokenizers import Tokenizer

from pruneonce.console import logger
from pruneonce.data import packing
from pruneonce.data.keys import corpus_key
from pruneonce.data.packing import SCHEMA
from pruneonce.errors import UserError
from pruneonce.recipe import Corpus
from pruneonce.system import durable

BLOCKS_AT_ONCE = 1_000
ROWS_AT_ONCE = 1_000_000

# A group loses the tokens after its last full block, and a process takes seconds to start, so groups are large.
GROUP_BYTES = 64_000_000
GROUP_TOKENS = 16_000_000
GROUPS = 256


def blocks_of(corpus: Corpus, tokenizer: Any, cache: Path, seed: int) -> tuple[Any, Dataset]:
    """The (train, held-out) blocks of a corpus: `token_blocks`, or `stream_blocks` if `corpus.streaming` is set."""
    if corpus.streaming:
        from pruneonce.data.streaming import stream_blocks  # imports torch: slow where only packing

        return stream_blocks(corpus, tokenizer, seed)
    return token_blocks(corpus, tokenizer, cache)


def token_blocks(
    corpus: Corpus, tokenizer: Any, cache: Path, on_progress: Callable[[int], object] | None = None
) -> tuple[Dataset, Dataset]:
    """The (train, validation) blocks of a corpus, memory mapped from `cache`.

    Both have one column, `input_ids`: int32, `corpus.block_length` long, special tokens included. Blocks are shuffled
    with a fixed seed. A share `corpus.validation` of them, at least one block, is held out. A corpus whose `corpus_key`
    was packed into `cache` before is not tokenized again.

    Args:
        corpus: the text, read up to `corpus.max_tokens`; each file of a folder gives a share by its size.
        tokenizer: a fast tokenizer that puts special tokens at both ends of a text.
        cache: folder, made if missing; the blocks take about four bytes a token.
        on_progress: called now and then with the number of tokens read so far; never when nothing is read.

    Raises:
        UserError: the source is missing or unreadable, lacks the column, or holds less than two blocks.
    """
    key = corpus_key(corpus, tokenizer)
    folder = cache / f"corpus-{key[:16]}"
    if not folder.exists():
        unfinished = folder.with_suffix(".partial")
        shutil.rmtree(unfinished, ignore_errors=True)  # left by a killed process
        unfinished.mkdir(parents=True)
        try:
            _pack(corpus, packing.backend(tokenizer), unfinished, on_progress or (lambda tokens: None))
            _split(len(_blocks(unfinished)), corpus.validation, unfinished)
            if corpus_key(corpus, tokenizer) != key:
                raise UserError(f"the corpus {corpus.source!r} changed while it was read; run it again")
        except BaseException:
            shutil.rmtree(unfinished)
            raise
        durable.publish(unfinished, folder)
    else:
        logger.debug("blocks of the corpus taken from %s", folder)
    return _blocks(folder, "train"), _blocks(folder, "validation")


def _blocks(folder: Path, half: str | None = None) -> Dataset:
    """All blocks in `folder`, or those of one half (`train` or `validation`)."""
    blocks = concatenate_datasets([Dataset.from_file(str(file)) for file in sorted(folder.glob("blocks-*.arrow"))])
    if half is None:
        return blocks
    rows = MemoryMappedTable.from_file(str(folder / f"{half}.arrow"))
    return Dataset(blocks.data, info=blocks.info, indices_table=rows)


def _split(size: int, validation: float, folder: Path) -> None:
    """Write the shuffled block indices of each half.

    As `Dataset.train_test_split`, but with 8 bytes a block instead of 64.
    """
    order = np.random.default_rng(0).permutation(size)
    held_out = max(1, round(validation * size))
    schema = pa.schema({"indices": pa.uint64()})
    for half, rows in (("train", order[held_out:]), ("validation", order[:held_out])):
        with pa.OSFile(str(folder / f"{half}.arrow"), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            for first in range(0, len(rows), ROWS_AT_ONCE):
                some = rows[first : first + ROWS_AT_ONCE].astype("uint64")
                writer.write_batch(pa.record_batch([some], schema=schema))


# -- groups of files --------------------------------------------------------------------------------------------


@dataclass
class Group:
    """Files that are packed together, with the numbers of packed tokens and blocks; without files, a hub data set."""

    name: str  # of the file of its blocks
    files: list[Path] | None
    size: int  # bytes
    most: int | None  # tokens to read at most
    tokens: int = 0
    blocks: int = 0


def _groups(corpus: Corpus) -> list[Group]:
    """Divide the files into groups of similar size, as many as GROUPS, GROUP_BYTES and GROUP_TOKENS allow."""
    most = None if corpus.max_tokens is None else 0  # until `_share` raises it
    files = packing.local_files(corpus.source)
    if files is None:
        return [Group("blocks-000.arrow", None, 1, most)]
    sizes = {file: file.stat().st_size for file in files}
    limits = [GROUPS, len(files), sum(sizes.values()) // GROUP_BYTES]
    if corpus.max_tokens is not None:
        limits.append(corpus.max_tokens // GROUP_TOKENS)
    heap: list[tuple[int, int, list[Path]]] = [(1, index, []) for index in range(max(1, min(limits)))]
    for file in sorted(files, key=lambda file: -sizes[file]):  # the largest first, each to the smallest group
        size, index, members = heap[0]
        heapq.heapreplace(heap, (size + sizes[file], index, [*members, file]))
    return [
        Group(f"blocks-{index:03}.arrow", sorted(members), size, most)
        for size, index, members in sorted(heap, key=lambda entry: entry[1])
    ]


def _share(groups: list[Group], max_tokens: int) -> list[Group]:
    """Share the rest of `max_tokens`, by size, among the groups with text left; return the groups that got a share."""
    unassigned = max_tokens - sum(group.tokens for group in groups)
    unfinished = [group for group in groups if group.tokens == group.most]
    total_size = sum(group.size for group in unfinished)
    bounds = [0, *(unassigned * part // total_size for part in accumulate(group.size for group in unfinished))]
    for group, low, high in zip(unfinished, bounds, bounds[1:], strict=False):
        group.most = group.tokens + high - low
    return [group for group in unfinished if group.most != group.tokens]


# -- packing ----------------------------------------------------------------------------------------------------


def _pack(corpus: Corpus, words: str, folder: Path, on_progress: Callable[[int], object]) -> None:
    """Pack every group into a file in `folder`.

    A group may end before its share of `max_tokens`. The rest of its share goes to the other groups, which are packed
    again.
    """
    groups = _groups(corpus)

    def report(tokens: int = 0) -> None:
        on_progress(sum(group.tokens for group in groups) + tokens)

    due = groups if corpus.max_tokens is None else _share(groups, corpus.max_tokens)
    while due:
        for group in due:
            group.tokens = 0
        _run(corpus, words, due, folder, report)
        due = [] if corpus.max_tokens is None else _share(groups, corpus.max_tokens)
    if sum(group.blocks for group in groups) < 2:
        capacity = corpus.block_length - sum(map(len, packing.frame(Tokenizer.from_str(words))))
        raise UserError(
            f"the corpus {corpus.source!r} is too small: {sum(group.tokens for group in groups)} tokens, where a block "
            f"takes {capacity} and two blocks are needed; add text, or lower `corpus.block_length`"
        )


def _run(corpus: Corpus, words: str, groups: list[Group], folder: Path, report: Callable[..., None]) -> None:
    """Pack `groups` and set the numbers of tokens and blocks of each."""
    cores = joblib.cpu_count()
    processes = min(corpus.processes or cores, len(groups))
    if processes == 1:
        for group in groups:
            group.tokens, group.blocks = _pack_group(group, corpus, words, folder, report)
        return
    # The tokenizer has threads of its own. Processes are started afresh: threads do not survive a fork.
    workers = ProcessPoolExecutor(processes, env={"RAYON_NUM_THREADS": str(max(1, cores // processes))})
    try:
        job = partial(_pack_group, corpus=corpus, words=words, folder=folder)
        for group, sizes in zip(groups, workers.map(job, groups), strict=True):
            group.tokens, group.blocks = sizes
            report()
    except BrokenProcessPool:
        raise UserError(
            "a process that packed the corpus was killed, perhaps for want of memory; lower `corpus.processes`"
        ) from None
    finally:
        workers.shutdown(kill_workers=True)


def _pack_group(
    group: Group, corpus: Corpus, words: str, folder: Path, report: Callable[[int], None] = lambda tokens: None
) -> tuple[int, int]:
    """Pack a group into an Arrow stream and return the numbers of its tokens and blocks."""
    tokens = written = 0

    def count(read: int) -> None:
        nonlocal tokens
        tokens = read
        report(read)

    blocks = packing.blocks(corpus, group.files, Tokenizer.from_str(words), group.most, count)
    with pa.OSFile(str(folder / group.name), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
        while batch := list(islice(blocks, BLOCKS_AT_ONCE)):
            writer.write_batch(pa.record_batch([pa.array(batch, SCHEMA.types[0])], schema=SCHEMA))
            written += len(batch)
    return tokens, written
