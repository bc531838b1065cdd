"""Data files as people have them: every format reads the same, what is ambiguous is refused, and sizes are bounded."""

import bz2
import csv
import gzip
import io
import json
import lzma
import re
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import zstandard
from shared.processes import python
from tokenizers import Tokenizer

from pruneonce.config import formats
from pruneonce.data import packing, streams
from pruneonce.data.conll import read_conll
from pruneonce.data.keys import file_key
from pruneonce.data.readers import read_file
from pruneonce.errors import UserError

ROWS = [
    {"text": 'one, "two"\nthree', "label": 1},
    {"text": "", "label": 0},
    {"text": "naïve 日本 \U0001f600", "label": 1},
]
COMPRESS = dict(
    zip(formats.COMPRESSIONS, (gzip.compress, bz2.compress, lzma.compress, zstandard.compress), strict=True)
)


def rows_of(path, columns=("text", "label")):
    table = read_file(path, list(columns))
    return [dict(zip(columns, values, strict=True)) for values in zip(*table.columns.values(), strict=True)]


def delimited(rows, delimiter):
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def saved(path, rows):
    datasets.Dataset.from_list(rows).save_to_disk(path, num_shards=2)
    return path


def write(path, rows):
    table = pa.Table.from_pylist(rows)
    if path.suffix == ".feather":
        pyarrow.feather.write_feather(table, path)
    elif path.suffix == ".arrow":
        with pa.ipc.new_stream(str(path), table.schema) as writer:
            writer.write_table(table)
    elif path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == "":
        saved(path, rows)
    return path


def fails(path, message, columns=("text",)):
    with pytest.raises(UserError, match=message) as failure:
        read_file(path, list(columns))
    assert "\n" not in str(failure.value)
    return str(failure.value)


# -- formats ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS)),
        ("a.ndjson", "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in ROWS)),
        ("a.json", json.dumps(ROWS)),
        ("a.json", "\n " + json.dumps(ROWS, indent=2, ensure_ascii=False) + "\n\n"),
        ("a.csv", delimited(ROWS, ",")),
        ("a.tsv", delimited([{**row, "text": row["text"].replace("\n", " ")} for row in ROWS], "\t")),
    ],
)
@pytest.mark.parametrize("compression", ["", *COMPRESS])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_formats_read_the_same(tmp_path, name, content, compression, encoding):
    path = tmp_path / (name + compression)
    path.write_bytes(COMPRESS.get(compression, bytes)(content.encode(encoding)))
    expected = [{**row, "text": row["text"].replace("\n", " ") if name == "a.tsv" else row["text"]} for row in ROWS]
    assert [{**row, "label": int(row["label"])} for row in rows_of(path)] == expected


@pytest.mark.parametrize("name", ["a.parquet", "a.feather", "a.arrow", "saved"])
def test_columnar_formats_read_the_same(tmp_path, name):
    path = write(tmp_path / name, ROWS)
    assert rows_of(path) == ROWS
    table = read_file(path, ["text"])
    assert table.place(2) == f"{path}, row 3"
    fails(path, "no column 'texts', only 'text', 'label'; did you mean 'text'", ["texts"])


def test_lists_and_views_in_columns(tmp_path):
    rows = [
        {"words": ["a", None, "日"], "answers": {"text": ["x"], "answer_start": [3]}},
        {"words": [], "answers": None},
    ]
    for name in ("a.parquet", "a.arrow"):
        assert rows_of(write(tmp_path / name, rows), ["words", "answers"]) == rows
    views = pa.table({"text": pa.array(["short", "longer than twelve", None], pa.string_view())})
    with pa.ipc.new_file(str(tmp_path / "v.arrow"), views.schema) as writer:
        writer.write_table(views)
    assert rows_of(tmp_path / "v.arrow", ["text"]) == views.to_pylist()


def test_a_list_is_read_one_object_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "CHARACTERS_AT_ONCE", 7)  # objects go on over the ends of pieces
    path = tmp_path / "a.json"
    path.write_text(json.dumps(ROWS, indent=1))
    assert rows_of(path) == ROWS
    assert read_file(path, ["text"]).place(1) == f"{path}, row 2"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"text": "a"} {"text": "b"}]', "after row 1: broken JSON, a comma or the end of the list is missing"),
        ('[{"text": "a"}', "after row 1: broken JSON, a comma or the end of the list is missing"),
        ('[{"text": "a"},', "row 2: not a JSON object"),
        ('[{"text": "a"}, {"text": "b]', "row 2: broken JSON, Unterminated string"),
        ('[{"text": a}]', "row 1: broken JSON, Expecting value"),
        ('[{"text": "a"}] 3', "after row 1: broken JSON, there is more after the list"),
        ("[]", "is empty: it holds no records"),
        ('[{"text": "a"}, "b"]', "row 2: not a JSON object; write one object a line, or a list of objects"),
        ('[{"text": "a"}, {"txt": "b"}]', "row 2: no column 'text', only 'txt'"),
    ],
)
def test_a_broken_list_is_one_line(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)
    fails(tmp_path / "a.json", re.escape(message))


