"""Reader of questions with contexts and answers, from SQuAD's nested JSON or from flat rows as in hub data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pruneonce.config.formats import LISTS
from pruneonce.data import json_rows
from pruneonce.data.readers import Table, check_file, read_file, require
from pruneonce.data.streams import kind, lines
from pruneonce.errors import UserError

COLUMNS = ["id", "question", "context", "answers"]
SAME = MappingProxyType({name: name for name in COLUMNS})
MOST_OF_A_TEXT = 2_000_000  # characters, which all become windows at once
MOST_CHARACTERS = 500_000_000  # of a nested file, which is parsed as a whole; SQuAD 2.0 has 42 million


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
    """Read the questions of a file.

    Args:
        path: SQuAD's JSON (`{"data": [{"paragraphs": [{"context": ..., "qas": [...]}]}]}`), recognised by its content;
            or rows with `columns`: JSON lines or a list of objects, Parquet, Arrow. JSON may be compressed.
        columns: `{one of COLUMNS: its name in rows}`; SQuAD's JSON has names of its own.

    Raises:
        UserError: the file cannot be read or has no questions; a question does not meet the rules of `from_table`.
    """
    check_file(path, LISTS)
    document = _document(path) if kind(path) == "json" and not json_rows.is_list(path) else None
    if document is None:
        return from_table(read_file(path, list(columns.values())), columns)
    return _checked(str(path), _nested(document, str(path)))


def from_table(table: Table, columns: Mapping[str, str] = SAME) -> list[Question]:
    """Read the questions of flat rows.

    Args:
        table: rows with `columns`; `answers` is `{"text": [...], "answer_start": [...]}`, with empty lists for a
            question without an answer, or a list of `{"text": ..., "answer_start": ...}`.
        columns: `{one of COLUMNS: its name in the table}`.

    Raises:
        UserError: there are no rows; a value has the wrong type; an id occurs twice; an answer is empty, or is not in
            the context at its `answer_start`.
    """
    values_by_column = [table.columns[columns[name]] for name in COLUMNS]
    rows = (dict(zip(COLUMNS, values, strict=True)) for values in zip(*values_by_column, strict=True))
    return _checked(table.name, ((table.place(number), row) for number, row in enumerate(rows)))


def _document(path: Path) -> Any:
    """Parse SQuAD's nested value; return None for JSON lines."""
    text: list[str] = []
    size = 0
    for number, line in lines(path, MOST_CHARACTERS):
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
        document = json.loads("".join(text), object_pairs_hook=json_rows.unique)
    except RecursionError:
        raise UserError(f"{path}: broken JSON, it is nested too deep") from None
    except ValueError as error:
        raise UserError(f"{path}: broken JSON, {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("data"), list):
        raise UserError(f'{path}: neither JSON lines nor SQuAD\'s JSON, which is an object with a list "data"')
    return document


def _is_row(line: str) -> bool:
    """Return whether a first line is a whole JSON object, and not all of a nested file."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and not isinstance(value.get("data"), list)


def _nested(document: Any, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield `(place, row)` of each question in SQuAD's JSON."""
    for a, article in enumerate(document["data"]):
        for p, paragraph in enumerate(_list(article, "paragraphs", f"{name}, data[{a}]")):
            place = f"{name}, data[{a}].paragraphs[{p}]"
            for q, question in enumerate(_list(paragraph, "qas", place)):
                where = f"{place}.qas[{q}]"
                require(["context"], paragraph, place)
                if not isinstance(question, dict):
                    raise UserError(f"{where} has to be an object, not {_excerpt(question)}")
                require(["id", "question", "answers"], question, where)
                yield where, {**question, "context": paragraph["context"]}


def _list(value: Any, key: str, where: str) -> list[Any]:
    if not isinstance(value, dict) or not isinstance(value.get(key), list):
        raise UserError(f"{where} has to be an object with a list {key!r}, not {_excerpt(value)}")
    items: list[Any] = value[key]
    return items


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
    """Convert both forms of `answers` to `(text, start)` pairs."""
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
        f"not {_excerpt(answers)}"
    )


def _answer(context: str, text: Any, start: Any, where: str) -> tuple[str, int]:
    if not _text(text, "answers", where).strip():
        raise UserError(f"{where}: an answer is empty; a question without an answer has none in 'answers'")
    if isinstance(start, bool) or not isinstance(start, int):
        raise UserError(f"{where}: 'answer_start' has to be a whole number, not {_excerpt(start)}")
    if start < 0 or not context.startswith(text, start):
        raise UserError(
            f"{where}: the answer {_excerpt(text)} is not at its answer_start, {start}; {_hint(context, text, start)}"
        )
    return text, start


def _hint(context: str, text: str, start: int) -> str:
    """Describe where the context has the answer, nearest to `start`."""
    for variant, how in ((text, "it"), (text.strip(), "without the white space around it, it")):
        places = []
        place = context.find(variant)
        while place >= 0:
            places.append(place)
            place = context.find(variant, place + 1)
        if places:
            nearest = min(places, key=lambda place: abs(place - start))
            lost = " (was white space cut off the context?)" if 0 < start - nearest < 10 else ""
            return f"{how} is at {nearest}{lost}"
    return "the context does not have it"


def _text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: {name!r} has to be text, not {_excerpt(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a character, as "\ud83d" in JSON; tokenizers refuse it
        raise UserError(f"{where}: {name!r} is not valid Unicode: {_excerpt(value)}") from None
    if len(value) > MOST_OF_A_TEXT:
        raise UserError(
            f"{where}: {name!r} is longer than {MOST_OF_A_TEXT:,} characters; give the part of it that has the answer"
        )
    return value


def _excerpt(value: Any) -> str:
    return f"{json.dumps(value, default=str):.60}"
