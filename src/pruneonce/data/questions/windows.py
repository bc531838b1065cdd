"""Questions and contexts as model input: a long context gives several overlapping windows.

As BERT, https://arxiv.org/abs/1810.04805, did for SQuAD: the question comes first, long questions are cut, and contexts
are divided into pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from unicodedata import combining

import numpy as np
from datasets import Dataset, concatenate_datasets

from pruneonce.data.questions.reading import Question
from pruneonce.errors import UserError

MOST_QUESTION_TOKENS = 64  # as in BERT's preprocessing of SQuAD; a longer question is cut
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # stands for damaged bytes; BERT drops it
NO_ANSWER = 0  # the position of the first token, [CLS], which means "no answer"
_BATCH = 1000  # questions at a time: windows as Python numbers take ten times the memory of a Dataset


@dataclass(frozen=True)
class Windows:
    """Model input, and the map from its token positions back to the text.

    Attributes:
        inputs: a row for each window, unpadded: `input_ids`, `attention_mask`, `token_type_ids` if the tokenizer gives
            them, and in training `start_positions` and `end_positions`, the first and the last token of the answer.
        example: [windows], the index of each window's question in the rows; ascending.
        offsets: for each window [tokens, 2] int32, the first character of each token in the context and the character
            after its last; -1 for tokens outside the context.
    """

    inputs: Dataset
    example: np.ndarray
    offsets: list[np.ndarray]


def windows(
    rows: Sequence[Question], tokenizer: Any, max_length: int = 384, doc_stride: int = 128, training: bool = False
) -> Windows:
    """Tokenize questions with their contexts into windows.

    Args:
        rows: the questions, at least one.
        tokenizer: a fast tokenizer that pads on the right, with or without `token_type_ids`.
        max_length: tokens of a window at most, with the question and special tokens.
        doc_stride: tokens by which neighbouring windows overlap, as in transformers' examples. (In BERT's own code it
            is the number of tokens between the starts of neighbouring windows.)
        training: add the positions of the first gold answer, or `NO_ANSWER` in a window that does not hold all of it.

    Raises:
        UserError: the tokenizer is not fast or pads on the left; `max_length` leaves no room beside `doc_stride`.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UserError("question answering needs a fast tokenizer (tokenizer.json), which knows where its tokens are")
    if tokenizer.padding_side != "right":
        raise UserError('question answering needs a tokenizer that pads on the right; set its padding_side to "right"')
    most = most_question_tokens(tokenizer, max_length, doc_stride)
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
        batch_offsets = [
            _of_context(mapping, encoded.sequence_ids(window))
            for window, mapping in enumerate(encoded.pop("offset_mapping"))
        ]
        for index, group in groupby(range(len(of_batch)), key=of_batch.__getitem__):
            fill_holes(batch[index].context, [batch_offsets[window] for window in group])
        columns = dict(encoded)
        if training:
            columns["start_positions"], columns["end_positions"] = _positions(batch, of_batch, batch_offsets)
        inputs.append(Dataset.from_dict(columns))
        example += [first + index for index in of_batch]
        offsets += batch_offsets
    return Windows(concatenate_datasets(inputs), np.array(example), offsets)


def most_question_tokens(tokenizer: Any, max_length: int, doc_stride: int) -> int:
    """Tokens of a question at most: half of the room beside the overlap, so that a window brings many new tokens.

    Raises:
        UserError: `max_length` leaves no room beside `doc_stride`.
    """
    room: int = max_length - tokenizer.num_special_tokens_to_add(pair=True) - doc_stride
    if doc_stride < 0 or room < 2:
        raise UserError(
            f"max_length {max_length} leaves no room for a question beside a doc_stride of {doc_stride}, which has to "
            "be 0 or more; a third of max_length is usual"
        )
    return min(MOST_QUESTION_TOKENS, room // 2)


def _cut(question: str, tokenizer: Any, most: int) -> str:
    """Cut the question to `most` tokens.

    The shorter question is tokenized again, since a cut word can have other pieces than the whole word.
    """
    while True:
        encoded = tokenizer(question, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        mapping = encoded["offset_mapping"]
        if len(mapping) <= most:
            return question
        # Cut where the next token begins: several tokens can share one character, so the end of a token may be too far.
        question = question[: min(mapping[most][0], len(question) - 1)]


def _of_context(mapping: Sequence[tuple[int, int]], sequence: Sequence[int | None]) -> np.ndarray:
    """Offsets [tokens, 2], with -1 for tokens outside the second sequence."""
    offsets = np.array(mapping, dtype=np.int32).reshape(-1, 2)
    offsets[[index != 1 for index in sequence]] = -1
    return offsets


def fill_holes(context: str, windows_of_one: Sequence[np.ndarray]) -> None:
    """Give each character that no token covers to the token beside it, in place.

    A tokenizer with a byte-level step behind another pre-tokenizer takes the space that it puts before a word for a
    character of the word, and leaves the word's first letter out of its offsets
    (https://github.com/EuroEval/EuroEval/issues/2171). A character goes to the token after it, or, where none begins
    there and for a combining mark, to the token before it. White space and characters that are not printed, which
    tokenizers drop on purpose, stay out.

    Args:
        context: the text.
        windows_of_one: offsets of all its windows, as in `Windows`.
    """
    covered = np.zeros(len(context) + 1, dtype=np.int32)
    for offsets in windows_of_one:
        inside = offsets[offsets[:, 0] >= 0]
        np.add.at(covered, inside[:, 0], 1)
        np.add.at(covered, inside[:, 1], -1)
    bare = np.flatnonzero(covered.cumsum()[:-1] == 0).tolist()
    holes = [place for place in bare if _is_seen(context[place])]
    for offsets in windows_of_one if holes else ():
        begins, stops = offsets.T
        for place in reversed(holes):
            after = np.flatnonzero(begins == place + 1)
            if len(after) and not combining(context[place]):
                begins[after[0]] = place
        for place in holes:
            before = np.flatnonzero((stops == place) & (begins >= 0))
            if len(before) and not (begins == place).any():
                stops[before[-1]] = place + 1
    for offsets in windows_of_one:
        inside = np.flatnonzero(offsets[:, 0] >= 0)
        # A token for the space before a word is put behind the first letter of the word in the same way.
        offsets[inside, 0] = np.minimum.accumulate(offsets[inside[::-1], 0])[::-1]


def _is_seen(character: str) -> bool:
    return character.isprintable() and not character.isspace() and character != REPLACEMENT


def _positions(
    rows: Sequence[Question], example: Sequence[int], offsets: Sequence[np.ndarray]
) -> tuple[list[int], list[int]]:
    """First and last tokens of the answer in each window."""
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
    # Nothing is cut at the ends of the context: characters without a token, such as zero-width ones, may be missing.
    context = np.flatnonzero(begins >= 0)
    cut_before = not is_first and first == context[0] and begins[first] > start
    cut_after = not is_last and last == context[-1] and stops[last] < end
    return (NO_ANSWER, NO_ANSWER) if cut_before or cut_after else (first, last)
