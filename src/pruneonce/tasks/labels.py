"""Labels that are classes: their names, and each value as an index into them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pruneonce.data.readers import Table
from pruneonce.errors import UserError
from pruneonce.tasks.kind import as_in_file


def class_names(declared: list[str] | None, table: Table, column: str, values: Iterable[tuple[int, Any]]) -> list[str]:
    """Return the classes' names; labels that are numbers are their own names.

    Args:
        declared: names in the recipe; None: those that hub data comes with, else those in the training data.
        table: the training data.
        column: of the labels.
        values: row and label, of the training data.

    Raises:
        UserError: the names do not differ, or there are fewer than two; a label is none; names and numbers are mixed.
    """
    if declared is not None:
        if len(set(declared)) < max(2, len(declared)):
            raise UserError(f"`labels` has to be two or more different names, not {declared}")
        return declared
    if column in table.class_names:
        return table.class_names[column]
    distinct = {checked_label(value, table.place(row)) for row, value in values}
    numbers = {number_of(value) for value in distinct}
    if None not in numbers:
        if numbers != set(range(len(numbers))):
            raise UserError(
                f"{table.name}: labels that are numbers have to be 0, 1, ... with none left out, not "
                f"{first_few(sorted(distinct, key=str))}; renumber them, or name all classes in `labels`"
            )
        return [str(number) for number in range(len(numbers))]
    if not all(isinstance(value, str) for value in distinct):
        raise UserError(f"{table.name}: labels are both names and numbers: {first_few(sorted(distinct, key=str))}")
    return sorted(str(value) for value in distinct)


def class_numbers(labels: list[str], table: Table, column: str, values: Iterable[tuple[int, Any]]) -> list[int]:
    """Return each label as an index into `labels`.

    A label that reads like one of the names is that name. Any other number, or text that is a number as in CSV, is an
    index.

    Args:
        labels: the classes' names.
        table: the data.
        column: of the labels.
        values: row and label.

    Raises:
        UserError: a label is unknown or out of range.
    """
    # A ClassLabel's numbers are indices even where its names are numbers too, such as "1" to "5".
    index = {} if column in table.class_names else {name: number for number, name in enumerate(labels)}
    numbers = []
    for row, value in values:
        value = checked_label(value, table.place(row))
        number = index.get(str(value), number_of(value))
        if number is None or not 0 <= number < len(labels):
            raise UserError(
                f"{table.place(row)}: label {value!r} is none of {first_few(labels)}, "
                f"nor a number from 0 to {len(labels) - 1}"
            )
        numbers.append(number)
    return numbers


def checked_label(value: Any, place: str) -> int | str:
    """Return `value` if it can be a label at all. A bool is an int to Python, but not to who wrote it."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise UserError(f"{place}: a label has to be a name or a whole number, not {as_in_file(value)}")
    return value


def number_of(value: int | str) -> int | None:
    """Return the whole number that a label is or spells; None for other text."""
    if isinstance(value, int):
        return value
    return int(value) if re.fullmatch(r"\s*-?\d{1,9}\s*", value, re.ASCII) else None


def first_few(values: list[Any]) -> str:
    """Return the first ten values in words."""
    first = [repr(value) for value in values[:10]]
    return ", ".join([*first, f"... ({len(values)} in all)"] if len(values) > 10 else first)
