"""Answers from a model's start and end logits: the best spans over all windows of a question.

Source: BERT, https://arxiv.org/abs/1810.04805, sections 4.2 and 4.3. The score of a span is the start logit of its
first token plus the end logit of its last token. The score of "no answer" is the sum of both logits of [CLS].
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
    """Map each question id to the text of the best answer, the format of SQuAD's scorers.

    Args:
        start_logits: as for `n_best_answers`.
        end_logits: as for `n_best_answers`.
        windows: as for `n_best_answers`.
        rows: as for `n_best_answers`.
        n_best: as for `n_best_answers`.
        max_answer_length: as for `n_best_answers`.
        null_threshold: with `no_answer`, the answer is "" if the score of "no answer" exceeds the score of the best
            span by more than this. A higher threshold leaves fewer questions without an answer.
        no_answer: questions may have no answer, as in SQuAD 2.0. Otherwise the answer is "" only for a context without
            tokens.
    """
    best = {}
    candidates = n_best_answers(start_logits, end_logits, windows, rows, n_best, max_answer_length, no_answer)
    for identity, answers in candidates.items():
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
    """Map each question id to its best answers, best first.

    A logit that is nan ranks below any other. Among equal scores, the earlier window and token come first.

    Args:
        start_logits: logits [tokens] of each window; logits of padding may follow, so [windows, tokens] is accepted.
        end_logits: likewise.
        windows: windows of `rows`.
        rows: the questions.
        n_best: number of start and of end positions considered in each window, and of answers to each question. Only
            tokens of the context are considered, so the padding of inputs makes no difference.
        max_answer_length: tokens of an answer at most.
        no_answer: add "no answer" to the `n_best`, with its lowest score over all windows, since windows without the
            answer score "no answer" high.

    Raises:
        UserError: the numbers of logits and windows differ, or a window has more tokens than logits.
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
        starts, ends = _finite(starts), _finite(ends)
        nulls[index] = min(nulls[index], starts[NO_ANSWER] + ends[NO_ANSWER])
        best = spans[index]
        for span, score in _spans(starts, ends, offsets, n_best, max_answer_length):
            if score > best.get(span, -np.inf):  # windows overlap: a span can lie in several
                best[span] = score
    answers_by_id = {}
    for row, best, null in zip(rows, spans, nulls, strict=True):
        ranked = sorted(best.items(), key=lambda item: -item[1])
        answers = [_answer(row.context, start, end, score) for (start, end), score in ranked]
        answers = [answer for answer in answers if answer.text][:n_best]
        if no_answer:
            answers = sorted([*answers, Answer("", float(null), 0, 0)], key=lambda answer: -answer.score)
        answers_by_id[row.id] = answers
    return answers_by_id


def _spans(
    starts: np.ndarray, ends: np.ndarray, offsets: np.ndarray, n_best: int, max_answer_length: int
) -> list[tuple[tuple[int, int], float]]:
    """Score a window's `n_best` spans, best first: `((first character, character after the last), score)`."""
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
    text = context[start:end]  # byte-level tokenizers make the space before a word a part of the word
    bare = text.strip()
    start += len(text) - len(text.lstrip())
    return Answer(bare, score, start, start + len(bare)) if bare else Answer("", score, 0, 0)


def _finite(logits: np.ndarray) -> np.ndarray:
    """Replace nan and infinities by finite numbers, so that the sum of any two logits is finite."""
    return np.nan_to_num(np.asarray(logits, dtype=np.float64), nan=-1e30, posinf=1e30, neginf=-1e30)
