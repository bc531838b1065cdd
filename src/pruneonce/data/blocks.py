"""Order and masking of training examples, as functions of the seed and the position alone.

A run on many processes sees the same examples as a run on one process with the same global batch. A resumed run sees
the same examples as an uninterrupted run, whatever the state of the random generators.
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
    """Pass after pass over `blocks`, `size` examples in all, each pass in an order of its own.

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
        """Indices of the blocks in the order of one pass."""
        return np.random.default_rng([self.seed, number]).permutation(len(self.blocks))

    def example(self, index: int, position: int) -> dict[str, Any]:
        """The example made of block `index`, at `position` in training."""
        return {**self.blocks[index], "position": position}


class PassesByLength(Passes):
    """Passes over labelled examples, with examples of similar length in one step to keep padding low.

    Args:
        examples: tokenized examples with `input_ids`.
        size: examples in all.
        seed: of the order.
        step_size: examples of a step.
    """

    def __init__(self, examples: Any, size: int, seed: int, step_size: int):
        super().__init__(examples, size, seed)
        self.lengths = [len(ids) for ids in examples["input_ids"]]
        self.step_size = step_size

    def order_of(self, number: int) -> npt.NDArray[np.int64]:
        chosen = torch.Generator().manual_seed(_mixed_seed(self.seed, number))
        return np.array(get_length_grouped_indices(self.lengths, self.step_size, generator=chosen))

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
    """The `size` examples of a corpus in training order; a stream has its order already and does not end."""
    return Passes(blocks, size, seed) if hasattr(blocks, "__len__") else Numbered(blocks)


def plain_collator(blocks: list[Any]) -> dict[str, Tensor]:
    """Make a batch of blocks of one length, without padding."""
    ids = torch.tensor([block["input_ids"] for block in blocks])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def masked_collator(tokenizer: Any, probability: float, seed: int) -> Collate:
    """Collator that masks tokens as BERT does: 80 % [MASK], 10 % random, 10 % unchanged."""
    masking = DataCollatorForLanguageModeling(tokenizer, mlm_probability=probability, seed=seed)
    special = torch.tensor(tokenizer.all_special_ids)

    def collate(blocks: list[Any]) -> dict[str, Tensor]:
        batch = plain_collator(blocks)
        ids_and_labels = []
        for ids, block in zip(batch["input_ids"], blocks, strict=True):
            masking.generator = torch.Generator().manual_seed(_mixed_seed(seed, block["position"]))
            ids_and_labels.append(masking.torch_mask_tokens(ids[None], torch.isin(ids, special)[None]))
        ids, labels = (torch.cat(parts) for parts in zip(*ids_and_labels, strict=True))
        return {**batch, "input_ids": ids, "labels": labels}

    return collate


def in_pieces(
    collate: Collate, frame: tuple[list[int], list[int]], counts: Sequence[int], step_size: int, seed: int
) -> Collate:
    """Collator that cuts each block into pieces of one length before `collate` makes a batch of them.

    Every piece gets special tokens of its own. All blocks of a step are cut into the same number of pieces, so the
    batch stays free of padding and has at most as many tokens as before. The remainder of a division is cut off at the
    end of the block.

    Args:
        collate: makes a batch of blocks or pieces.
        frame: special tokens before and after a text.
        counts: numbers of pieces, one of which the seed and the step draw at even odds.
        step_size: blocks of a step, over all processes and batches.
        seed: of the draw.
    """
    first, last = frame

    def cut(block: Any, count: int) -> Iterator[dict[str, Any]]:
        ids = list(block["input_ids"])
        body, size = ids[len(first) : -len(last)], len(ids) // count - len(first) - len(last)
        for piece in range(count):
            tokens = body[piece * size : (piece + 1) * size]
            yield {"input_ids": [*first, *tokens, *last], "position": block["position"] * count + piece}

    def collate_pieces(blocks: list[Any]) -> dict[str, Tensor]:
        step = blocks[0]["position"] // step_size
        count = int(np.random.default_rng([seed, step]).choice(counts))
        return collate([piece for block in blocks for piece in cut(block, count)] if count > 1 else blocks)

    return collate_pieces


def _mixed_seed(seed: int, position: int) -> int:
    """Mix seed and position into one seed; neighbouring positions must not give neighbouring random states."""
    return int(np.random.SeedSequence([seed, position]).generate_state(1, np.uint64)[0])
