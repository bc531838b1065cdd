"""Files and hub data as streams of records and as tables; every fault in them raises a `UserError`."""

from __future__ import annotations

import csv
import difflib
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

from datasets import ClassLabel, Dataset, load_dataset
from datasets.exceptions import DatasetsError

from pruneonce.config.formats import COLUMNAR, suffixes
from pruneonce.console import asking_hub, hub_away
from pruneonce.data import class_names, columnar, json_rows
from pruneonce.data.streams import MOST_BYTES, kind, lines
from pruneonce.errors import MissingColumnError, UserError
from pruneonce.wording import first_line

Record = dict[str, Any]
DELIMITERS = {"csv": ",", "tsv": "\t"}


def check_file(path: Path, kinds: Collection[str]) -> None:
    """Raise a `UserError` unless `path` is a file, or saved folder, of one of the formats `kinds`."""
    if (path / columnar.SPLITS).is_file():
        splits = sorted(str(split) for split in path.iterdir() if split.is_dir())
        raise UserError(f"{path} holds several splits; give one of them: {', '.join(splits)}")
    if path.is_dir() and not (kind(path) == "saved" and "saved" in kinds):
        raise UserError(f"{path} is a folder; give a file")
    if not path.exists():
        raise UserError(f"no such file: {path}")
    if kind(path) not in kinds:
        raise UserError(f"cannot read {path}: its name has to end in {suffixes(kinds)}")


def place(path: Path, number: int) -> str:
    """Phrase that names the place of a record, for a message."""
    format = kind(path)
    has_lines = format not in COLUMNAR and not (format == "json" and json_rows.is_list(path))
    return f"{path}, {'line' if has_lines else 'row'} {number}"


