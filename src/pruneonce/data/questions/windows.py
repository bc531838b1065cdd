"""Questions and contexts as model input: a long context gives several windows that overlap.

As https://arxiv.org/abs/1810.04805 did for SQuAD: the question first, long questions cut, contexts in pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets

from pruneonce.data.questions.reading import Question
from pruneonce.errors import UserError

MOST_QUESTION_TOKENS = 64  # as in BERT's preprocessing of SQuAD; a longer question is cut
NO_ANSWER = 0  # the position that means "no answer": that of the first token, [CLS]
_BATCH = 1000  # questions at a time: as Python numbers, windows take ten times the memory that they take in a Dataset


@dataclass(frozen=True)
class Windows:
    """Model input, and what it takes to find the text again that a position in it stands for.

    Attributes:
        inputs: a row for each window, unpadded: `input_ids`, `attention_mask`, `token_type_ids` where the tokenizer
            gives them, and in training `start_positions` and `end_positions`, the first and the last token of the
            answer.
        example: [windows], of which question, as an index into the rows, each window is; ascending.
        offsets: for each window [tokens, 2] int32, the characters of the context from which and before which each
            token is; -1 for what is not of the context.
    """

    inputs: Dataset
    example: np.ndarray
    offsets: list[np.ndarray]


def windows(
    rows: Sequence[Question], tokenizer: Any, max_length: int = 384, doc_stride: int = 128, training: bool = False
) -> Windows:
    """Tokenize questions with their contexts, in windows.

    Args:
        rows: the questions, at least one.
        tokenizer: a fast one that pads on the right. Whether it gives `token_type_ids` does not matter.
        max_length: tokens of a window at most, with the question and special tokens.
        doc_stride: tokens by which a window overlaps with the one before it, as in transformers' examples. (In BERT's
            own code it is the number of tokens from one start to the next.)
        training: give positions. Those of the first gold answer, where a window holds the whole of it; else `NO_ANSWER`
            for both.

    Raises:
        UserError: the tokenizer is not fast or pads on the left; `max_length` leaves no room beside `doc_stride`.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UserError("question answering needs a fast tokenizer (tokenizer.json), which knows where its tokens are")
    if tokenizer.padding_side != "right":
        raise UserError('question answering needs a tokenizer that pads on the right; set its padding_side to "right"')
    # What the overlap leaves goes half to the question at most, so that a window always brings many new tokens.
    room = max_length - tokenizer.num_special_tokens_to_add(pair=True) - doc_stride
    if doc_stride < 0 or room < 2:
        raise UserError(
            f"max_length {max_length} leaves no room for a question beside a doc_stride of {doc_stride}, which has to "
            "be 0 or more; a third of max_length is usual"
        )
    most = min(MOST_QUESTION_TOKENS, room // 2)
    inputs: list[Dataset] = []
    example: list[int] = []
    offsets: list[np.ndarray] = []
    for first in range(0, len(rows), _BATCH):
        batch = rows[first : first + _BATCH]
        encoded = tokenizer(
            [_cut(row.question, tokenizer, most) for row in batch],
            [row.context for row in batch],
            truncation="only_second",
            max_length=max_length,
            stride=doc_stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        of_batch = encoded.pop("overflow_to_sample_mapping")
        found = [
            _of_context(mapping, encoded.sequence_ids(window))
            for window, mapping in enumerate(encoded.pop("offset_mapping"))
        ]
        columns = dict(encoded)
        if training:
            columns["start_positions"], columns["end_positions"] = _positions(batch, of_batch, found)
        inputs.append(Dataset.from_dict(columns))
        example += [first + index for index in of_batch]
        offsets += found
    return Windows(concatenate_datasets(inputs), np.array(example), offsets)


def _cut(question: str, tokenizer: Any, most: int) -> str:
    """The question without what is behind its first `most` tokens.

    The rest is tokenized again, as a cut word can have other pieces than it had.
    """
    while True:
        encoded = tokenizer(question, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        mapping = encoded["offset_mapping"]
        if len(mapping) <= most:
            return question
        # Not the end of the last token that fits: several tokens can be of one character, and end with it.
        question = question[: min(mapping[most][0], len(question) - 1)]


def _of_context(mapping: Sequence[tuple[int, int]], sequence: Sequence[int | None]) -> np.ndarray:
    """Offsets [tokens, 2], -1 where a token is not of the second sequence."""
    offsets = np.array(mapping, dtype=np.int32).reshape(-1, 2)
    offsets[[index != 1 for index in sequence]] = -1
    return offsets


def _positions(
    rows: Sequence[Question], example: Sequence[int], offsets: Sequence[np.ndarray]
) -> tuple[list[int], list[int]]:
    """First and last token of the answer in each window."""
    starts, ends = [], []
    for index, of_one in groupby(range(len(example)), key=example.__getitem__):
        group = [offsets[window] for window in of_one]
        for number, window in enumerate(group):
            start, end = _position(rows[index], window, number == 0, number == len(group) - 1)
            starts.append(start)
            ends.append(end)
    return starts, ends


def _position(row: Question, offsets: np.ndarray, is_first: bool, is_last: bool) -> tuple[int, int]:
    if not row.answers:
        return NO_ANSWER, NO_ANSWER
    text = row.answers[0]
    start = row.starts[0] + len(text) - len(text.lstrip())
    end = row.starts[0] + len(text.rstrip())
    begins, stops = offsets.T
    tokens = np.flatnonzero((begins >= 0) & (begins < end) & (stops > start))
    if not len(tokens):
        return NO_ANSWER, NO_ANSWER
    first, last = int(tokens[0]), int(tokens[-1])
    # At the ends of the context nothing is cut: characters without a token, such as zero-width ones, may be missing.
    context = np.flatnonzero(begins >= 0)
    cut_before = not is_first and first == context[0] and begins[first] > start
    cut_after = not is_last and last == context[-1] and stops[last] < end
    return (NO_ANSWER, NO_ANSWER) if cut_before or cut_after else (first, last)
