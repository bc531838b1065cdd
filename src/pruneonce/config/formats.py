"""The table of file formats for texts and tasks, from which readers, messages, help and documentation derive."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """A format of data files.

    Attributes:
        name: identifies the format.
        suffixes: endings of its files; none for a folder.
        holds: its content, as a phrase for the documentation.
        is_table: it has columns by name.
        is_corpus: a corpus may have it.
        has_lists: a value may be a list, as tags and answers are.
        is_compressible: its files may have one more suffix of `COMPRESSIONS`.
    """

    name: str
    suffixes: tuple[str, ...]
    holds: str
    is_table: bool = True
    is_corpus: bool = True
    has_lists: bool = True
    is_compressible: bool = True


FORMATS = {
    format.name: format
    for format in (
        Format("text", (".txt",), "a text a line", is_table=False, has_lists=False),
        Format("conll", (".conll",), "a word and its tag a line", is_table=False, is_corpus=False, has_lists=False),
        Format("json", (".jsonl", ".ndjson", ".json"), "an object a line, or a list of objects"),
        Format("csv", (".csv",), "a header, then rows with commas between fields", has_lists=False),
        Format("tsv", (".tsv",), "a header, then rows with tabs between fields", has_lists=False),
        Format("parquet", (".parquet",), "Parquet", is_compressible=False),
        Format("arrow", (".arrow", ".feather"), "Arrow or Feather", is_compressible=False),
        Format("saved", (), "a folder that `datasets.Dataset.save_to_disk` wrote", is_compressible=False),
    )
}
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
COLUMNAR = tuple(format.name for format in FORMATS.values() if format.is_table and not format.is_compressible)
CORPUS = tuple(format.name for format in FORMATS.values() if format.is_corpus)
TABLES = tuple(format.name for format in FORMATS.values() if format.is_table)
LISTS = tuple(format.name for format in FORMATS.values() if format.has_lists)


def format_of(name: str) -> str | None:
    """Return the format of a file name by its suffixes; None for other files."""
    lowered = name.lower()
    for format in FORMATS.values():
        endings = ("", *COMPRESSIONS) if format.is_compressible else ("",)
        if lowered.endswith(tuple(suffix + ending for suffix in format.suffixes for ending in endings)):
            return format.name
    return None


def suffixes(names: Collection[str]) -> str:
    """Return the suffixes of formats and of compressed files, as a phrase."""
    chosen = [FORMATS[name] for name in FORMATS if name in names]
    plain = [suffix for format in chosen if not format.is_compressible for suffix in format.suffixes]
    but = f" but {' and '.join(plain)}" if plain else ""
    return f"{', '.join(listed_suffixes(chosen))} (all{but} also with {', '.join(COMPRESSIONS)})"


def listed_suffixes(formats: Collection[Format]) -> list[str]:
    """Return the suffixes of formats."""
    return [suffix for format in formats for suffix in format.suffixes]


def markdown() -> str:
    """Return the table of formats for the documentation."""
    rows = ["| files | content | corpus | tasks | compressed |", "| --- | --- | --- | --- | --- |"]
    for format in FORMATS.values():
        files = ", ".join(f"`{suffix}`" for suffix in format.suffixes) or "a folder"
        tasks = "yes" if format.is_table else "some kinds, below"
        rows.append(
            f"| {files} | {format.holds} | {'yes' if format.is_corpus else '-'} | {tasks} | "
            f"{', '.join(f'`{ending}`' for ending in COMPRESSIONS) if format.is_compressible else '-'} |"
        )
    return "\n".join(rows)
