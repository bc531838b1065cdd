"""Rows of Parquet and Arrow files and of folders that `datasets` saved, a batch at a time, their sizes checked before.

Both encodings can hold a text once and name it in a million rows, so a small file can have a content of any size. The
texts of a batch are measured before they become values of Python.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pruneonce.data.streams import allowed, kind, too_large
from pruneonce.errors import UserError
from pruneonce.system import durable
from pruneonce.wording import first_line

ROWS_AT_ONCE = 1_000
STATE, SPLITS = "state.json", "dataset_dict.json"
MOST_STATE = 1 << 24  # bytes


def schema(path: Path) -> pa.Schema:
    """Return the schema of a file or saved folder, with the metadata that `datasets` wrote into it."""
    with _faults(path, [0]):
        if kind(path) == "parquet":
            with pq.ParquetFile(path) as file:
                return file.schema_arrow
        with _batches(_files(path)[0]) as (found, _):
            return found


def rows(path: Path, columns: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield `(row number from 1, record)` of the columns of a file or saved folder.

    Raises:
        UserError: it cannot be read; its content is out of proportion to its size.
    """
    read = [0]
    with _faults(path, read):
        batches = _parquet(path, columns) if kind(path) == "parquet" else _arrow(path, columns)
        for batch in batches:
            for record in batch.to_pylist():
                read[0] += 1
                yield read[0], record


def data_files(path: Path) -> list[Path]:
    """Return the files with the data of a file or saved folder."""
    return _files(path) if path.is_dir() else [path]


@contextmanager
def _faults(path: Path, read: list[int]) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException, ValueError, OverflowError, IndexError) as error:
        raise UserError(f"cannot read {path} after row {read[0]}: {first_line(error)}") from None


def _parquet(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    metadata = pq.read_metadata(path)
    leaves = [metadata.schema.column(index) for index in range(metadata.num_columns)]
    wanted = [index for index, leaf in enumerate(leaves) if leaf.path.split(".")[0] in columns or leaf.path in columns]
    chunks = (metadata.row_group(group).column(index) for group in range(metadata.num_row_groups) for index in wanted)
    if sum(chunk.total_uncompressed_size + 8 * chunk.num_values for chunk in chunks) > allowed(path):
        raise too_large(path)
    # As dictionaries, repeated texts take their memory once.
    texts = [leaves[index].path for index in wanted if leaves[index].physical_type == "BYTE_ARRAY"]
    with pq.ParquetFile(path, metadata=metadata, read_dictionary=texts) as file:
        yield from _measured(file.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns), allowed(path), path)


def _arrow(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    for file in _files(path):
        with _batches(file) as (_, batches):
            parts = (
                part.slice(first, ROWS_AT_ONCE)
                for batch in batches
                for part in [batch.select(columns)]
                if part.validate(full=True) is None  # raises: offsets of a damaged file lead anywhere
                for first in range(0, len(part), ROWS_AT_ONCE)
            )
            yield from _measured(parts, allowed(file), path)


def _measured(batches: Iterator[pa.RecordBatch], most: int, path: Path) -> Iterator[pa.RecordBatch]:
    """Yield the batches as long as their texts and numbers take `most` bytes together."""
    for batch in batches:
        most -= sum(map(_bytes, batch.columns))
        if most < 0:
            raise too_large(path)
        yield batch


def _bytes(array: pa.Array) -> int:
    """Return the bytes of an array's content, with a repeated text counted each time."""
    of = pa.types
    type_ = array.type
    if of.is_dictionary(type_):
        sizes = _sizes(array.dictionary)
        return 8 * len(array) + (0 if sizes is None else _sum(sizes.take(array.indices)))
    if of.is_struct(type_):
        return 8 * len(array) + sum(map(_bytes, array.flatten()))
    if of.is_list(type_) or of.is_large_list(type_) or of.is_fixed_size_list(type_):
        return 8 * len(array) + _bytes(array.flatten())
    sizes = _sizes(array)
    if sizes is not None:
        return 8 * len(array) + _sum(sizes)
    if not of.is_primitive(type_) and not of.is_null(type_) and not of.is_decimal(type_):
        raise ValueError(f"a column of the type {type_} is not read; convert it to text, numbers or lists of these")
    return 8 * len(array)


def _sum(sizes: pa.Array) -> int:
    return pc.sum(sizes).as_py() or 0


def _sizes(array: pa.Array) -> pa.Array | None:
    """Return the bytes of each text; None where values are no texts."""
    of = pa.types
    type_ = array.type
    if of.is_string_view(type_) or of.is_binary_view(type_):
        views = np.frombuffer(array.buffers()[1], np.int32)[::4]  # 16 bytes each, of which the first four are the size
        return pa.array(views[array.offset : array.offset + len(array)].astype(np.int64))
    if of.is_string(type_) or of.is_large_string(type_) or of.is_binary(type_) or of.is_large_binary(type_):
        return pc.binary_length(array).cast(pa.int64())
    return None


@contextmanager
def _batches(file: Path) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    """Open an Arrow file, in either of its two forms, and give its schema and its batches."""
    with pa.memory_map(str(file)) as source:
        try:
            reader: Any = pa.ipc.open_file(source)
        except pa.ArrowInvalid:
            source.seek(0)
            reader = pa.ipc.open_stream(source)
            yield reader.schema, iter(reader)
        else:
            yield reader.schema, (reader.get_batch(number) for number in range(reader.num_record_batches))


def _files(path: Path) -> list[Path]:
    """Return the Arrow files of a saved folder, or the file itself."""
    if not path.is_dir():
        return [path]
    described = path / STATE
    if described.stat().st_size > MOST_STATE:
        raise UserError(f"{described} is damaged: it is larger than {MOST_STATE >> 20} MiB")
    state = durable.read_json(described)
    entries = state.get("_data_files") if isinstance(state, dict) else None
    found = [entry.get("filename") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    names = [name for name in found if isinstance(name, str) and Path(name).name == name]
    if not found or names != found:
        raise UserError(f"{described} names no data files beside it; save the data set again")
    return [path / name for name in names]
