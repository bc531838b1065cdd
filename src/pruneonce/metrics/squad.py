"""Exact match and F1 of answers, as the scorers of SQuAD have them.

v1.1: https://arxiv.org/abs/1606.05250, v2.0, with questions that have no answer: https://arxiv.org/abs/1806.03822.

The rules are those of v2.0's scorer, which gives what v1.1's gives for data of v1.1 in all but one case: a gold answer
of which normalization leaves nothing ("The") is passed over where there are others, and else means "no answer". v1.1's
scorer counts "the" as an exact match of it with an F1 of 0.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence

from pruneonce.errors import UserError

METRICS = ["exact_match", "f1"]
_PUNCTUATION = str.maketrans("", "", string.punctuation)  # of ASCII only: a typographic quote is a character as any
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def normalized(text: str) -> str:
    """Lower case, without punctuation and then without articles, the words joined by one space."""
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 if the prediction is one of the gold answers, both normalized, else 0; without answers, "" is right."""
    return float(normalized(prediction) in _gold(answers))


def f1(prediction: str, answers: Sequence[str]) -> float:
    """F1 of the words of prediction and gold answer, normalized, 0 to 1: that of the gold answer it fits best."""
    words = normalized(prediction).split()
    return max(_overlap(words, answer.split()) for answer in _gold(answers))


def score(predictions: Mapping[str, str], answers: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """The quality of all answers together.

    Args:
        predictions: `{question id: text}`, "" for "no answer".
        answers: `{question id: gold answers}`, none of them where the question has no answer.

    Returns:
        `exact_match` and `f1` in percent, 0 to 100, and, where there are questions with and without answers, both for
        each kind alone: `HasAns_exact`, `HasAns_f1`, `NoAns_exact`, `NoAns_f1`.

    Raises:
        UserError: there are no questions, or one has no prediction.
    """
    missing = next((question for question in answers if question not in predictions), None)
    if missing is not None:
        raise UserError(f"question {missing!r} has no prediction; one is needed for each, an empty one for no answer")
    if not answers:
        raise UserError("there are no questions to score answers to")
    scores = {
        question: (exact_match(predictions[question], gold), f1(predictions[question], gold))
        for question, gold in answers.items()
    }
    exact, overlap = _percent(list(scores.values()))
    found = {"exact_match": exact, "f1": overlap}
    kinds = {
        "HasAns": [scores[question] for question, gold in answers.items() if gold],
        "NoAns": [scores[question] for question, gold in answers.items() if not gold],
    }
    if all(kinds.values()):
        for kind, some in kinds.items():
            found[f"{kind}_exact"], found[f"{kind}_f1"] = _percent(some)
    return found


def _gold(answers: Sequence[str]) -> list[str]:
    return [text for text in map(normalized, answers) if text] or [""]


def _overlap(prediction: list[str], answer: list[str]) -> float:
    if not prediction or not answer:  # "no answer", of which part cannot be right
        return float(prediction == answer)
    common = (Counter(prediction) & Counter(answer)).total()  # a word counts as often as both have it
    return 2 * common / (len(prediction) + len(answer))  # = 2 P R / (P + R)


def _percent(scores: Sequence[tuple[float, float]]) -> tuple[float, float]:
    exact, overlap = (100 * sum(column) / len(scores) for column in zip(*scores, strict=True))
    return exact, overlap
