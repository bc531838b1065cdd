"""Extractive question answering as in SQuAD: questions from files, windows of contexts, answers from logits.

SQuAD 1.1: https://arxiv.org/abs/1606.05250. SQuAD 2.0, with unanswerable questions: https://arxiv.org/abs/1806.03822.
"""

from pruneonce.data.questions.answers import Answer, best_answers, n_best_answers
from pruneonce.data.questions.reading import COLUMNS, Question, from_table, read
from pruneonce.data.questions.windows import Windows, most_question_tokens, windows

__all__ = [
    "COLUMNS",
    "Answer",
    "Question",
    "Windows",
    "best_answers",
    "from_table",
    "most_question_tokens",
    "n_best_answers",
    "read",
    "windows",
]