def test_one_of_several_splits_has_to_be_given(tmp_path):
    both = {name: datasets.Dataset.from_list(ROWS) for name in ("train", "test")}
    datasets.DatasetDict(both).save_to_disk(tmp_path / "all")
    fails(tmp_path / "all", r"holds several splits; give one of them: .*all/test, .*all/train")
    assert rows_of(tmp_path / "all" / "train") == ROWS


def test_a_saved_folder_is_known_by_its_data(tmp_path):
    first, second = saved(tmp_path / "a", ROWS), saved(tmp_path / "b", ROWS)
    (first / "cache-123.arrow").write_bytes((first / "data-00000-of-00002.arrow").read_bytes())
    assert file_key(first) == file_key(second)
    assert packing.local_files(str(first)) == [first / f"data-0000{part}-of-00002.arrow" for part in (0, 1)]
    assert file_key(saved(tmp_path / "c", ROWS[:2])) != file_key(first)


def test_a_folder_has_the_formats_that_it_always_had_first(tmp_path, capfd):
    for name in ("a.txt", "b.jsonl.gz", "c.csv", "d.txt.zst", "readme.md"):
        (tmp_path / name).write_bytes(b"")
    assert [file.name for file in packing.local_files(str(tmp_path))] == ["a.txt", "b.jsonl.gz"]
    assert "2 of 4 files are read" in " ".join(capfd.readouterr().out.split())
    for name in ("a.txt", "b.jsonl.gz"):
        (tmp_path / name).unlink()
    assert [file.name for file in packing.local_files(str(tmp_path))] == ["c.csv", "d.txt.zst"]


def test_the_table_of_formats_is_in_the_documentation():
    assert formats.markdown() in (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")


# -- what is ambiguous or broken ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.parquet", "a.arrow"])
def test_a_column_twice(tmp_path, name):
    path = tmp_path / name
    if name in ("a.csv", "a.tsv"):
        path.write_text("text,other,text,\na,b,c,d\n".replace(",", "\t" if name == "a.tsv" else ","))
    else:
        table = pa.table([pa.array(["a"]), pa.array(["b"]), pa.array(["c"])], names=["text", "other", "text"])
        if name == "a.parquet":
            pq.write_table(table, path)
        else:
            with pa.ipc.new_file(str(path), table.schema) as writer:
                writer.write_table(table)
    fails(path, "the header has the column 'text' 2 times; rename all but one$")
    if name != "a.parquet":
        assert rows_of(path, ["other"]) == [{"other": "b"}]  # what is not read does not matter


def test_a_column_that_is_both_texts_of_a_pair(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,0\nb,1\n")
    table = read_file(path, ["text", "text", "label"])
    assert table.columns == {"text": ["a", "b"], "label": ["0", "1"]}
    assert [*table.places] == [f"{path}, line 2", f"{path}, line 3"]


def test_a_key_twice(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "other": {"x": 1, "x": 2}}\n{"text": "a", "label": 1, "text": "b"}\n')
    fails(path, r"a\.jsonl, line 2: 'text' is given twice; keep one of the two values")


@pytest.mark.parametrize("form", ["{}\n", "[{}]"])
def test_a_key_twice_within_a_value(tmp_path, form):
    row = '{"text": {"a": [{"b": 1, "b": 2}]}, "other": {"c": 1}}'
    path = tmp_path / "a.json"
    path.write_text(form.format(row))
    fails(path, "'text': 'b' is given twice; keep one of the two values")
    assert rows_of(tmp_path / "a.json", ("other",)) == [{"other": {"c": 1}}]


@pytest.mark.parametrize("indent", [1, 4])
def test_an_object_over_several_lines(tmp_path, indent):
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"text": "good", "label": 1}, indent=indent))
    fails(file, r"line 1: the object does not end on its line; write each object on a line of its own \(`jq -c . FILE`")


def test_a_long_cell(tmp_path):
    before = csv.field_size_limit()
    long = "word " * 100_000
    (tmp_path / "a.csv").write_text(f'text,label\n"{long}",1\n')
    assert rows_of(tmp_path / "a.csv") == [{"text": long, "label": "1"}]
    (tmp_path / "b.csv").write_text('text,label\n"' + ("x" * 999 + "\n") * 17_000)
    fails(tmp_path / "b.csv", r"broken CSV, a field is longer than 16 MiB; is a quote left open\?")
    assert csv.field_size_limit() == before


def test_quotes_as_characters_in_tsv(tmp_path):
    (tmp_path / "a.tsv").write_text('text\tlabel\nthe "best" one\t1\n"not closed\t0\nfine\t1\nnot opened"\t0\n')
    fails(
        tmp_path / "a.tsv", "line 5: a field in quotes goes on over the end of a line; if quotes are plain characters"
    )


@pytest.mark.parametrize("form", ["{}\n", "[{}]"])
def test_half_a_character(tmp_path, form):
    path = tmp_path / "a.json"
    path.write_text(form.format('{"text": "smile \\ud83d", "label": 1}'))
    fails(path, r"(line|row) 1: 'text' is not valid Unicode, '\\ud83d' is half of a character; take it out")
    assert rows_of(path, ["label"]) == [{"label": 1}]
    path.write_text(form.format('{"text": "smile \\ud83d\\ude00"}'))
    assert rows_of(path, ["text"]) == [{"text": "smile \U0001f600"}]


