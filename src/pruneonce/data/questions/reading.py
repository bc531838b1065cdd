"""Questions with contexts and answers: from SQuAD's own JSON, or from flat rows as hub data has them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pruneonce.data.readers import Table, check_file, kind, lines, read_file, require
from pruneonce.errors import UserError

COLUMNS = ["id", "question", "context", "answers"]
SAME = MappingProxyType({name: name for name in COLUMNS})
MOST_CHARACTERS = 500_000_000  # of a nested file, which is parsed whole; SQuAD 2.0 has 42 million


@dataclass(frozen=True, slots=True)
class Question:
    """One question about a context.

    Attributes:
        answers: gold answers, each verbatim in the context; none where the question has no answer.
        starts: the character, from 0, at which each of `answers` starts.
    """

    id: str
    question: str
    context: str
    answers: tuple[str, ...]
    starts: tuple[int, ...]


def read(path: Path, columns: Mapping[str, str] = SAME) -> list[Question]:
    """The questions of a file.

    Args:
        path: SQuAD's JSON (`{"data": [{"paragraphs": [{"context": ..., "qas": [...]}]}]}`), told by its content; or
            JSON lines, or Parquet, with `columns`. JSON may be compressed.
        columns: `{one of COLUMNS: its name in rows}`; SQuAD's JSON has names of its own.

    Raises:
        UserError: the file cannot be read, has no questions, or a question is not as `from_table` wants it.
    """
    check_file(path, ("json", "parquet"))
    document = _document(path) if kind(path) == "json" else None
    if document is None:
        return from_table(read_file(path, list(columns.values())), columns)
    return _checked(str(path), _nested(document, str(path)))


def from_table(table: Table, columns: Mapping[str, str] = SAME) -> list[Question]:
    """The questions of flat rows.

    Args:
        table: with `columns`, `answers` being `{"text": [...], "answer_start": [...]}`, both empty where there is no
            answer, or a list of `{"text": ..., "answer_start": ...}`.

    Raises:
        UserError: there are no rows; a value is not what it has to be; an id comes twice; an answer is empty, or is
            not in the context at its `answer_start`.
    """
    found = [table.columns[columns[name]] for name in COLUMNS]
    rows = (dict(zip(COLUMNS, values, strict=True)) for values in zip(*found, strict=True))
    return _checked(table.name, ((table.place(number), row) for number, row in enumerate(rows)))


def _document(path: Path) -> Any:
    """SQuAD's nested value, or None where the file has an object of its own in each line."""
    text: list[str] = []
    size = 0
    for number, line in lines(path):
        if not text and not line.strip():
            continue
        if not text and _is_row(line):
            return None
        text.append(line)
        size += len(line)
        if size > MOST_CHARACTERS:
            raise UserError(f"{path} is larger than {MOST_CHARACTERS:,} characters, at line {number}; use JSON lines")
    if not text:
        return None  # the reader of lines says that there is nothing
    try:
        document = json.loads("".join(text))
    except RecursionError:
        raise UserError(f"{path}: broken JSON, it is nested too deep") from None
    except ValueError as error:
        raise UserError(f"{path}: broken JSON, {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("data"), list):
        raise UserError(f'{path}: neither JSON lines nor SQuAD\'s JSON, which is an object with a list "data"')
    return document


def _is_row(line: str) -> bool:
    """Whether a first line is a whole JSON object that is no nested file."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and not isinstance(value.get("data"), list)


def _nested(document: Any, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """`(where it is, row)` of each question in SQuAD's JSON."""
    for a, article in enumerate(document["data"]):
        for p, paragraph in enumerate(_list(article, "paragraphs", f"{name}, data[{a}]")):
            place = f"{name}, data[{a}].paragraphs[{p}]"
            for q, question in enumerate(_list(paragraph, "qas", place)):
                where = f"{place}.qas[{q}]"
                require(["context"], paragraph, place)
                if not isinstance(question, dict):
                    raise UserError(f"{where} has to be an object, not {_shown(question)}")
                require(["id", "question", "answers"], question, where)
                yield where, {**question, "context": paragraph["context"]}


def _list(value: Any, key: str, where: str) -> list[Any]:
    if not isinstance(value, dict) or not isinstance(value.get(key), list):
        raise UserError(f"{where} has to be an object with a list {key!r}, not {_shown(value)}")
    found: list[Any] = value[key]
    return found


def _checked(name: str, rows: Iterator[tuple[str, dict[str, Any]]]) -> list[Question]:
    questions: dict[str, Question] = {}
    for where, row in rows:
        question = _question(row, where)
        if question.id in questions:
            raise UserError(f"{where}: question id {question.id!r} comes twice; each needs its own")
        questions[question.id] = question
    if not questions:
        raise UserError(f"{name} is empty: it holds no questions")
    return list(questions.values())


def _question(row: dict[str, Any], where: str) -> Question:
    identity = row["id"]
    if isinstance(identity, int) and not isinstance(identity, bool):
        identity = str(identity)
    _text(identity, "id", where)
    where = f"{where}, question {identity!r}"
    question, context = (_text(row[name], name, where) for name in ("question", "context"))
    pairs = [_answer(context, *pair, where) for pair in _pairs(row["answers"], where)]
    return Question(identity, question, context, tuple(text for text, _ in pairs), tuple(start for _, start in pairs))


def _pairs(answers: Any, where: str) -> list[tuple[Any, Any]]:
    """Both forms of `answers` as `(text, start)`."""
    if isinstance(answers, list) and all(
        isinstance(one, dict) and {"text", "answer_start"} <= one.keys() for one in answers
    ):
        return [(one["text"], one["answer_start"]) for one in answers]
    if isinstance(answers, dict):
        texts, starts = answers.get("text"), answers.get("answer_start")
        if isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts):
            return list(zip(texts, starts, strict=True))
    raise UserError(
        f'{where}: \'answers\' has to be {{"text": [...], "answer_start": [...]}}, two lists of one length, '
        f"not {_shown(answers)}"
    )


def _answer(context: str, text: Any, start: Any, where: str) -> tuple[str, int]:
    if not _text(text, "answers", where).strip():
        raise UserError(f"{where}: an answer is empty; a question without an answer has none in 'answers'")
    if isinstance(start, bool) or not isinstance(start, int):
        raise UserError(f"{where}: 'answer_start' has to be a whole number, not {_shown(start)}")
    if start < 0 or not context.startswith(text, start):
        raise UserError(
            f"{where}: the answer {_shown(text)} is not at its answer_start, {start}; {_hint(context, text, start)}"
        )
    return text, start


def _hint(context: str, text: str, start: int) -> str:
    """Where the answer is instead, the nearest place of several."""
    for wanted, how in ((text, "it"), (text.strip(), "without the white space around it, it")):
        places = []
        place = context.find(wanted)
        while place >= 0:
            places.append(place)
            place = context.find(wanted, place + 1)
        if places:
            nearest = min(places, key=lambda place: abs(place - start))
            lost = " (was white space cut off the context?)" if 0 < start - nearest < 10 else ""
            return f"{how} is at {nearest}{lost}"
    return "the context does not have it"


def _text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: {name!r} has to be text, not {_shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a character, as "\ud83d" in JSON; tokenizers do not take it
        raise UserError(f"{where}: {name!r} is not valid Unicode: {_shown(value)}") from None
    return value


def _shown(value: Any) -> str:
    return f"{json.dumps(value, default=str):.60}"
