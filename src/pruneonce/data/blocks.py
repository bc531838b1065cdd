"""The order in which training takes its examples, and how it masks them: functions of seed and position alone.

So a run on many processes sees what a run on one does at the same global batch, and a resumed one what an
uninterrupted one does, whatever the random state was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset
from transformers import DataCollatorForLanguageModeling
from transformers.trainer_pt_utils import get_length_grouped_indices

Collate = Callable[[list[Any]], dict[str, Tensor]]


class Passes(TorchDataset[dict[str, Any]]):
    """`size` examples: pass after pass over `blocks`, each in an order of its own.

    An example is the block with its `position` in training.
    """

    def __init__(self, blocks: Any, size: int, seed: int):
        self.blocks, self.size, self.seed = blocks, size, seed
        self.number, self.order = -1, np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, position: int) -> dict[str, Any]:
        if not 0 <= position < self.size:
            raise IndexError(position)
        number, place = divmod(position, len(self.blocks))
        if number != self.number:
            self.number, self.order = number, self.order_of(number)
        return self.example(int(self.order[place]), position)

    def order_of(self, number: int) -> npt.NDArray[np.int64]:
        """The order of a pass."""
        return np.random.default_rng([self.seed, number]).permutation(len(self.blocks))

    def example(self, index: int, position: int) -> dict[str, Any]:
        return {**self.blocks[index], "position": position}


class PassesByLength(Passes):
    """The same over labelled examples, those of like length together, so that little of a batch is padding.

    Args:
        together: examples of a step.
    """

    def __init__(self, examples: Any, size: int, seed: int, together: int):
        super().__init__(examples, size, seed)
        self.lengths = [len(ids) for ids in examples["input_ids"]]
        self.together = together

    def order_of(self, number: int) -> npt.NDArray[np.int64]:
        chosen = torch.Generator().manual_seed(_mixed(self.seed, number))
        return np.array(get_length_grouped_indices(self.lengths, self.together, generator=chosen))

    def example(self, index: int, position: int) -> dict[str, Any]:
        return dict(self.blocks[index])


class Numbered(IterableDataset[dict[str, Any]]):
    """A stream of blocks, each with its `position` in training."""

    def __init__(self, blocks: Any):
        self.blocks = blocks

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for position, block in enumerate(self.blocks):
            yield {**block, "position": position}


def in_order(blocks: Any, size: int, seed: int) -> Passes | Numbered:
    """`size` examples of a corpus; a stream is in its order already and does not end."""
    return Passes(blocks, size, seed) if hasattr(blocks, "__len__") else Numbered(blocks)


def plain_collator(blocks: list[Any]) -> dict[str, Tensor]:
    """Blocks, all of one length and without padding, into a batch."""
    ids = torch.tensor([block["input_ids"] for block in blocks])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def masked_collator(tokenizer: Any, probability: float, seed: int) -> Collate:
    """Blocks into a batch with masked tokens: 80 % [MASK], 10 % random, 10 % unchanged, as BERT does."""
    masking = DataCollatorForLanguageModeling(tokenizer, mlm_probability=probability, seed=seed)
    special = torch.tensor(tokenizer.all_special_ids)

    def collate(blocks: list[Any]) -> dict[str, Tensor]:
        batch = plain_collator(blocks)
        masked = []
        for ids, block in zip(batch["input_ids"], blocks, strict=True):
            masking.generator = torch.Generator().manual_seed(_mixed(seed, block["position"]))
            masked.append(masking.torch_mask_tokens(ids[None], torch.isin(ids, special)[None]))
        ids, labels = (torch.cat(parts) for parts in zip(*masked, strict=True))
        return {**batch, "input_ids": ids, "labels": labels}

    return collate


def in_pieces(
    collate: Collate, frame: tuple[list[int], list[int]], counts: Sequence[int], together: int, seed: int
) -> Collate:
    """`collate` of the blocks of a step cut into so many texts of one length, with special tokens of their own.

    A step has one of `counts`, drawn at even odds by the seed and the step, so that its batch stays free of padding and
    has at most as many tokens as before. What does not divide is cut off at the end of a block.

    Args:
        frame: special tokens before and after a text.
        together: blocks of a step, over all processes and batches.
    """
    first, last = frame

    def cut(block: Any, count: int) -> Iterator[dict[str, Any]]:
        ids = list(block["input_ids"])
        body, size = ids[len(first) : -len(last)], len(ids) // count - len(first) - len(last)
        for piece in range(count):
            tokens = body[piece * size : (piece + 1) * size]
            yield {"input_ids": [*first, *tokens, *last], "position": block["position"] * count + piece}

    def collate_pieces(blocks: list[Any]) -> dict[str, Tensor]:
        step = blocks[0]["position"] // together
        count = int(np.random.default_rng([seed, step]).choice(counts))
        return collate([piece for block in blocks for piece in cut(block, count)] if count > 1 else blocks)

    return collate_pieces


def _mixed(seed: int, position: int) -> int:
    """One number for both; neighbouring ones must not give neighbouring random states."""
    return int(np.random.SeedSequence([seed, position]).generate_state(1, np.uint64)[0])
