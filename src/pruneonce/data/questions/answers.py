"""Answers from a model's start and end logits: the best spans over all windows of a question.

As https://arxiv.org/abs/1810.04805, sections 4.2 and 4.3, has it: the score of a span is the logit of its first token
as a start plus that of its last as an end; that of "no answer" is the sum of both logits of [CLS].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pruneonce.data.questions.reading import Question
from pruneonce.data.questions.windows import NO_ANSWER, Windows
from pruneonce.errors import UserError


class Answer(NamedTuple):
    """A span of the context: `context[start:end]`, without white space around it. "" at 0, 0 is "no answer"."""

    text: str
    score: float
    start: int
    end: int


def best_answers(
    start_logits: Sequence[np.ndarray] | np.ndarray,
    end_logits: Sequence[np.ndarray] | np.ndarray,
    windows: Windows,
    rows: Sequence[Question],
    n_best: int = 20,
    max_answer_length: int = 30,
    null_threshold: float = 0.0,
    no_answer: bool = False,
) -> dict[str, str]:
    """`{question id: text of the best answer}`, as SQuAD's scorers take it.

    Args:
        null_threshold: with `no_answer`, the answer is "" where the score of "no answer" is more than this above that
            of the best span. Higher: fewer questions are left without an answer.
        no_answer: whether questions may have no answer, as in SQuAD 2.0. Without it, "" is only for a context
            that has no tokens.

    The others are as for `n_best_answers`.
    """
    best = {}
    found = n_best_answers(start_logits, end_logits, windows, rows, n_best, max_answer_length, no_answer)
    for identity, answers in found.items():
        span = next((answer for answer in answers if answer.text), None)
        null = next((answer for answer in answers if not answer.text), None)
        dropped = span is None or (null is not None and null.score - span.score > null_threshold)
        best[identity] = "" if span is None or dropped else span.text
    return best


def n_best_answers(
    start_logits: Sequence[np.ndarray] | np.ndarray,
    end_logits: Sequence[np.ndarray] | np.ndarray,
    windows: Windows,
    rows: Sequence[Question],
    n_best: int = 20,
    max_answer_length: int = 30,
    no_answer: bool = False,
) -> dict[str, list[Answer]]:
    """`{question id: the best answers, best first}`.

    Args:
        start_logits: for each window its logits [tokens]; those of padding may follow, so [windows, tokens] will do.
        end_logits: likewise.
        windows: of `rows`.
        rows: the questions.
        n_best: how many starts and how many ends are looked at in each window, and answers given for each question.
            They are looked for in the context alone, so that it does not matter how inputs were padded.
        max_answer_length: tokens of an answer at most.
        no_answer: have "no answer" among the answers, beside the `n_best`, with the lowest score that any window gives
            it: a window that has not the answer may well want none.

    A logit that is nan is worse than any other. Of equal scores, that of the earlier window and token is first.

    Raises:
        UserError: there are not as many logits as windows, or fewer than a window has tokens.
    """
    if not len(start_logits) == len(end_logits) == len(windows.offsets):
        raise UserError(
            f"{len(start_logits)} rows of start logits and {len(end_logits)} of end logits for "
            f"{len(windows.offsets)} windows"
        )
    spans: list[dict[tuple[int, int], float]] = [{} for _ in rows]
    nulls = np.full(len(rows), np.inf)
    for index, offsets, starts, ends in zip(windows.example, windows.offsets, start_logits, end_logits, strict=True):
        if min(len(starts), len(ends)) < len(offsets):
            raise UserError(f"{min(len(starts), len(ends))} logits for a window of {len(offsets)} tokens")
        starts, ends = _plain(starts), _plain(ends)
        nulls[index] = min(nulls[index], starts[NO_ANSWER] + ends[NO_ANSWER])
        best = spans[index]
        for span, score in _spans(starts, ends, offsets, n_best, max_answer_length):
            if score > best.get(span, -np.inf):  # windows overlap: a span can be in several
                best[span] = score
    found = {}
    for row, best, null in zip(rows, spans, nulls, strict=True):
        ranked = sorted(best.items(), key=lambda item: -item[1])
        answers = [_answer(row.context, start, end, score) for (start, end), score in ranked]
        answers = [answer for answer in answers if answer.text][:n_best]
        if no_answer:
            answers = sorted([*answers, Answer("", float(null), 0, 0)], key=lambda answer: -answer.score)
        found[row.id] = answers
    return found


def _spans(
    starts: np.ndarray, ends: np.ndarray, offsets: np.ndarray, n_best: int, max_answer_length: int
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


def _plain(logits: np.ndarray) -> np.ndarray:
    """Finite numbers, so that all sums of two are."""
    return np.nan_to_num(np.asarray(logits, dtype=np.float64), nan=-1e30, posinf=1e30, neginf=-1e30)
