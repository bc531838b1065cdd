"""Labels that are classes: the one place where names, numbers and orders of a task, its data and its models meet.

Names decide. A number is a name where the names are numbers themselves (stars 1 to 5); it is an index into the names of
the data where the data has names (ClassLabel); otherwise it is an index into the task's names.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pruneonce.data.readers import Table
from pruneonce.errors import UserError
from pruneonce.wording import as_in_file, shown

Origin = Literal["`labels`", "the model", "the data's metadata", "the data"]

SHOWN = 10  # names in a message


@dataclass
class Classes:
    """Classes of a task: their names in the order of their indices.

    Attributes:
        names: the names.
        origin: who gives the names; "the data": the labels of the training data are the names, in sorted order.
        decided: decisions on the labels of the data, in words.
    """

    names: list[str]
    origin: Origin
    decided: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        declared: Sequence[str] | None,
        of_model: Sequence[str] | None,
        table: Table,
        column: str,
        values: Iterable[tuple[int, Any]],
    ) -> Classes:
        """Return the classes of a task.

        Args:
            declared: names in the recipe.
            of_model: without these, names of the model that is measured.
            table: the training data; without either, its metadata have the names, or its labels are the names.
            column: of the labels.
            values: row and label, of the training data.

        Raises:
            UserError: the names do not differ, or there are fewer than two; a label is none; names and numbers are
                mixed.
        """
        if declared is not None:
            if len(set(declared)) < max(2, len(declared)):
                raise UserError(f"`labels` has to be two or more different names, not {list(declared)}")
            return cls(list(declared), "`labels`")
        if of_model is not None:
            return cls(list(of_model), "the model")
        if column in table.class_names:
            return cls(table.class_names[column], "the data's metadata")
        return cls(_names_in(table, values), "the data")

    def numbers(self, table: Table, column: str, values: Iterable[tuple[int, Any]]) -> list[int]:
        """Return each label of a table as an index into the names.

        Args:
            table: the data.
            column: of the labels.
            values: row and label.

        Raises:
            UserError: a label is unknown or out of range.
        """
        names_of_data = table.class_names.get(column)
        if names_of_data is not None:
            return self._by_metadata(names_of_data, table, values)
        index = {name: number for number, name in enumerate(self.names)}
        by_number = self._named_numbers()
        numbers = []
        for row, value in values:
            value = checked_label(value, table.place(row))
            number = index.get(str(value))
            if number is None and (spelled := number_of(value)) is not None:
                if by_number is not None:
                    number = by_number.get(spelled)
                elif 0 <= spelled < len(self.names):
                    number = spelled
                    self._decide("numbers are indices into these names")
            if number is None:
                raise UserError(self._unknown(value, table.place(row)))
            numbers.append(number)
        return numbers

    def order_in(self, of_model: Sequence[str], name: str) -> list[int] | None:
        """Return the index of each class in the outputs of a model; None where a model has the same order.

        Args:
            of_model: names of the model's classes, see `names_of`.
            name: of the model, for the message.

        Raises:
            UserError: the model is for other classes, or names its classes only by number and nothing says which they
                are.
        """
        if list(of_model) == self.names:
            return None
        has = f"{name} has the labels {first_few(of_model)}, the task has {first_few(self.names)}"
        if len(of_model) != len(self.names):
            raise UserError(has)
        if order := corresponding(self.names, of_model):
            return None if order == sorted(order) else order
        if self.origin == "`labels`" and set(of_model) & set(self.names):
            raise UserError(f"{has}; give all of them the same names")
        if are_numbered(of_model) and (self.origin != "the data" or are_numbered(self.names)):
            return None
        if are_numbered(of_model):
            raise UserError(
                f"{has}; the model has no names, so name the classes of the data in the model's order by `labels`"
            )
        if are_numbered(self.names):
            raise UserError(f"{has}; give the model's names in the order of the data's numbers by `labels`")
        raise UserError(has)

    def line(self, of_model: Sequence[str] | None = None) -> str:
        """Return the names, their indices and the decisions in one line.

        Args:
            of_model: names of the classes of the model that is measured, which `order_in` takes.
        """
        order = None if of_model is None else self.order_in(of_model, "the model")
        indices = range(len(self.names)) if order is None else order
        some = [f"{shown(name)} {index}" for name, index in zip(self.names, indices, strict=True)]
        listed = ", ".join([*some[:SHOWN], f"... ({len(some)} in all)"] if len(some) > SHOWN else some)
        parts = [f"labels: {listed}", f"from {self.origin}", *self.decided]
        if order is not None:
            parts.append("the model has another order, and each name is looked up")
        elif of_model is not None and are_numbered(of_model) and not are_numbered(self.names):
            parts.append(f"the model names its classes {first_few(of_model)}, so these names are in its order")
        if len(self.names) != len({_folded(name) for name in self.names}):
            parts.append("some names differ in nothing but case, spaces or the Unicode form of letters")
        if "" in map(str.strip, self.names):
            parts.append("an empty label counts as a class of its own")
        return "; ".join(parts)

    def _by_metadata(self, names: list[str], table: Table, values: Iterable[tuple[int, Any]]) -> list[int]:
        """Return labels that are indices into `names`, which the data's metadata give."""
        found = [_place(name, self.names, names) for name in names]
        renamed = all(index in (None, own) for own, index in enumerate(found)) and len(names) <= len(self.names)
        if None in found and (renamed or not any(index is not None for index in found)):
            if self.origin == "the model" and not are_numbered(self.names):
                raise UserError(
                    f"{table.name} names its classes {first_few(names)}, the model {first_few(self.names)}; give the "
                    "model's names in the order of the data's by `labels`"
                )
            found = list(range(len(names)))
            self._decide(f"{table.name} names its classes {first_few(names)}, and its numbers are taken as they are")
        elif found != list(range(len(names))):
            self._decide(f"{table.name} has the order {first_few(names)}, and each name is looked up")
        numbers = []
        for row, value in values:
            value = checked_label(value, table.place(row))
            own = number_of(value)
            if own is None or not 0 <= own < len(names):
                raise UserError(
                    f"{table.place(row)}: label {value!r} is none of {first_few(names)}, "
                    f"nor a number from 0 to {len(names) - 1}"
                )
            if (number := found[own]) is None or number >= len(self.names):
                raise UserError(self._unknown(names[own], table.place(row)))
            numbers.append(number)
        return numbers

    def _decide(self, decision: str) -> None:
        if decision not in self.decided:
            self.decided.append(decision)

    def _named_numbers(self) -> dict[int, int] | None:
        """Return the index of each name that spells a whole number, such as 2 and 2.0; None where no name does."""
        spelled = [(number_of(re.sub(r"\.0+\s*$", "", name)), index) for index, name in enumerate(self.names)]
        return {number: index for number, index in reversed(spelled) if number is not None} or None

    def _unknown(self, value: int | str, place: str) -> str:
        allowed = "" if self._named_numbers() else f", nor a number from 0 to {len(self.names) - 1}"
        text = f"{place}: label {value!r} is none of {first_few(self.names)}{allowed}"
        if isinstance(value, str) and number_of(value) is None:
            if self.origin == "the model" and are_numbered(self.names):
                return f"{text}; the model has no names, so name the data's classes in the model's order by `labels`"
            folded = {_folded(name): name for name in self.names}
            near = difflib.get_close_matches(_folded(value), folded, n=1)
            if unicodedata.normalize("NFC", value) in {unicodedata.normalize("NFC", name) for name in self.names}:
                return f"{text}; it has another Unicode form of the same letters: write all labels in one, such as NFC"
            if near:
                return f"{text}; did you mean {folded[near[0]]!r}?"
        return text


