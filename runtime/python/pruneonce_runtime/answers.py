"""Answers to questions as spans of a context: windows of long contexts, and the best spans over all windows.

As https://arxiv.org/abs/1810.04805, sections 4.2 and 4.3: the question first, long questions cut, contexts in windows
that overlap. The score of a span is the logit of its first token as a start plus that of its last as an end; that of
"no answer" is the sum of both logits of the first token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding

from pruneonce_runtime.errors import PruneonceError
from pruneonce_runtime.spec import Floats, Int32s
from pruneonce_runtime.tokenize import Tokenizer, Tokens, check_text

MOST_QUESTION_TOKENS = 64  # a longer question is cut, as in training
NO_ANSWER = 0  # the position that means "no answer"

Doubles = npt.NDArray[np.float64]


class Answer(NamedTuple):
    """A span of the context: `context[start:end]`, without white space around it. "" at 0, 0 is "no answer"."""

    text: str
    score: float
    start: int
    end: int


@dataclass(frozen=True, eq=False)
class Window:
    """A question with a piece of its context.

    Attributes:
        offsets: [tokens, 2], the characters of the context from which and before which each token is; -1 for what is
            not of the context.
    """

    tokens: Tokens
    offsets: Int32s


def windows(tokenizer: Tokenizer, question: str, context: str, max_length: int, doc_stride: int) -> list[Window]:
    """
    Args:
        max_length: tokens of a window at most, with the question and special tokens.
        doc_stride: tokens by which a window overlaps with the one before it.

    Raises:
        PruneonceError: `max_length` leaves no room beside `doc_stride`, or is more than the model takes.
    """
    check_text((question, context))
    room = max_length - tokenizer.special - doc_stride
    if doc_stride < 0 or room < 2:
        raise PruneonceError(
            f"max_length {max_length} leaves no room for a question beside a doc_stride of {doc_stride}, which has to "
            "be 0 or more; a third of max_length is usual"
        )
    tokenizer.check_length(max_length)
    short = _cut(tokenizer, question, min(MOST_QUESTION_TOKENS, room // 2))
    settings = {"stride": doc_stride, "strategy": "only_second", "direction": "right"}
    with tokenizer.shared.truncating(max_length, **settings) as raw:
        first = raw.encode(short, context)
    return [Window(tokenizer.tokens(one), _of_context(one)) for one in (first, *first.overflowing)]


def _cut(tokenizer: Tokenizer, question: str, most: int) -> str:
    """The question without what is behind its first `most` tokens.

    The rest is tokenized again, as a cut word can have other pieces than it had.
    """
    while True:
        with tokenizer.shared.truncating(None) as raw:
            offsets = raw.encode(question, add_special_tokens=False).offsets
        if len(offsets) <= most:
            return question
        # Not the end of the last token that fits: several tokens can be of one character, and end with it.
        question = question[: min(offsets[most][0], len(question) - 1)]


def _of_context(encoding: Encoding) -> Int32s:
    """Offsets [tokens, 2], -1 where a token is not of the second sequence."""
    offsets = np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2)
    offsets[[index != 1 for index in encoding.sequence_ids]] = -1
    return offsets


def best_answer(
    context: str,
    found: Sequence[Window],
    logits: Sequence[Floats],
    n_best: int,
    max_answer_length: int,
    no_answer: bool,
    null_threshold: float,
) -> Answer:
    """The best span over all windows of a question.

    Args:
        logits: for each window [tokens, 2], start and end.
        n_best: how many starts and how many ends are looked at in each window, in the context alone.
        max_answer_length: tokens of an answer at most.
        no_answer: whether the context may lack an answer. It then does where the lowest score that any window gives to
            "no answer" is more than `null_threshold` above that of the best span. Without it, "" is only for a context
            that has no tokens.

    A logit that is nan is worse than any other. Of equal scores, that of the earlier window and token is first.
    """
    spans: dict[tuple[int, int], float] = {}
    null = np.inf
    for window, each in zip(found, logits, strict=True):
        starts, ends = _plain(each[:, 0]), _plain(each[:, 1])
        null = min(null, starts[NO_ANSWER] + ends[NO_ANSWER])
        for span, score in _spans(starts, ends, window.offsets, n_best, max_answer_length):
            if score > spans.get(span, -np.inf):  # windows overlap: a span can be in several
                spans[span] = score
    ranked = sorted(spans.items(), key=lambda item: -item[1])
    answers = (_answer(context, start, end, score) for (start, end), score in ranked)
    best = next((answer for answer in answers if answer.text), None)
    if best is None or (no_answer and null - best.score > null_threshold):
        return Answer("", float(null), 0, 0)
    return best


def _spans(
    starts: Doubles, ends: Doubles, offsets: Int32s, n_best: int, max_answer_length: int
) -> list[tuple[tuple[int, int], float]]:
    """`((first character, character after the last), score)` of a window's `n_best` spans, best first."""
    context = np.flatnonzero(offsets[:, 0] >= 0)
    first = context[np.argsort(-starts[context], kind="stable")[:n_best]]
    last = context[np.argsort(-ends[context], kind="stable")[:n_best]]
    length = last[None, :] - first[:, None] + 1
    at_first, at_last = np.nonzero((length >= 1) & (length <= max_answer_length))
    scores = starts[first[at_first]] + ends[last[at_last]]
    order = np.lexsort((last[at_last], first[at_first], -scores))[:n_best]
    begins, stops = offsets[first[at_first[order]], 0], offsets[last[at_last[order]], 1]
    return list(zip(zip(begins.tolist(), stops.tolist(), strict=True), scores[order].tolist(), strict=True))


def _answer(context: str, start: int, end: int, score: float) -> Answer:
    text = context[start:end]  # byte-level tokenizers count the space before a word to it
    bare = text.strip()
    start += len(text) - len(text.lstrip())
    return Answer(bare, score, start, start + len(bare)) if bare else Answer("", score, 0, 0)


def _plain(logits: npt.NDArray[Any]) -> Doubles:
    """Finite numbers, so that all sums of two are."""
    return np.nan_to_num(np.asarray(logits, dtype=np.float64), nan=-1e30, posinf=1e30, neginf=-1e30)
