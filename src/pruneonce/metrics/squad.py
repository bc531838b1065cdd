"""Exact match and F1 of answers, by the rules of SQuAD's scorers.

v1.1: https://arxiv.org/abs/1606.05250. v2.0, with unanswerable questions: https://arxiv.org/abs/1806.03822.

The rules are those of v2.0's scorer. They give the same results as v1.1's scorer for data of v1.1, with one exception:
a gold answer that normalization makes empty ("The"). Here it is ignored beside other gold answers, and alone it means
"no answer". v1.1's scorer counts "the" as an exact match of it, with an F1 of 0.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence

from pruneonce.errors import UserError

METRICS = ["exact_match", "f1"]
_PUNCTUATION = str.maketrans("", "", string.punctuation)  # ASCII only: a typographic quote is a plain character
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def normalized(text: str) -> str:
    """Normalize a text: lower case, no punctuation, no articles, single spaces between words."""
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """Return 1 if the normalized prediction is a normalized gold answer, else 0; without answers, "" is correct."""
    return float(normalized(prediction) in _gold(answers))


def f1(prediction: str, answers: Sequence[str]) -> float:
    """F1 of the normalized words of the prediction and the gold answer that fits it best, 0 to 1."""
    words = normalized(prediction).split()
    return max(_overlap(words, answer.split()) for answer in _gold(answers))


def score(predictions: Mapping[str, str], answers: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Score all answers together.

    Args:
        predictions: `{question id: text}`, "" for "no answer".
        answers: `{question id: gold answers}`, with an empty list for a question without an answer.

    Returns:
        `exact_match` and `f1` in percent, 0 to 100. If there are questions of both kinds, with and without answers,
        also the values of each kind: `HasAns_exact`, `HasAns_f1`, `NoAns_exact`, `NoAns_f1`.

    Raises:
        UserError: there are no questions, or one has no prediction.
    """
    scores = by_question(predictions, answers)
    exact, overlap = _percent(list(scores.values()))
    values = {"exact_match": exact, "f1": overlap}
    kinds = {
        "HasAns": [scores[question] for question, gold in answers.items() if gold],
        "NoAns": [scores[question] for question, gold in answers.items() if not gold],
    }
    if all(kinds.values()):
        for kind, some in kinds.items():
            values[f"{kind}_exact"], values[f"{kind}_f1"] = _percent(some)
    return values


def by_question(predictions: Mapping[str, str], answers: Mapping[str, Sequence[str]]) -> dict[str, tuple[float, float]]:
    """Return exact match and F1 of each question, 0 to 1; arguments and errors as `score`."""
    missing = next((question for question in answers if question not in predictions), None)
    if missing is not None:
        raise UserError(f"question {missing!r} has no prediction; one is needed for each, an empty one for no answer")
    if not answers:
        raise UserError("there are no questions to score answers to")
    return {
        question: (exact_match(predictions[question], gold), f1(predictions[question], gold))
        for question, gold in answers.items()
    }


def _gold(answers: Sequence[str]) -> list[str]:
    return [text for text in map(normalized, answers) if text] or [""]


def _overlap(prediction: list[str], answer: list[str]) -> float:
    if not prediction or not answer:  # "no answer" is wholly correct or wholly wrong
        return float(prediction == answer)
    common = (Counter(prediction) & Counter(answer)).total()  # a word counts as often as it is in both
    return 2 * common / (len(prediction) + len(answer))  # = 2 P R / (P + R)


def _percent(scores: Sequence[tuple[float, float]]) -> tuple[float, float]:
    exact, overlap = (100 * sum(column) / len(scores) for column in zip(*scores, strict=True))
    return exact, overlap
