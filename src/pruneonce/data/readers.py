"""Files and hub data as streams of records and as tables; every fault in them raises a `UserError`."""

from __future__ import annotations

import codecs
import csv
import difflib
import json
import lzma
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, load_dataset
from datasets.exceptions import DatasetsError

from pruneonce.console import asking_hub
from pruneonce.data import class_names
from pruneonce.errors import MissingColumnError, UserError

SUFFIXES = {
    ".txt": "text",
    ".conll": "conll",
    ".jsonl": "json",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
}
COMPRESSIONS = (".gz", ".bz2", ".xz")

Record = dict[str, Any]


def kind(path: Path) -> str | None:
    """Format of a file by its suffix: `text`, `conll`, `json` (one object a line), `csv` or `parquet`, else None.

    All formats but Parquet, which compresses by itself, may carry one more suffix of `COMPRESSIONS`.
    """
    if path.suffix.lower() in COMPRESSIONS:
        inner = SUFFIXES.get(Path(path.stem).suffix.lower())
        return None if inner == "parquet" else inner
    return SUFFIXES.get(path.suffix.lower())


def check_file(path: Path, kinds: Collection[str]) -> None:
    """Raise a `UserError` unless `path` is a file of one of `kinds`."""
    if path.is_dir():
        raise UserError(f"{path} is a folder; give a file")
    if not path.exists():
        raise UserError(f"no such file: {path}")
    if kind(path) not in kinds:
        raise UserError(f"cannot read {path}: its name has to end in {suffixes(kinds)}")


def suffixes(kinds: Collection[str]) -> str:
    """Phrase that lists the suffixes of `kinds`, for a message."""
    plain = ", ".join(suffix for suffix, name in SUFFIXES.items() if name in kinds)
    return f"{plain} (all but .parquet also with {', '.join(COMPRESSIONS)})"


def place(path: Path, number: int) -> str:
    """Phrase that names the place of a record, for a message."""
    return f"{path}, {'row' if kind(path) == 'parquet' else 'line'} {number}"


def require(columns: Iterable[str], existing: Iterable[str], where: str) -> None:
    """Raise a `UserError` that names the nearest existing column when one of `columns` is missing."""
    existing = [str(name) for name in existing]
    for column in columns:
        if column not in existing:
            near = difflib.get_close_matches(column, existing, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise MissingColumnError(f"{where}: no column {column!r}, only {', '.join(map(repr, existing))}{hint}")


# -- streams ------------------------------------------------------------------------------------------------


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield `(line number from 1, line with its end)` of a UTF-8 file, decompressed on the way.

    Lines are decoded one by one, so that the number of a bad line is exact.
    """
    number = 0
    try:
        with fsspec.open(str(path), "rb", compression="infer") as file:
            for number, raw in enumerate(file, 1):
                yield number, (raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw).decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{place(path, number)}: not UTF-8; convert the file to UTF-8") from None
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise UserError(f"cannot read {path} after line {number}: {_first_line(error)}") from None


def records(path: Path, columns: list[str]) -> Iterator[tuple[int, Record]]:
    """Yield `(line or row number from 1, record)` of a JSON, CSV or Parquet file; each record has all `columns`."""
    readers = {"json": _json_records, "csv": _csv_records, "parquet": _parquet_records}
    check_file(path, readers)
    return readers[kind(path) or ""](path, columns)


def _json_records(path: Path, columns: list[str]) -> Iterator[tuple[int, Record]]:
    for number, line in lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{place(path, number)}: broken JSON, {error}") from None
        if not isinstance(record, dict):
            raise UserError(f"{place(path, number)}: not a JSON object; write one object a line")
        require(columns, record, place(path, number))
        yield number, record


def _csv_records(path: Path, columns: list[str]) -> Iterator[tuple[int, Record]]:
    reader = csv.DictReader((line for _, line in lines(path)), strict=True)
    try:
        require(columns, reader.fieldnames or columns, str(path))  # a file with no header at all is empty
        for record in reader:
            if None in record or None in record.values():
                raise UserError(f"{place(path, reader.line_num)}: not as many fields as the header has")
            yield reader.line_num, record
    except csv.Error as error:
        broken = reader.reader.line_num  # DictReader's own number counts only the lines before the fault
        raise UserError(f"{place(path, broken)}: broken CSV, {error}") from None


def _parquet_records(path: Path, columns: list[str]) -> Iterator[tuple[int, Record]]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            require(columns, file.schema_arrow.names, str(path))
            for batch in file.iter_batches(batch_size=1000, columns=columns):
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"cannot read {path} after row {number}: {_first_line(error)}") from None


# -- the hub ------------------------------------------------------------------------------------------------


@contextmanager
def hub_faults(source: str) -> Iterator[None]:
    """Say that the hub is asked for `source`, and turn the exceptions of `datasets` into a `UserError` of one line."""
    asking_hub(source)
    try:
        yield
    except ConnectionError:
        raise UserError(
            f"{source!r} is not a file or folder here and the Hugging Face hub cannot be reached: "
            "correct the path, or go online"
        ) from None
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        raise UserError(f"cannot load {source!r} from the Hugging Face hub: {_first_line(error)}") from None


def hub_records(source: str, subset: str | None, split: str, column: str) -> Iterator[tuple[int, Record]]:
    """Yield `(row number from 1, record)` of a hub data set, streamed and never stored."""
    with hub_faults(source):
        for number, record in enumerate(load_dataset(source, subset, split=split, streaming=True), 1):
            require([column], record, f"{source!r}, split {split!r}")
            yield number, record


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


# -- tables -------------------------------------------------------------------------------------------------


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
    places: list[str] | None = None
    class_names: dict[str, list[str]] = field(default_factory=dict)

    def place(self, row: int) -> str:
        """Phrase that names the place of a row, for a message."""
        return self.places[row] if self.places else f"{self.name}, row {row + 1}"


def read_file(path: Path, columns: list[str]) -> Table:
    """Read `columns` of a JSON, CSV or Parquet file."""
    numbered = list(records(path, columns))
    values = {column: [record[column] for _, record in numbered] for column in columns}
    places = [place(path, number) for number, _ in numbered]
    return _not_empty(Table(str(path), values, places, _class_names(path)))


def _class_names(path: Path) -> dict[str, list[str]]:
    """Names of the classes of a file's columns, which Parquet can hold."""
    if kind(path) != "parquet":
        return {}
    with pq.ParquetFile(path) as file:
        return class_names.of_schema(file.schema_arrow)


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
