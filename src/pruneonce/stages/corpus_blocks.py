"""Token blocks that the stages `prepare` and `prune` train on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruneonce.data.blocks import in_order
from pruneonce.data.corpus import blocks_of
from pruneonce.errors import UserError
from pruneonce.recipe import Corpus, Training
from pruneonce.system import distributed
from pruneonce.training import examples_of, total_steps


@dataclass(frozen=True)
class CorpusBlocks:
    """Blocks of tokens, all of one length.

    Attributes:
        train: the blocks to learn from; without a length where they are streamed.
        held_out: blocks to measure the loss on.
        length: tokens of a block.
        tokenizer: the tokenizer of the blocks.
    """

    train: Any
    held_out: Any
    length: int
    tokenizer: Any

    @classmethod
    def read(cls, corpus: Corpus, settings: Training, tokenizer: Any, cache: Path, seed: int) -> CorpusBlocks:
        """Return the blocks of `corpus`, which the first process prepares and the others read.

        Raises:
            UserError: a mistake in the corpus; it is streamed and `settings` have no steps.
        """
        if corpus.streaming and settings.steps is None:
            raise UserError("a streamed corpus has no known length: give `steps`, not `epochs`")
        train, held_out = distributed.first_then_all(lambda: blocks_of(corpus, tokenizer, cache, seed))
        return cls(train, held_out, corpus.block_length, tokenizer)

    def steps(self, settings: Training) -> int:
        """Return the optimizer steps of a run over the blocks."""
        return settings.steps or total_steps(settings, len(self.train))

    def in_order(self, settings: Training, steps: int, seed: int) -> Any:
        """Return the examples of a run of so many steps, in order."""
        return in_order(self.train, examples_of(settings, steps), seed)
