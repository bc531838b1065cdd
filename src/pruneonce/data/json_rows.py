"""Rows of JSON files: an object a line, or the objects of one list, parsed one by one."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from pruneonce.data.streams import MOST_BYTES, characters, lines
from pruneonce.errors import UserError

DEEPEST = 100
SPACE = re.compile(r"[ \t\r\n]*")
HALF = re.compile(r"\\u[dD][89a-fA-F]")  # a surrogate, half of a character in UTF-16


class Twice(dict[str, Any]):
    """Object that has keys more than once: the last value of each, and the names of these keys."""

    names: frozenset[str] = frozenset()


def is_list(path: Path) -> bool:
    """Return whether the content of a JSON file begins as a list."""
    start = next((piece.lstrip(" \t\r\n") for piece in characters(path) if piece.strip(" \t\r\n")), "")
    return start.startswith("[")


def rows(path: Path, columns: Collection[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield `(line number, object)` of JSON lines, or `(number of the element, object)` of a list, both from 1.

    Raises:
        UserError: the file cannot be read; a row is broken, no object, or larger than 16 MiB; a value of `columns` is
            given twice, nested too deep, or no valid Unicode.
    """
    if is_list(path):
        numbered, where = _elements(path), "row"
    else:
        numbered, where = _of_lines(path), "line"
    for number, value, text in numbered:
        at = f"{path}, {where} {number}"
        if not isinstance(value, dict):
            raise UserError(f"{at}: not a JSON object; write one object a line, or a list of objects")
        _check(value, columns, text, at)
        yield number, value


def _of_lines(path: Path) -> Iterator[tuple[int, Any, str]]:
    decoder = json.JSONDecoder(object_pairs_hook=_object)
    for number, line in lines(path):
        if line := line.strip():
            try:
                yield number, decoder.decode(line), line
            except RecursionError:
                raise _too_deep(f"{path}, line {number}") from None
            except ValueError as error:
                if isinstance(error, json.JSONDecodeError) and line[0] == "{" and error.pos >= len(line):
                    raise UserError(
                        f"{path}, line {number}: the object does not end on its line; write each object on a line of "
                        "its own (`jq -c . FILE` does), or all as one list"
                    ) from None
                raise UserError(f"{path}, line {number}: broken JSON, {error}") from None


def _elements(path: Path) -> Iterator[tuple[int, Any, str]]:
    """Yield `(number, value, text)` of each element of a list, with no more than an element in memory."""
    decoder = json.JSONDecoder(object_pairs_hook=_object)
    text = _Text(path)
    number = 0
    text.skip_space()
    text.take("[")
    while text.skip_space() != "]" or number:
        number += 1
        if text.next() != "{":
            yield number, None, ""
        yield number, *text.value(decoder, f"{path}, row {number}")
        if text.skip_space() == "]":
            break
        if not text.take(","):
            raise UserError(f"{path}, after row {number}: broken JSON, a comma or the end of the list is missing")
        text.skip_space()
    text.take("]")
    if text.skip_space():
        raise UserError(f"{path}, after row {number}: broken JSON, there is more after the list")


class _Text:
    """The text of a file at a position that moves on."""

    def __init__(self, path: Path):
        self.pieces = characters(path)
        self.buffer = next(self.pieces, "")
        self.position = 0

    def more(self) -> bool:
        """Double what there is after the position; return False at the end of the file."""
        rest = self.buffer[self.position :]
        new = next(self.pieces, "")
        while new and len(new) < len(rest) and (piece := next(self.pieces, "")):
            new += piece
        self.buffer, self.position = rest + new, 0
        return bool(new)

    def next(self) -> str:
        """Return the character at the position; empty at the end of the file."""
        if self.position >= len(self.buffer):
            self.more()
        return self.buffer[self.position : self.position + 1]

    def take(self, character: str) -> bool:
        """Move past `character`; return False where there is another one."""
        if self.next() != character:
            return False
        self.position += 1
        return True

    def skip_space(self) -> str:
        """Move to the next character that is no white space, and return it."""
        while True:
            match = SPACE.match(self.buffer, self.position)
            assert match is not None, "the pattern matches an empty text"
            self.position = match.end()
            if self.position < len(self.buffer) or not self.more():
                return self.next()

    def value(self, decoder: json.JSONDecoder, at: str) -> tuple[Any, str]:
        """Parse the object at the position and move past it; return it with its text."""
        while True:
            try:
                value, end = decoder.raw_decode(self.buffer, self.position)
            except RecursionError:
                raise _too_deep(at) from None
            except ValueError as error:
                size = len(self.buffer) - self.position
                if self._is_broken(error) or size > MOST_BYTES or not self.more():
                    what = f"longer than {MOST_BYTES >> 20} MiB" if size > MOST_BYTES else f"broken JSON, {error}"
                    raise UserError(f"{at}: {what}") from None
            else:
                start, self.position = self.position, end
                return value, self.buffer[start:end]

    def _is_broken(self, error: ValueError) -> bool:
        """Return whether more text cannot mend the error: it is not about the end of the buffer."""
        at_end = not isinstance(error, json.JSONDecodeError) or error.pos > len(self.buffer) - 20
        return not at_end and not str(error).startswith("Unterminated string")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    names = [name for name, _ in pairs]
    twice = Twice(value)
    twice.names = frozenset(name for name in value if names.count(name) > 1)
    return twice


def _check(row: dict[str, Any], columns: Collection[str], text: str, at: str) -> None:
    """Raise a `UserError` where a value of `columns` is not what it seems."""
    if isinstance(row, Twice) and (twice := [name for name in columns if name in row.names]):
        raise UserError(f"{at}: {twice[0]!r} is given twice; keep one of the two values")
    if text.count("{") > 1:  # there are objects within
        for column in columns:
            if name := _twice_within(row.get(column)):
                raise UserError(f"{at}, {column!r}: {name!r} is given twice; keep one of the two values")
    may_be_deep = text.count("[") + text.count("{") > DEEPEST
    has_halves = HALF.search(text) is not None
    if not may_be_deep and not has_halves:
        return
    for column in columns:
        value = row.get(column)
        if may_be_deep and _is_deeper(value, DEEPEST):
            raise _too_deep(f"{at}, {column!r}")
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = str(error.object)[error.start]
            raise UserError(
                f"{at}: {column!r} is not valid Unicode, {half!r} is half of a character; take it out, or write the "
                "whole character"
            ) from None


def _twice_within(value: Any) -> str | None:
    """Return a key that an object within a value has twice; None: there is none. `DEEPEST` levels are looked at."""
    level = [value]
    for _ in range(DEEPEST):
        if twice := next((one for one in level if isinstance(one, Twice)), None):
            return min(twice.names)
        inner = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        level = [one for values in inner for one in values if isinstance(one, dict | list)]
    return None


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Object of a JSON value that is read as a whole, as `object_pairs_hook` of the `json` module.

    Raises:
        ValueError: a key comes twice.
    """
    value = _object(pairs)
    if isinstance(value, Twice):
        raise ValueError(f"{min(value.names)!r} is given twice in one object; keep one of the two values")
    return value


def _is_deeper(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, dict | list)
        ]
    return bool(level)


def _too_deep(at: str) -> UserError:
    return UserError(f"{at}: nested deeper than {DEEPEST} levels, which no row is")
