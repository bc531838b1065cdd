"""What `max_length` cuts is counted and said, and a long text is tokenized in little memory with the same tokens."""

import json
import re
import resource

import pytest
from datasets import Dataset

from pruneonce.recipe import make_task
from pruneonce.tasks import cuts, kind_of, loaded
from pruneonce.tasks.kind import tokenized

LONG, SHORT = "the river was fine " * 5, "a good stone"  # 20 and 3 tokens


@pytest.fixture(autouse=True)
def plain(tokenizer):
    """The tokenizer, which all tests share, is left without the truncation of these tests."""
    yield
    tokenizer.backend_tokenizer.no_truncation()


@pytest.fixture
def examples(tmp_path, tokenizer, capfd):
    """`examples(kind, rows, split, ...)`: the encoded split of a task with these rows in all splits, and the lines."""

    def examples(kind, rows, split="dev", training=False, **settings):
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        file = str(tmp_path / "rows.jsonl")
        task = make_task({"kind": kind, "train": file, "dev": file, "max_length": 8, **settings})
        data = loaded.load(kind_of(task), tmp_path)
        made = data.examples(split, tokenizer, training)
        assert data.examples(split, tokenizer, training) is made  # said once, as it is encoded once
        return made, re.findall(r"^\w+ \(.*?\): (.*)$", capfd.readouterr().err, re.MULTILINE)

    return examples


def test_texts(examples):
    rows = [{"text": text, "label": label} for label, text in enumerate([LONG, SHORT, "the river was fine a stone"])]
    encoded, lines = examples("classification", rows, labels=["a", "b", "c"])
    assert [len(ids) for ids in encoded["input_ids"]] == [8, 5, 8]  # the last just fits
    assert [line.strip() for line in lines] == [
        "1 of 3 texts are longer than 8 tokens and are cut; 48.3 % of all tokens"  # 14 of 29
    ]


def test_the_account_is_kept_for_result_files(tmp_path, tokenizer):
    rows = [{"text": text, "label": label} for label, text in enumerate([LONG, SHORT])]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    file = str(tmp_path / "rows.jsonl")
    task = make_task({"kind": "classification", "train": file, "dev": file, "max_length": 8})
    data = loaded.load(kind_of(task), tmp_path)
    expected = {"cut": 1, "texts": 2, "share": 14 / 23, "most": 8, "unit": "texts"}
    assert data.cut("dev", tokenizer).to_json() == expected
    task = task.model_copy(update={"max_length": 32})
    whole = loaded.load(kind_of(task), tmp_path).cut("dev", tokenizer).to_json()
    assert whole == {"cut": 0, "texts": 2, "share": 0.0, "most": 32, "unit": "texts"}


def test_pairs_and_rankings(examples):
    rows = [{"text": LONG, "text_pair": SHORT, "label": 1.0}, {"text": "a", "text_pair": SHORT, "label": 0.0}]
    _, lines = examples("regression", rows, text_pair="text_pair")
    assert lines[0].startswith("1 of 2 texts are longer than 8 tokens and are cut; 66.7 % of all tokens")  # 18 of 27
    rows = [{"query": row["text"], "passage": row["text_pair"], "label": row["label"]} for row in rows]
    assert examples("reranking", rows)[1] == lines


def test_embedding(examples):
    rows = [{"text": LONG, "text_pair": SHORT, "label": 1.0}, {"text": LONG, "text_pair": "a", "label": 0.0}]
    assert examples("embedding", rows)[1][0].startswith("1 of 3 texts")  # each text once
    assert examples("embedding", rows, "train", training=True)[1][0].startswith("2 of 2 texts")


def test_words(examples):
    rows = [{"tokens": LONG.split(), "tags": ["B-X", "O"] * 10}, {"tokens": ["a", "stone"], "tags": ["O", "B-X"]}]
    assert examples("token-classification", rows)[1][0].startswith(
        "1 of 2 texts are longer than 8 tokens and are cut; 63.6"
    )


def test_questions_alone_are_cut(examples):
    answers = {"text": ["stone"], "answer_start": [7]}
    rows = [
        {"id": str(n), "question": q, "context": f"a good {'stone ' * 90}", "answers": answers}
        for n, q in enumerate("ab")
    ]
    settings = {"max_length": 32, "doc_stride": 8}
    assert examples("question-answering", rows, **settings)[1] == []
    rows[0]["question"] = LONG
    _, lines = examples("question-answering", rows, **settings)
    assert lines[0].startswith("1 of 2 questions are longer than 10 tokens and are cut; 47.6 % of all tokens")


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_long_text_has_the_tokens_of_the_whole(tokenizer, monkeypatch, side):
    monkeypatch.setattr(cuts, "SHORT", 100)
    monkeypatch.setattr(tokenizer, "truncation_side", side)
    monkeypatch.setattr(cuts, "CHARACTERS_A_TOKEN", 1)
    texts = [LONG * 20, SHORT, "x" * 5000, "x" * 300 + " " + LONG * 10, LONG * 4]
    pairs = [(first, second) for first in texts for second in texts]
    rows = Dataset.from_dict({"text": [first for first, _ in pairs], "text_pair": [second for _, second in pairs]})
    for columns in (["text"], ["text", "text_pair"]):
        whole = tokenizer(*(rows[column][:] for column in columns), truncation=True, max_length=16)
        assert tokenized(rows, tokenizer, columns, 16)["input_ids"][:] == whole["input_ids"]


def test_two_long_texts_take_little_memory(tokenizer):
    rows = Dataset.from_dict({"text": ["river " * 50_000], "text_pair": ["stone " * 40_000]})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (ids,) = tokenized(rows, tokenizer, ["text", "text_pair"], 128)["input_ids"]
    assert len(ids) == 128
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 400


def test_rows_are_tokenized_in_parts():
    columns = [["a" * 600_000, "b", "c" * 2_000_000, "d"], ["", "e" * 300_000, "f", "g"]]
    assert list(cuts.in_parts(columns)) == [(0, 2), (2, 3), (3, 4)]