def names_of(config: Any, name: str) -> list[str]:
    """Return the names of a model's classes, in the order of its outputs.

    Args:
        config: configuration of the model.
        name: of the model, for the message.

    Raises:
        UserError: `id2label` lacks an index or has a name twice, or `label2id` contradicts it.
    """
    names = [config.id2label.get(index) for index in range(config.num_labels)]
    wrong = f"{name} has a config.json whose `id2label`"
    if None in names or not all(isinstance(one, str) for one in names):
        raise UserError(f"{wrong} does not name the classes 0 to {config.num_labels - 1}; correct it")
    if len(set(names)) < len(names):
        raise UserError(f"{wrong} gives two classes one name: {first_few(names)}; correct it")
    indices = config.label2id or {}
    for index, one in enumerate(names):
        if indices.get(one, index) != index:
            raise UserError(
                f"{wrong} says that {one!r} is class {index}, and `label2id` says {indices[one]!r}; correct one of them"
            )
    return names


def are_numbered(names: Sequence[str]) -> bool:
    """Return whether names say no more than their indices: 0, 1, ... or LABEL_0, LABEL_1, ..., as transformers does."""
    return any(all(name == f"{prefix}{index}" for index, name in enumerate(names)) for prefix in ("", "LABEL_"))


def corresponding(names: Sequence[str], others: Sequence[str]) -> list[int] | None:
    """Return the index in `others` of each of `names`; None where one has none, or two have the same.

    Case, spaces around a name and the Unicode form of its letters (NFC, NFD) do not count where all names of either
    side differ in more.
    """
    found = [_place(name, others, names) for name in names]
    return None if None in found else found  # type: ignore[return-value]


def _place(name: str, others: Sequence[str], beside: Sequence[str]) -> int | None:
    """Return the index of a name in `others`, as `corresponding` does for a name of `beside`."""
    if name in others:
        return others.index(name)
    folded = [_folded(other) for other in others]
    if len(set(folded)) < len(folded) or len({_folded(one) for one in beside}) < len(beside):
        return None
    return folded.index(_folded(name)) if _folded(name) in folded else None


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name.strip().casefold())


def _names_in(table: Table, values: Iterable[tuple[int, Any]]) -> list[str]:
    """Return the labels in the training data, sorted, as names; labels that are numbers are their own names."""
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


def checked_label(value: Any, place: str) -> int | str:
    """Return `value` if it can be a label at all. A bool is an int to Python, but not to who wrote it."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        is_whole = isinstance(value, float) and value.is_integer()
        hint = f"; write {value:.0f}, without a point (pandas: `astype(int)`)" if is_whole else ""
        raise UserError(f"{place}: a label has to be a name or a whole number, not {as_in_file(value)}{hint}")
    return value


def number_of(value: int | str) -> int | None:
    """Return the whole number that a label is or spells; None for other text."""
    if isinstance(value, int):
        return value
    return int(value) if re.fullmatch(r"\s*-?\d{1,9}\s*", value, re.ASCII) else None


def first_few(values: Sequence[Any]) -> str:
    """Return the first ten values in words."""
    first = [repr(value) for value in values[:SHOWN]]
    return ", ".join([*first, f"... ({len(values)} in all)"] if len(values) > SHOWN else first)
