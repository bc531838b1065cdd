"""Packed token blocks: what is in them, that they are read once, and that bad input is one clear line."""

import bz2
import gzip
import json
import lzma
import os
import re

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from pruneonce.data import corpus as corpus_module
from pruneonce.data import corpus_key, packing, token_blocks
from pruneonce.errors import UserError
from pruneonce.recipe import Corpus

TEXTS = [
    "the river was fine",
    "a good stone",
    "summer and winter in the city of light and water",
    "it was",
] * 8
COMPRESS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
CLS, SEP = 2, 3


def make(source, **settings):
    return Corpus(**{"source": str(source), "block_length": 8, "validation": 0.1, **settings})


def write_text(path, texts=TEXTS):
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def in_order(blocks):
    """All blocks as packed, before the split: the file under the train and validation indices."""
    return datasets.Dataset.from_file(blocks.cache_files[0]["filename"])["input_ids"][:]


def stream(texts, tokenizer, separator):
    """The reference: ids of all texts, joined by the separator."""
    joined = []
    for text in texts:
        joined += ([separator] if joined else []) + tokenizer(text, add_special_tokens=False)["input_ids"]
    return joined


@pytest.fixture
def roberta():
    """A byte-level BPE tokenizer with <s> text </s>, of single bytes only."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Tokenizer(models.BPE({token: i for i, token in enumerate(["<s>", "</s>", *alphabet])}, []))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    words.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", model_max_length=16)


def test_blocks_hold_the_documents_in_order(tmp_path, tokenizer):
    train, validation = token_blocks(make(write_text(tmp_path / "a.txt")), tokenizer, tmp_path / "cache")
    blocks = in_order(train)
    assert all(len(b) == 8 and b[0] == CLS and b[-1] == SEP for b in blocks)
    bodies = [b[1:-1] for b in blocks]
    assert not any(body[0] == SEP for body in bodies)
    # Where a document ends with its block no separator follows: the streams differ in separators alone.
    expected = [i for i in stream(TEXTS, tokenizer, SEP) if i != SEP]
    tokens = [i for body in bodies for i in body if i != SEP]
    assert tokens == expected[: len(tokens)]
    assert len(expected) - len(tokens) < 6  # only what does not fill a block is dropped
    assert any(SEP in body for body in bodies)
    assert sorted(train["input_ids"][:] + validation["input_ids"][:]) == sorted(blocks)


def test_one_long_document_is_cut_into_blocks_without_a_warning(tmp_path, roberta, monkeypatch):
    warned = []
    monkeypatch.setattr("transformers.tokenization_utils_base.logger.warning", lambda *args: warned.append(args))
    text = " ".join(TEXTS)
    train, _ = token_blocks(make(write_text(tmp_path / "a.txt", [text])), roberta, tmp_path / "cache")
    assert not warned
    tokens = [i for b in in_order(train) for i in b[1:-1]]
    assert tokens == stream([text], roberta, 1)[: len(tokens)]
    assert len(tokens) > roberta.model_max_length
    assert warned, "the reference, which does not silence it, is warned"


def test_special_tokens_are_the_tokenizers_own(tmp_path, roberta):
    train, _ = token_blocks(make(write_text(tmp_path / "a.txt")), roberta, tmp_path / "cache")
    blocks = in_order(train)
    assert all(b[0] == 0 and b[-1] == 1 and 0 not in b[1:] for b in blocks)
    text = roberta.decode([i for b in blocks for i in b[1:-1] if i != 1])
    assert "".join(TEXTS).startswith(text)
    assert len(text) > 300


def test_blocks_are_compact_and_memory_mapped(tmp_path, tokenizer):
    cache = tmp_path / "cache"
    for half in token_blocks(make(write_text(tmp_path / "a.txt")), tokenizer, cache):
        assert half.column_names == ["input_ids"]
        assert half.features["input_ids"].feature.dtype == "int32"
        assert isinstance(half.data, datasets.table.MemoryMappedTable)
        assert half.cache_files
        assert all(cache in (cache / f["filename"]).parents for f in half.cache_files)


def test_second_call_does_not_read_or_tokenize(tmp_path, tokenizer, monkeypatch):
    corpus = make(write_text(tmp_path / "a.txt"))
    seen = []
    first = token_blocks(corpus, tokenizer, tmp_path / "cache", seen.append)
    assert seen[-1] == sum(len(tokenizer(t, add_special_tokens=False)["input_ids"]) for t in TEXTS)

    def must_not_run(*args, **kwargs):
        raise AssertionError("tokenized again")

    monkeypatch.setattr(packing, "blocks", must_not_run)
    second = token_blocks(corpus, tokenizer, tmp_path / "cache")
    assert [half["input_ids"][:] for half in first] == [half["input_ids"][:] for half in second]


def test_split_is_the_same_shuffle_in_every_cache(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(corpus_module, "ROWS_AT_ONCE", 7)
    corpus = make(write_text(tmp_path / "a.txt"))
    one, other = (token_blocks(corpus, tokenizer, tmp_path / name) for name in ("one", "other"))
    assert one[0]["input_ids"][:] == other[0]["input_ids"][:]
    expected = datasets.Dataset.from_dict({"input_ids": in_order(one[0])}).train_test_split(test_size=0.1, seed=0)
    assert len(one[1]) == len(expected["test"]) == 3
    assert [half["input_ids"][:] for half in one] == [half["input_ids"][:] for half in expected.values()]


def test_key_follows_everything_that_makes_the_blocks(tmp_path, tokenizer, roberta):
    file = write_text(tmp_path / "a.txt")
    key = corpus_key(make(file), tokenizer)
    tokenizer(["a", "the river"], truncation=True, max_length=4, padding=True)  # leaves state in the tokenizer
    assert corpus_key(make(file), tokenizer) == key
    assert corpus_key(make(tmp_path), tokenizer) == key, "the same one file"
    others = {corpus_key(make(file, block_length=9), tokenizer), corpus_key(make(file), roberta)}
    others.add(corpus_key(make(write_text(file, TEXTS[::-1])), tokenizer))
    write_text(tmp_path / "b.txt")
    others.add(corpus_key(make(tmp_path), tokenizer))
    assert len(others | {key}) == 5


def test_key_is_the_same_wherever_the_files_lie(tmp_path, tokenizer):
    for name in ("one", "two/three"):
        (tmp_path / name).mkdir(parents=True)
        write_text(tmp_path / name / "a.txt")
    os.utime(tmp_path / "one" / "a.txt", ns=(1, 1))
    assert corpus_key(make(tmp_path / "one"), tokenizer) == corpus_key(make(tmp_path / "two" / "three"), tokenizer)


def test_max_tokens_is_exact(tmp_path, tokenizer):
    seen = []
    file = write_text(tmp_path / "a.txt", [" ".join(TEXTS)])
    train, validation = token_blocks(make(file, max_tokens=31), tokenizer, tmp_path / "cache", seen.append)
    assert seen[-1] == 31
    assert len(train) + len(validation) == 31 // 6


def test_folder_is_read_in_turn(tmp_path, tokenizer):
    (tmp_path / "text" / "deep").mkdir(parents=True)
    write_text(tmp_path / "text" / "a.txt", ["river"] * 40)
    write_text(tmp_path / "text" / "deep" / "b.txt", ["stone"] * 3)
    (tmp_path / "text" / "c.jsonl").write_text('{"text": "winter"}\n' * 40)
    (tmp_path / "text" / "notes.md").write_text("not read")
    corpus = make(tmp_path / "text", max_tokens=24)
    train, _ = token_blocks(corpus, tokenizer, tmp_path / "cache")
    words = [w for b in in_order(train) for w in tokenizer.decode(b).split() if not w.startswith("[")]
    assert words[:13] == [*["river", "winter", "stone"] * 3, "river", "winter", "river", "winter"]


def test_more_files_than_are_open_at_once(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(packing, "FILES_AT_ONCE", 2)
    for name, word in zip("abc", ("river", "stone", "winter"), strict=True):
        write_text(tmp_path / f"{name}.txt", [word] * (2 if name == "a" else 6))
    train, _ = token_blocks(make(tmp_path), tokenizer, tmp_path / "cache")
    words = [w for b in in_order(train) for w in tokenizer.decode(b).split() if not w.startswith("[")]
    assert words[:8] == ["river", "stone", "river", "stone", "stone", "winter", "stone", "winter"]


def test_batches_do_not_change_the_blocks(tmp_path, tokenizer, monkeypatch):
    corpus = make(write_text(tmp_path / "a.txt"))
    whole, _ = token_blocks(corpus, tokenizer, tmp_path / "whole")
    monkeypatch.setattr(packing, "DOCUMENTS_AT_ONCE", 3)
    monkeypatch.setattr(packing, "CHARACTERS_AT_ONCE", 40)
    monkeypatch.setattr(corpus_module, "BLOCKS_AT_ONCE", 2)
    pieces, _ = token_blocks(corpus, tokenizer, tmp_path / "pieces")
    assert in_order(whole) == in_order(pieces)


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".json"])
def test_every_format_gives_the_same_blocks(tmp_path, tokenizer, suffix, compression):
    plain, _ = token_blocks(make(write_text(tmp_path / "plain.txt")), tokenizer, tmp_path / "cache")
    rows = TEXTS if suffix == ".txt" else [json.dumps({"id": 1, "body": text}) for text in TEXTS]
    file = tmp_path / f"a{suffix}{compression}"
    # A byte order mark, Windows' line ends, blank lines: none of them is text.
    file.write_bytes(COMPRESS[compression](b"\xef\xbb\xbf" + "\r\n\r\n".join(rows).encode()))
    other, _ = token_blocks(make(file, column="body"), tokenizer, tmp_path / "cache")
    assert in_order(other) == in_order(plain)


def test_parquet_gives_the_same_blocks(tmp_path, tokenizer):
    plain, _ = token_blocks(make(write_text(tmp_path / "plain.txt")), tokenizer, tmp_path / "cache")
    table = pa.table({"id": range(len(TEXTS) + 1), "body": [None, *TEXTS]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=5)
    other, _ = token_blocks(make(tmp_path / "a.parquet", column="body"), tokenizer, tmp_path / "cache")
    assert in_order(other) == in_order(plain)


def test_hub_data_is_streamed(tmp_path, tokenizer, monkeypatch):
    asked = []

    def load(*args, **options):
        asked.append((args, options))
        return datasets.IterableDataset.from_generator(lambda: ({"body": text} for text in TEXTS))

    monkeypatch.setattr("pruneonce.data.readers.load_dataset", load)
    corpus = make("some/text", subset="en", split="validation", column="body")
    hub, _ = token_blocks(corpus, tokenizer, tmp_path / "cache")
    plain, _ = token_blocks(make(write_text(tmp_path / "plain.txt")), tokenizer, tmp_path / "cache")
    assert in_order(hub) == in_order(plain)
    assert asked == [(("some/text", "en"), {"split": "validation", "streaming": True})]
    with pytest.raises(UserError, match=r"'some/text', split 'train': no column 'bdy', only 'body'; did you mean"):
        token_blocks(make("some/text", column="bdy"), tokenizer, tmp_path / "cache")


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (
            ConnectionError("no"),
            "'some/text' is not a file or folder here and the Hugging Face hub cannot be reached",
        ),
        (ValueError("Bad split: x\nmore"), "cannot load 'some/text' from the Hugging Face hub: Bad split: x"),
        (datasets.exceptions.DatasetNotFoundError("It doesn't exist"), "hub: It doesn't exist"),
    ],
)
def test_hub_failures_are_one_line(tmp_path, tokenizer, monkeypatch, raised, message):
    def fail(*args, **options):
        raise raised

    monkeypatch.setattr("pruneonce.data.readers.load_dataset", fail)
    check(make("some/text"), tokenizer, tmp_path, re.escape(message))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", r"too small: 0 tokens, where a block takes 6 and two blocks are needed"),
        ("a.txt", b"the river was fine\n", r"too small: 4 tokens"),
        ("a.txt", b"fine\n" * 3000 + b"\xff\xfe\n", r"a\.txt, line 3001: not UTF-8"),
        ("a.jsonl", b'{"text": "fine"}\n\n{"text": "fi\n', r"a\.jsonl, line 3: broken JSON, "),
        ("a.json", b'[{"text": "fine"}, 3]', r"a\.json, row 2: not a JSON object; write one object a line, or a list"),
        (
            "a.jsonl",
            b'{"texts": "x", "id": 1}',
            r"line 1: no column 'text', only 'texts', 'id'; did you mean 'texts'",
        ),
        ("a.jsonl", b'{"text": 5}', r"a\.jsonl, line 1: 'text' is not text but 5"),
        ("a.txt.gz", b"not gzip", r"cannot read .*a\.txt\.gz after line 0: "),
        (
            "a.txt.gz",
            gzip.compress(os.urandom(9000).hex().encode())[:-4000],
            r"cannot read .*a\.txt\.gz after line 0: ",
        ),
        ("a.txt.xz", lzma.compress(b"fine\n" * 9000)[:-30], r"cannot read .*a\.txt\.xz after line \d+: "),
        ("a.txt.bz2", b"not bzip2", r"cannot read .*a\.txt\.bz2 after line 0: "),
        ("a.parquet", b"PAR1 not really", r"cannot read .*a\.parquet after row 0: "),
        (
            "a.conll",
            b"text\nfine\n",
            r"cannot read .*a\.conll: its name has to end in \.txt, \.jsonl, \.ndjson, \.json, \.csv, ",
        ),
        ("a.parquet.gz", b"", r"cannot read .*a\.parquet\.gz: its name has to end in"),
    ],
)
def test_bad_files_are_one_line(tmp_path, tokenizer, name, content, message):
    (tmp_path / name).write_bytes(content)
    check(make(tmp_path / name), tokenizer, tmp_path, message)


def test_parquet_without_the_column(tmp_path, tokenizer):
    pq.write_table(pa.table({"body": TEXTS}), tmp_path / "a.parquet")
    check(make(tmp_path / "a.parquet"), tokenizer, tmp_path, r"a\.parquet: no column 'text', only 'body'")


@pytest.mark.parametrize("source", ["./nothing", "/nothing/here", "nothing.txt", "a/b/c", "~/nothing", "two words"])
def test_missing_source(tmp_path, tokenizer, source):
    check(make(source), tokenizer, tmp_path, f"no such file or folder: {source}")


def test_folder_without_text(tmp_path, tokenizer):
    (tmp_path / "readme.md").write_text("hello")
    check(make(tmp_path), tokenizer, tmp_path, r"nothing to read in the folder .*: no file ends in \.txt, ")


def test_tokenizer_that_is_no_encoders(tmp_path, tokenizer, roberta):
    file = write_text(tmp_path / "a.txt")
    check(make(file), object(), tmp_path, "object is not a fast tokenizer")
    roberta.backend_tokenizer.post_processor = processors.ByteLevel()
    check(make(file), roberta, tmp_path, "puts no special tokens around a text")


# -- several processes ------------------------------------------------------------------------------------------


@pytest.fixture
def many_files(tmp_path, monkeypatch):
    """A folder of files of unlike lengths, which make four groups."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(9):
        write_text(folder / f"{number}.txt", TEXTS * (1 + number % 4))
    monkeypatch.setattr(corpus_module, "GROUP_TOKENS", 8)
    monkeypatch.setattr(corpus_module, "GROUP_BYTES", sum(f.stat().st_size for f in folder.iterdir()) // 4)
    return folder


def test_processes_change_neither_the_blocks_nor_the_key(many_files, tokenizer, tmp_path):
    alone, spread = make(many_files, processes=1), make(many_files, processes=2)
    assert corpus_key(alone, tokenizer) == corpus_key(spread, tokenizer)
    seen = {1: [], 2: []}
    one, _ = token_blocks(alone, tokenizer, tmp_path / "one", seen[1].append)
    two, _ = token_blocks(spread, tokenizer, tmp_path / "two", seen[2].append)
    assert len(list((tmp_path / "two").glob("*/blocks-*.arrow"))) == 4
    assert one["input_ids"][:] == two["input_ids"][:]
    words = sum(len(text.split()) for text in TEXTS) * sum(1 + number % 4 for number in range(9))
    assert seen[1][-1] == seen[2][-1] == words
    assert seen[2] == sorted(seen[2])


def test_each_file_is_in_one_group(many_files):
    groups = corpus_module._groups(make(many_files))
    assert sorted(file for group in groups for file in group.files) == sorted(many_files.iterdir())
    sizes = [group.size for group in groups]
    assert max(sizes) < 1.5 * min(sizes)
    assert len(corpus_module._groups(make(many_files, max_tokens=16))) == 2, "few tokens are not worth many groups"


def test_little_text_is_one_group(many_files, monkeypatch):
    monkeypatch.undo()
    assert len(corpus_module._groups(make(many_files))) == 1


@pytest.mark.parametrize("most", [37, 400, 1200, 100_000])
def test_max_tokens_is_exact_over_groups(many_files, tokenizer, tmp_path, most):
    blank = many_files / "0.txt"
    blank.write_text("\n" * 3000 + "fine stone\n" * 3)  # large, and all but empty: the others read its share
    seen = []
    token_blocks(make(many_files, max_tokens=most, processes=1), tokenizer, tmp_path / "cache", seen.append)
    whole = 6 + sum(len(t.split()) for t in TEXTS) * sum(1 + number % 4 for number in range(1, 9))
    assert seen[-1] == min(most, whole)


@pytest.mark.parametrize("processes", [1, 2])
def test_failure_in_one_group_leaves_nothing(many_files, tokenizer, tmp_path, processes):
    (many_files / "7.txt").write_bytes(b"fine\n" * 60 + b"\xff\n")
    check(make(many_files, processes=processes), tokenizer, tmp_path, r"7\.txt, line 61: not UTF-8")


def test_interruption_leaves_nothing(many_files, tokenizer, tmp_path):
    def interrupt(tokens):
        if tokens > 300:
            raise KeyboardInterrupt

    for processes in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            token_blocks(make(many_files, processes=processes), tokenizer, tmp_path / "cache", interrupt)
        assert not list(tmp_path.glob("cache/*"))


def test_what_a_killed_process_left_is_not_taken_for_blocks(tmp_path, tokenizer):
    corpus = make(write_text(tmp_path / "a.txt"))
    whole, _ = token_blocks(corpus, tokenizer, tmp_path / "cache")
    packed_before = in_order(whole)
    (made,) = tmp_path.glob("cache/*")
    left = made.rename(made.with_suffix(".partial"))
    (left / "blocks-001.arrow").write_bytes(b"half")
    again, _ = token_blocks(corpus, tokenizer, tmp_path / "cache")
    assert [file.name for file in tmp_path.glob("cache/*")] == [made.name]
    assert in_order(again) == packed_before


def check(corpus, tokenizer, tmp_path, message):
    """`token_blocks` fails with one line and leaves nothing behind."""
    with pytest.raises(UserError, match=message) as failure:
        token_blocks(corpus, tokenizer, tmp_path / "cache")
    assert "\n" not in str(failure.value)
    assert not list(tmp_path.glob("cache/*"))