def require(columns: Iterable[str], existing: Iterable[str], where: str) -> None:
    """Raise a `UserError` that names the nearest existing column when one of `columns` is missing."""
    existing = [str(name) for name in existing]
    for column in columns:
        if column not in existing:
            near = difflib.get_close_matches(column, existing, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise MissingColumnError(f"{where}: no column {column!r}, only {', '.join(map(repr, existing))}{hint}")


# -- streams ------------------------------------------------------------------------------------------------


def records(path: Path, columns: list[str]) -> Iterator[tuple[int, Record]]:
    """Yield `(line or row number from 1, record)` of a table; each record has all `columns`.

    Raises:
        UserError: the file cannot be read; it lacks one of `columns`, or has it twice.
    """
    readers: dict[str, Callable[[Path, list[str]], Iterator[tuple[int, Record]]]] = {
        **dict.fromkeys(COLUMNAR, _columnar_records),
        **dict.fromkeys(DELIMITERS, _csv_records),
        "json": _json_records,
    }
    check_file(path, readers)
    return readers[kind(path) or ""](path, columns)


def _json_records(path: Path, columns: list[str]) -> Iterator[tuple[int, Record]]:
    for number, record in json_rows.rows(path, columns):
        if not record.keys() >= set(columns):
            require(columns, record, place(path, number))
        yield number, record


def _csv_records(path: Path, columns: list[str]) -> Iterator[tuple[int, Record]]:
    format = kind(path) or ""
    reader = csv.reader((line for _, line in lines(path)), strict=True, delimiter=DELIMITERS[format])
    header: list[str] | None = None
    while (row := _csv_row(reader, path)) is not None:
        if not row:
            continue
        if header is None:
            header = row
            _check_header(columns, header, str(path))
            continue
        at = f"{path}, line {reader.line_num}"
        if len(row) != len(header):
            raise UserError(f"{at}: not as many fields as the header has")
        if format == "tsv" and any("\n" in field for field in row):
            raise UserError(
                f"{at}: a field in quotes goes on over the end of a line; if quotes are plain characters in this file, "
                "write it as JSON lines, and if not, as CSV"
            )
        yield reader.line_num, dict(zip(header, row, strict=True))


def _csv_row(reader: Any, path: Path) -> list[str] | None:
    """Return the next row; None after the last one. Fields may be as long as any text, see `MOST_BYTES`."""
    usual = csv.field_size_limit(MOST_BYTES)
    try:
        row: list[str] | None = next(reader, None)
    except csv.Error as error:
        reason = str(error)
        if "field limit" in reason:
            reason = f"a field is longer than {MOST_BYTES >> 20} MiB; is a quote left open?"
        raise UserError(f"{path}, line {reader.line_num}: broken CSV, {reason}") from None
    finally:
        csv.field_size_limit(usual)
    return row


def _columnar_records(path: Path, columns: list[str]) -> Iterator[tuple[int, Record]]:
    _check_header(columns, columnar.schema(path).names, str(path))
    return columnar.rows(path, columns)


def _check_header(columns: list[str], header: list[str], where: str) -> None:
    """Raise a `UserError` where one of `columns` is missing or comes twice."""
    require(columns, header, where)
    for column in columns:
        if header.count(column) > 1:
            raise UserError(
                f"{where}: the header has the column {column!r} {header.count(column)} times; rename all but one"
            )


# -- the hub ------------------------------------------------------------------------------------------------


@contextmanager
def hub_faults(source: str) -> Iterator[None]:
    """Say that the hub is asked for `source`, and turn the exceptions of `datasets` into a `UserError` of one line."""
    asking_hub(source)
    try:
        yield
    except ConnectionError:
        why, remedy = hub_away()
        raise UserError(f"{source!r} is not a file or folder here and the Hugging Face hub {why}: {remedy}") from None
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        raise UserError(f"cannot load {source!r} from the Hugging Face hub: {first_line(error)}") from None


def hub_records(source: str, subset: str | None, split: str, column: str) -> Iterator[tuple[int, Record]]:
    """Yield `(row number from 1, record)` of a hub data set, streamed and never stored."""
    with hub_faults(source):
        for number, record in enumerate(load_dataset(source, subset, split=split, streaming=True), 1):
            require([column], record, f"{source!r}, split {split!r}")
            yield number, record


# -- tables -------------------------------------------------------------------------------------------------


class Places(Sequence[str]):
    """Names of the places of a file's records, each made when it is asked for."""

    def __init__(self, path: Path, numbers: Iterable[int]):
        self.path = path
        self.numbers = array("q", numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> list[str]: ...

    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [place(self.path, number) for number in self.numbers[row]]
        return place(self.path, self.numbers[row])


@dataclass(frozen=True)
class Table:
    """Columns of a labelled file or split, wholly in memory: labelled data is small.

    Attributes:
        name: the file or split, for messages.
        columns: values by column.
        places: name of each row's place, for messages; None counts rows from 1.
        class_names: names of the classes of columns of ClassLabels, or of lists of ClassLabels.
    """

    name: str
    columns: dict[str, list[Any]]
    places: Sequence[str] | None = None
    class_names: dict[str, list[str]] = field(default_factory=dict)

    def place(self, row: int) -> str:
        """Phrase that names the place of a row, for a message."""
        return self.places[row] if self.places else f"{self.name}, row {row + 1}"


def read_file(path: Path, columns: list[str]) -> Table:
    """Read `columns` of a file, or saved folder, of any format that is a table.

    A column may be named twice, such as one that is both texts of a pair.
    """
    columns = [*dict.fromkeys(columns)]
    values: dict[str, list[Any]] = {column: [] for column in columns}
    numbers = array("q")
    for number, record in records(path, columns):
        numbers.append(number)
        for column in columns:
            values[column].append(record[column])
    names = class_names.of_schema(columnar.schema(path)) if kind(path) in COLUMNAR else {}
    return _not_empty(Table(str(path), values, Places(path, numbers), names))


def read_hub(source: str, subset: str | None, split: str, columns: list[str], cache: Path) -> Table:
    """Read `columns` of a split of a hub data set, downloaded to `cache`."""
    with hub_faults(source):
        dataset = load_dataset(source, subset, split=split, cache_dir=str(cache))
    return _not_empty(from_dataset(dataset, f"{source!r}, split {split!r}", columns))


def from_dataset(dataset: Dataset, name: str, columns: list[str]) -> Table:
    """Table of `columns` of a data set; `name` stands for it in messages."""
    require(columns, dataset.column_names, name)
    # A list of ClassLabels, such as the tags of a sentence, counts as its element type.
    kinds = {name: getattr(kind, "feature", kind) for name, kind in dataset.features.items()}
    classes = {name: kind.names for name, kind in kinds.items() if isinstance(kind, ClassLabel)}
    return Table(name, {column: dataset[column][:] for column in columns}, class_names=classes)


def _not_empty(table: Table) -> Table:
    if not any(table.columns.values()):
        raise UserError(f"{table.name} is empty: it holds no records")
    return table