@pytest.mark.parametrize("depth", [150, 100_000])
@pytest.mark.parametrize("form", ["{}\n", "[{}]"])
def test_deep_nesting(tmp_path, form, depth):
    (tmp_path / "a.json").write_text(form.format('{"text": ' + "[" * depth + "]" * depth + "}"))
    fails(tmp_path / "a.json", r"(line|row) 1.*: nested deeper than 100 levels")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "text\nfine\ncafé\n".encode("latin-1"),
            r"line 3: not UTF-8: the byte 0xE9 \('é' in Latin-1\); convert .*`iconv",
        ),
        ("text\nfine\n".encode("utf-16-le"), r"line 1: not UTF-8 but bytes of 0; convert .*`iconv -f utf-16"),
        (b"\xff\xfet\x00e\x00x", r"not UTF-16.*, as its first bytes say"),
    ],
)
def test_other_encodings_are_named(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content)
    fails(tmp_path / "a.csv", message)


def test_a_zst_file_of_several_frames_and_one_that_breaks_off(tmp_path):
    lines = [json.dumps({"text": f"{number} {'x' * number}"}) + "\n" for number in range(300)]
    frames = [zstandard.compress("".join(part).encode()) for part in (lines[:100], lines[100:])]
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(b"".join(frames))
    assert rows_of(path, ["text"]) == [json.loads(line) for line in lines]
    path.write_bytes(b"".join(frames)[:-5])
    fails(path, "cannot read .* the file breaks off")


@pytest.mark.parametrize("blank", ["\n", "\t\n", "  \n", " \t \r\n"])
def test_sentences_are_parted_by_white_space(tmp_path, blank):
    path = tmp_path / "a.conll"
    path.write_text(f"Ada\tB-PER\nlives\tO\n{blank}here\tO\n{blank}")
    assert read_conll(path, "words", "tags").columns == {
        "words": [["Ada", "lives"], ["here"]],
        "tags": [["B-PER", "O"], ["O"]],
    }


# -- sizes ----------------------------------------------------------------------------------------------------------


def test_a_long_document_is_tokenized_in_pieces(tokenizer, monkeypatch):
    text = "the river was fine " * 500 + "x" * 3000
    words = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    words.no_truncation()  # which another test may have left
    whole = words.encode(text, add_special_tokens=False).ids
    assert "".join(packing.pieces(text, 1000)) == text
    assert max(map(len, packing.pieces(text, 1000))) == 1000
    monkeypatch.setattr(packing, "CHARACTERS_AT_ONCE", 1000)
    monkeypatch.setattr(packing.pieces, "__defaults__", (1000,))
    ids = next(packing._ids([text[:9000]], words))
    assert ids == words.encode(text[:9000], add_special_tokens=False).ids == whole[: len(ids)]


BOUNDED = """
import json, resource, sys
from pathlib import Path
from pruneonce.data.readers import read_file
from pruneonce.errors import UserError

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

before, found = peak(), {}
for name in sys.argv[2:]:
    try:
        said = len(read_file(Path(sys.argv[1], name), ["text"]).columns["text"])
    except UserError as error:
        said = str(error)
    found[name] = [said, peak() - before]
print(json.dumps(found))
"""
LARGE = {  # name: what is said
    "line.jsonl": "line 1: longer than 16 MiB",
    "bomb.jsonl.gz": "its content is more than 32 MiB and 200 times the size of the file",
    "bomb.json.zst": "its content is more than 32 MiB and 200 times the size of the file",
    "bomb.parquet": "its content is more than 32 MiB and 200 times the size of the file",
    "list.parquet": "its content is more than 32 MiB and 200 times the size of the file",
}


@pytest.fixture(scope="module")
def bounded(tmp_path_factory):
    """What reading each file says, and the peak of memory after it beyond that before all of them, in MB."""
    folder = tmp_path_factory.mktemp("large")
    (folder / "line.jsonl").write_text('{"text": "' + "word " * 12_000_000 + '"}\n')
    with gzip.open(folder / "bomb.jsonl.gz", "wb") as file:
        for _ in range(100):
            file.write(b'{"text": "' + b"a" * 1_000_000 + b'"}\n')
    with zstandard.open(folder / "bomb.json.zst", "wb") as file:
        file.write(b"[" + b", ".join([b'{"text": "' + b"a" * 1_000_000 + b'"}'] * 100) + b"]")
    pq.write_table(pa.table({"text": ["a" * 1_200_000] * 100}), folder / "bomb.parquet")
    pq.write_table(pa.table({"text": [["a" * 1_200_000] * 100]}), folder / "list.parquet")
    answer = python("-c", BOUNDED, str(folder), *LARGE)
    assert not answer.returncode, answer.stderr
    return json.loads(answer.stdout)


@pytest.mark.parametrize("name", LARGE)
def test_memory_is_bounded(bounded, name):
    said, megabytes = bounded[name]
    assert LARGE[name] in said
    assert megabytes < 400, said
