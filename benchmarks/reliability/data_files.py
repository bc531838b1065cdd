"""Data files, damaged and odd: rows that are those of an independent reader, or one line of refusal."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from hypothesis import strategies as st

from benchmarks.reliability.mutations import mutated
from pruneonce.data.conll import read_conll
from pruneonce.data.readers import read_file

TEXTS = st.text(max_size=12) | st.sampled_from(['"', "a\nb", "a,b", "a\tb", "\ufeff", "\u2028", "NaN", "x" * 3000])
ODD = st.sampled_from([
    b'"', b"\n", b"\r", b"\t", b"\x00", b"[", b"]", b"{", b"}", b",", b"\\ud83d", b"\xef\xbb\xbf", b"\xff\xfe", b"\xe9",
    b'"text": 1, ', b"text,", b"[" * 3000, b"9" * 5000, b"1e999", b"\xc2\x85", b"\xe2\x80\xa8", b"-DOCSTART-", b"# ",
])  # fmt: skip
TEXT_FORMATS = ("csv", "tsv", "jsonl", "json")
COMPRESS = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


def tables(data: Any, folder: Path) -> None:
    """A table in each format: the column that is read is the column that Python's own readers find."""
    texts = data.draw(st.lists(TEXTS.filter(_is_whole), min_size=1, max_size=5))
    format = data.draw(st.sampled_from([*TEXT_FORMATS, *TEXT_FORMATS, "parquet", "arrow"]))
    content = _changed(data, _written(format, texts, folder))
    ending = data.draw(st.sampled_from(list(COMPRESS))) if format in TEXT_FORMATS else ""
    path = folder / f"a.{format}{ending}"
    path.write_bytes(COMPRESS[ending](content))
    read = read_file(path, ["text"]).columns["text"]
    if format in TEXT_FORMATS:
        assert _same(read, _independent(format, content)), f"{format}: {content!r:.300} read as {read!r:.300}"


def conll_files(data: Any, folder: Path) -> None:
    """Sentences in the format of CoNLL: words and tags are those of a reader of a few lines."""
    words = st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=5)
    lines = st.lists(
        st.builds("{}\t{}".format, words, st.sampled_from(["O", "B-X"])) | st.sampled_from(["", "\t", " "])
    )
    content = _changed(data, "\n".join(data.draw(lines)).encode())
    (folder / "a.conll").write_bytes(content)
    table = read_conll(folder / "a.conll", "words", "tags")
    sentences: list[list[tuple[str, str]]] = [[]]
    for line in _decoded(content).split("\n"):
        columns = line.rstrip("\r\n").split("\t") if "\t" in line else line.split()
        if not line.strip() or columns[0] == "-DOCSTART-":
            sentences.append([])
        else:
            sentences[-1].append((columns[0], columns[-1]))
    expected = [sentence for sentence in sentences if sentence]
    assert [list(zip(*both, strict=True)) for both in zip(*table.columns.values(), strict=True)] == expected


def _is_whole(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _written(format: str, texts: list[str], folder: Path) -> bytes:
    rows = [{"id": number, "text": text} for number, text in enumerate(texts)]
    if format in ("csv", "tsv"):
        file = io.StringIO(newline="")
        writer = csv.DictWriter(file, ["id", "text"], delimiter="\t" if format == "tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
        return file.getvalue().encode()
    if format in ("jsonl", "json"):
        is_list = format == "json"
        return (json.dumps(rows, indent=1) if is_list else "\n".join(map(json.dumps, rows))).encode()
    sink = io.BytesIO()
    table = pa.Table.from_pylist(rows)
    if format == "parquet":
        pq.write_table(table, sink)
    else:
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    return sink.getvalue()


def _changed(data: Any, content: bytes) -> bytes:
    """The content as it is, in another encoding, damaged, or with something odd in it."""
    how = data.draw(st.sampled_from(["same", "encoding", "damage", "odd", "odd"]))
    if how == "encoding":
        encoding = data.draw(st.sampled_from(["utf-8-sig", "utf-16", "utf-32", "utf-16-le", "latin-1"]))
        return content.decode("utf-8", errors="replace").encode(encoding, errors="replace")
    if how == "damage" and content:
        return mutated(data, content)
    for _ in range(data.draw(st.integers(1, 3)) if how == "odd" else 0):
        place = data.draw(st.integers(0, len(content)))
        content = content[:place] + data.draw(ODD) + content[place:]
    return content


def _decoded(content: bytes) -> str:
    marks = {b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
    encoding = next((name for mark, name in marks.items() if content.startswith(mark)), "utf-8-sig")
    return content.decode(encoding)


def _independent(format: str, content: bytes) -> list[Any]:
    text = _decoded(content)
    if format in ("csv", "tsv"):
        delimiter = "\t" if format == "tsv" else ","
        rows = [row for row in csv.reader(io.StringIO(text, newline="\n"), delimiter=delimiter, strict=True) if row]
        place = rows[0].index("text")
        return [row[place] for row in rows[1:]]
    if text.lstrip(" \t\r\n").startswith("["):
        return [row["text"] for row in json.loads(text)]
    return [json.loads(line)["text"] for line in map(str.strip, text.split("\n")) if line]


def _same(first: list[Any], second: list[Any]) -> bool:
    return repr(first) == repr(second)  # nan is not equal to itself
