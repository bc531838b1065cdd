"""Metrics of named entities and other spans, as in CoNLL's conlleval, which is seqeval's default mode.

A span is correct if its type, first token and last token are correct. Tags are O, B-TYPE and I-TYPE (IOB1, IOB2), with
E-TYPE or L-TYPE for a last token and S-TYPE or U-TYPE for a span of one token (BIOES, BILOU). Every tag sequence is
valid: an I- after O or after another type begins a span, as in IOB1, so that any prediction can be scored.

seqeval (https://github.com/chakki-works/seqeval) itself is not used: its latest release, of 2020, is source only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pruneonce.errors import UserError
from pruneonce.metrics.units import Array, ratio

METRICS = ["precision", "recall", "f1", "accuracy"]
_ONE_LETTER = {"L": "E", "U": "S"}  # BILOU's letters to those of BIOES

Span = tuple[str, int, int]


def score(predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]) -> dict[str, float]:
    """Score predicted tags against gold tags, a sequence of tags for each text.

    Returns:
        `precision`, `recall` and `f1` of the spans of all texts and types together, and `accuracy`, the fraction of
        tokens with the correct tag; 0 to 1, and 0 if the divisor is 0.

    Raises:
        UserError: a tag is invalid (see `is_tag`).
        ValueError: a text has different numbers of predicted and gold tags.
    """
    return {name: float(value) for name, value in of_counts(counts(predicted, gold).sum(0)).items()}


def counts(predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]) -> Array:
    """Count in each text, [texts, 5]: correct, predicted and gold spans, tokens with the correct tag, and tokens.

    Arguments and errors as `score`.
    """
    rows = np.zeros((len(gold), 5), dtype=np.int64)
    for row, theirs, ours in zip(rows, predicted, gold, strict=True):
        correct_tags = sum(one == other for one, other in zip(theirs, ours, strict=True))
        of_theirs, of_ours = set(spans(theirs)), set(spans(ours))
        row[:] = len(of_theirs & of_ours), len(of_theirs), len(of_ours), correct_tags, len(ours)
    return rows


def of_counts(sums: Array) -> dict[str, Array]:
    """Return the metrics [...] of sums [..., 5] of `counts`."""
    correct, predicted_spans, gold_spans, correct_tags, tokens = np.moveaxis(np.asarray(sums), -1, 0)
    return {
        "precision": ratio(correct, predicted_spans),
        "recall": ratio(correct, gold_spans),
        "f1": ratio(2 * correct, predicted_spans + gold_spans),  # = 2 P R / (P + R)
        "accuracy": ratio(correct_tags, tokens),
    }


def spans(tags: Sequence[str]) -> list[Span]:
    """The spans of one text, in order: `(type, first token, last token)`.

    Raises:
        UserError: a tag is invalid (see `is_tag`).
    """
    text_spans: list[Span] = []
    first: int | None = None
    letter, kind = "O", ""
    for token, tag in enumerate([*tags, "O"]):
        before, kind_before = letter, kind
        letter, kind = _parsed(tag)
        begins = letter != "O" and (letter in "BS" or before in "OES" or kind != kind_before)
        if first is not None and (begins or letter == "O"):
            text_spans.append((kind_before, first, token - 1))
            first = None
        if begins:
            first = token
    return text_spans


def is_tag(tag: str) -> bool:
    """Return whether `tag` is valid: O, or one of the letters BIESLU, alone or with `-TYPE`."""
    return tag == "O" or (tag[:1] in tuple("BIESLU") and (len(tag) == 1 or tag[1] == "-"))


def _parsed(tag: str) -> tuple[str, str]:
    if not is_tag(tag):
        raise UserError(f"tag {tag!r} does not mark a span: it has to be O, or B-TYPE, I-TYPE, E-TYPE or S-TYPE")
    return _ONE_LETTER.get(tag[0], tag[0]), tag[2:]
