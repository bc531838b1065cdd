"""A corpus as an endless stream of token blocks, without writing any: for text that is larger than the disk."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import count, islice
from random import Random
from typing import Any

import pyarrow as pa
from datasets import Dataset
from tokenizers import Tokenizer
from torch.utils.data import IterableDataset, get_worker_info

from pruneonce.data import packing
from pruneonce.data.keys import stamps
from pruneonce.data.packing import SCHEMA
from pruneonce.errors import UserError
from pruneonce.recipe import Corpus

SHUFFLE_BUFFER = 10_000  # blocks
HELD_OUT_OF = 6_400  # blocks, of which `corpus.validation` are held out


class BlockStream(IterableDataset[dict[str, list[int]]]):
    """Endless passes over the blocks of a corpus, without the first `skip` blocks, each pass in an order of its own.

    The order is a function of the seed, so training resumes from a checkpoint by skipping the blocks it has seen.
    Blocks are shuffled within a buffer of `SHUFFLE_BUFFER`. `check` is called before each pass, and raises if the text
    has changed.
    """

    def __init__(self, blocks: Callable[[], Iterator[list[int]]], skip: int, seed: int, check: Callable[[], None]):
        self.blocks = blocks
        self.check = check
        self.skip = skip
        self.seed = seed

    def __iter__(self) -> Iterator[dict[str, list[int]]]:
        if get_worker_info() is not None:
            raise UserError("a streamed corpus is read in the training process; set the DataLoader's `num_workers=0`")
        for number in count():
            self.check()
            left = islice(self.blocks(), self.skip, None)
            for block in _shuffled(left, Random(f"{self.seed} {number}"), SHUFFLE_BUFFER):
                yield {"input_ids": block}


def stream_blocks(corpus: Corpus, tokenizer: Any, seed: int) -> tuple[BlockStream, Dataset]:
    """The (train, held-out) blocks of a corpus, tokenized and packed on demand.

    Blocks are the same as those of `token_blocks` with a single group: `{"input_ids": ids}` with `corpus.block_length`
    tokens. The first blocks are held out from training: a share `corpus.validation` of 6400, and at least one. Training
    blocks do not end: after the last block, or after `corpus.max_tokens`, the text is read again.

    Raises:
        UserError: the source is missing or unreadable, lacks the column, or leaves no block to train on.
    """
    words = Tokenizer.from_str(packing.backend(tokenizer))
    files = packing.local_files(corpus.source)  # listed once: a file added later would change the first blocks
    before = files and stamps(files)
    blocks = partial(packing.blocks, corpus, files, words, corpus.max_tokens)
    reserved = max(1, round(corpus.validation * HELD_OUT_OF))
    first = list(islice(blocks(), reserved + 1))
    if len(first) <= reserved:
        raise UserError(
            f"the corpus {corpus.source!r} is too small to stream: {len(first)} blocks, where the first {reserved} are "
            "held out; add text, lower `corpus.validation`, or set `corpus.streaming` to false"
        )
    held_out = Dataset(pa.table([pa.array(first[:reserved], SCHEMA.types[0])], schema=SCHEMA))

    def check() -> None:
        if files and stamps(files) != before:
            raise UserError(f"the corpus {corpus.source!r} changed since the stage began; put it back as it was")

    return BlockStream(blocks, reserved, seed, check), held_out


def _shuffled(blocks: Iterable[list[int]], random: Random, size: int) -> Iterator[list[int]]:
    """Yield each block once, after a wait in a buffer of `size` until a later block takes its place."""
    buffer: list[array[int]] = []  # four bytes a token, where a list takes nine times that
    for block in blocks:
        if len(buffer) < size:
            buffer.append(array("i", block))
        else:
            place = random.randrange(size)
            yield buffer[place].tolist()
            buffer[place] = array("i", block)
    random.shuffle(buffer)
    yield from (block.tolist() for block in buffer)
