"""Reader of tagged words in the format of the CoNLL shared tasks (https://aclanthology.org/W03-0419).

A line holds a word and its tags, in columns. A line that is empty, or has white space alone, ends a sentence.
"""

from __future__ import annotations

from pathlib import Path

from pruneonce.data.readers import Table, place
from pruneonce.data.streams import lines
from pruneonce.errors import UserError

DOCUMENT = "-DOCSTART-"  # stands in place of a sentence at the beginning of a document


def read_conll(path: Path, words: str, tags: str) -> Table:
    """Read the sentences of a file: its first column under the name `words`, its last column under `tags`.

    Tabs separate columns; in a line without a tab, spaces do. Lines that begin with -DOCSTART- are skipped.

    Raises:
        UserError: the file cannot be read or holds no sentence; a line has one column, or another number of columns
            than the first line, or a carriage return within it; the first column numbers the words of each sentence.
    """
    sentences: list[list[list[str]]] = []
    places: list[str] = []
    width, is_new = 0, True
    for number, line in lines(path):
        line = line.rstrip("\r\n")
        if "\r" in line:
            raise UserError(
                f"{place(path, number)}: a carriage return within the line; if lines end with one alone, as on old "
                "Macs, convert the file (`tr '\\r' '\\n' < FILE`)"
            )
        columns = line.split("\t") if "\t" in line else line.split()
        if not line.strip() or columns[0] == DOCUMENT:
            is_new = True
            continue
        width = width or len(columns)
        if len(columns) < 2 or len(columns) != width:
            raise UserError(
                f"{place(path, number)}: {_count(len(columns))}, not {max(2, width)}; write a word, a space and its tag"
                " a line, and an empty line between sentences"
            )
        if is_new:
            sentences.append([])
            places.append(place(path, number))
            is_new = False
        sentences[-1].append([columns[0], columns[-1]])
    if not sentences:
        raise UserError(f"{path} is empty: it holds no sentences")
    if len(sentences) > 1 and all(map(_is_numbered, sentences)):
        raise UserError(
            f"{path}: the first column numbers the words of each sentence; remove it (`cut -f 2-` does where tabs "
            "separate columns), so that words come first and tags last"
        )
    columns_of = [[[pair[side] for pair in sentence] for sentence in sentences] for side in (0, 1)]
    return Table(str(path), dict(zip((words, tags), columns_of, strict=True)), places)


def _is_numbered(sentence: list[list[str]]) -> bool:
    """Return whether the first column counts the words, from 0 or 1, as in CoNLL-U and GermEval."""
    first = [pair[0] for pair in sentence]
    return any(first == [str(start + word) for word in range(len(first))] for start in (0, 1))


def _count(columns: int) -> str:
    return "one column" if columns == 1 else f"{columns} columns"
