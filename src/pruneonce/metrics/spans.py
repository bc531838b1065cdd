"""Named entities and other spans, as CoNLL's conlleval scores them, which is seqeval's default mode.

A span is right if type, first and last token are. Tags are O, B-TYPE and I-TYPE (IOB1, IOB2), with E-TYPE or L-TYPE for
a last token and S-TYPE or U-TYPE for a span of one (BIOES, BILOU). No tag sequence is invalid: an I- after O or after
another type begins a span, as IOB1 has it, so that what a model predicts can always be scored.

seqeval (https://github.com/chakki-works/seqeval) itself is not used: its last release, of 2020, is source only.
"""

from __future__ import annotations

from collections.abc import Sequence

from pruneonce.errors import UserError

METRICS = ["precision", "recall", "f1", "accuracy"]
_ONE_LETTER = {"L": "E", "U": "S"}  # BILOU's names for what BIOES has

Span = tuple[str, int, int]


def score(predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]) -> dict[str, float]:
    """The quality of tags, a sequence of them for each text.

    Returns:
        `precision`, `recall` and `f1` of the spans of all texts and types together, and `accuracy`, the fraction of
        tokens with the right tag; 0 to 1, and 0 where nothing is predicted, or nothing there, to divide by.

    Raises:
        UserError: a tag is none (see `spans`).
        ValueError: a text has not as many predicted as gold tags.
    """
    correct = found = wanted = right = tokens = 0
    for theirs, ours in zip(predicted, gold, strict=True):
        right += sum(one == other for one, other in zip(theirs, ours, strict=True))
        tokens += len(ours)
        of_theirs, of_ours = set(spans(theirs)), set(spans(ours))
        correct += len(of_theirs & of_ours)
        found += len(of_theirs)
        wanted += len(of_ours)
    return {
        "precision": _ratio(correct, found),
        "recall": _ratio(correct, wanted),
        "f1": _ratio(2 * correct, found + wanted),  # = 2 P R / (P + R)
        "accuracy": _ratio(right, tokens),
    }


def spans(tags: Sequence[str]) -> list[Span]:
    """The spans of one text: `(type, first token, last token)`, in order.

    Raises:
        UserError: a tag is not a span's; `is_tag` says so of one.
    """
    found: list[Span] = []
    begun: int | None = None
    letter, kind = "O", ""
    for token, tag in enumerate([*tags, "O"]):
        before, kind_before = letter, kind
        letter, kind = _parsed(tag)
        begins = letter != "O" and (letter in "BS" or before in "OES" or kind != kind_before)
        if begun is not None and (begins or letter == "O"):
            found.append((kind_before, begun, token - 1))
            begun = None
        if begins:
            begun = token
    return found


def is_tag(tag: str) -> bool:
    """Whether `tag` is O or one of the letters BIESLU, alone or with `-TYPE`, so that spans can be read off it."""
    return tag == "O" or (tag[:1] in tuple("BIESLU") and (len(tag) == 1 or tag[1] == "-"))


def _parsed(tag: str) -> tuple[str, str]:
    if not is_tag(tag):
        raise UserError(f"tag {tag!r} does not mark a span: it has to be O, or B-TYPE, I-TYPE, E-TYPE or S-TYPE")
    return _ONE_LETTER.get(tag[0], tag[0]), tag[2:]


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
