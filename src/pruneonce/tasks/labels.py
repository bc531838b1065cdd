"""Labels that are classes: their names, and each value as an index into them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pruneonce.data.readers import Table
from pruneonce.errors import UserError
from pruneonce.tasks.kind import shown


def class_names(given: list[str] | None, table: Table, column: str, values: Iterable[tuple[int, Any]]) -> list[str]:
    """The classes' names; without any to read, those of numbers are the numbers.

    Args:
        given: by the recipe, else those that hub data comes with, else those in the training data.
        values: row and label, of the training data.

    Raises:
        UserError: the names do not differ, or there are fewer than two; a label is none; names and numbers are mixed.
    """
    if given is not None:
        if len(set(given)) < max(2, len(given)):
            raise UserError(f"`labels` has to be two or more different names, not {given}")
        return given
    if column in table.class_names:
        return table.class_names[column]
    found = {plain(value, table.place(row)) for row, value in values}
    numbers = {number_of(value) for value in found}
    if None not in numbers:
        if numbers != set(range(len(numbers))):
            raise UserError(
                f"{table.name}: labels that are numbers have to be 0, 1, ... with none left out, not "
                f"{some(sorted(found, key=str))}; renumber them, or name all classes in `labels`"
            )
        return [str(number) for number in range(len(numbers))]
    if not all(isinstance(value, str) for value in found):
        raise UserError(f"{table.name}: labels are both names and numbers: {some(sorted(found, key=str))}")
    return sorted(str(value) for value in found)


def class_numbers(labels: list[str], table: Table, column: str, values: Iterable[tuple[int, Any]]) -> list[int]:
    """Each label as an index into `labels`: a label that reads like one of the names is that one; any other number, or
    text that is a number as in CSV, is an index.

    Args:
        values: row and label.

    Raises:
        UserError: a label is unknown or out of range.
    """
    # A ClassLabel's numbers are indices even where its names are numbers too, such as "1" to "5".
    index = {} if column in table.class_names else {name: number for number, name in enumerate(labels)}
    numbers = []
    for row, value in values:
        value = plain(value, table.place(row))
        number = index.get(str(value), number_of(value))
        if number is None or not 0 <= number < len(labels):
            raise UserError(
                f"{table.place(row)}: label {value!r} is none of {some(labels)}, "
                f"nor a number from 0 to {len(labels) - 1}"
            )
        numbers.append(number)
    return numbers


def plain(value: Any, place: str) -> int | str:
    """`value` if it can be a label at all. A bool is an int to Python, but not to who wrote it."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise UserError(f"{place}: a label has to be a name or a whole number, not {shown(value)}")
    return value


def number_of(value: int | str) -> int | None:
    if isinstance(value, int):
        return value
    return int(value) if re.fullmatch(r"\s*-?\d{1,9}\s*", value, re.ASCII) else None


def some(values: list[Any]) -> str:
    first = [repr(value) for value in values[:10]]
    return ", ".join([*first, f"... ({len(values)} in all)"] if len(values) > 10 else first)
