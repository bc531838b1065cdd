"""Labelled tasks: columns and labels from every source, model input, metrics, and one line for each fault."""

import csv
import gzip
import json
import re
import shutil

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pruneonce.data.keys import task_key
from pruneonce.errors import UserError
from pruneonce.metrics.glue import classification as metrics
from pruneonce.recipe import Classification
from pruneonce.tasks import kind_of
from pruneonce.tasks.classification import METRICS

ROWS = [{"text": "the river was fine", "label": 1}, {"text": "", "label": 0}, {"text": "a stone", "label": 1}]


def load_task(task, cache):
    return kind_of(task).load(cache)


def encode(rows, tokenizer, task):
    return kind_of(task).encode(rows, tokenizer)


def write(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def make(tmp_path):
    """`make(train rows, dev rows, ...)`: a task over JSONL files of these rows."""

    def make(train=ROWS, dev=ROWS, suffix=".jsonl", **settings):
        files = {
            "train": write(tmp_path / f"train{suffix}", train),
            "dev": write(tmp_path / f"dev{suffix}", dev),
        }
        return Classification(**{**files, **settings})

    return make


def labelled(*labels):
    return [{"text": "fine", "label": label} for label in labels]


def hub(monkeypatch, splits, asked=None):
    """Stand in for the hub: `load_dataset` gives `splits` by name."""

    def load(*args, **options):
        if asked is not None:
            asked.append((args, options))
        return splits[options["split"]]

    monkeypatch.setattr("pruneonce.data.readers.load_dataset", load)


def fails(task, tmp_path, message):
    with pytest.raises(UserError, match=message) as failure:
        load_task(task, tmp_path / "cache")
    assert "\n" not in str(failure.value)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".jsonl.gz", ".csv", ".parquet"])
def test_every_format_gives_the_same_task(tmp_path, make, suffix):
    data = load_task(make(suffix=suffix), tmp_path)
    assert data.labels == ["0", "1"]
    assert list(data.splits) == ["train", "dev"]
    assert data.splits["train"].to_list() == ROWS


def test_pairs_under_other_names_and_a_test_split(tmp_path, make):
    rows = [
        {"q": "the river", "a": "fine", "y": "no", "id": 1},
        {"q": "a stone", "a": "good", "y": "yes", "id": 2},
    ]
    test = write(tmp_path / "test.jsonl", rows[:1])
    data = load_task(make(rows, rows, text="q", text_pair="a", label="y", test=test), tmp_path)
    assert data.labels == ["no", "yes"]
    assert data.splits["test"].to_list() == [{"text": "the river", "text_pair": "fine", "label": 0}]


def test_csv_fields_with_line_ends_and_commas(tmp_path, make):
    rows = [{"text": 'one, "two"\nthree', "label": "b"}, {"text": "x", "label": "a"}]
    assert load_task(make(rows, rows, ".csv"), tmp_path).splits["train"]["text"][:] == [
        'one, "two"\nthree',
        "x",
    ]


@pytest.mark.parametrize(
    ("train", "settings", "names", "numbers"),
    [
        (["pos", "neg", "pos"], {}, ["neg", "pos"], [1, 0, 1]),
        (["pos", "neg", "pos"], {"labels": ["pos", "neg"]}, ["pos", "neg"], [0, 1, 0]),
        ([1, 0, 1], {"labels": ["neg", "pos", "unseen"]}, ["neg", "pos", "unseen"], [1, 0, 1]),
        (["1", "0", "1"], {"labels": ["neg", "pos"]}, ["neg", "pos"], [1, 0, 1]),
        ([*range(11)], {}, [str(n) for n in range(11)], [*range(11)]),  # by number: "10" comes after "9"
        ([str(n) for n in range(11)], {}, [str(n) for n in range(11)], [*range(11)]),
        (["3d", "2"], {}, ["2", "3d"], [1, 0]),  # names, one of which is a number
        (
            [1, 3, 2],
            {"labels": ["1", "2", "3"]},
            ["1", "2", "3"],
            [0, 2, 1],
        ),  # stars: their names, not indices
    ],
)
def test_labels(tmp_path, make, train, settings, names, numbers):
    data = load_task(make(labelled(*train), labelled(*train), metric="accuracy", **settings), tmp_path)
    assert data.labels == names
    assert data.splits["train"]["label"][:] == data.splits["dev"]["label"][:] == numbers


@pytest.mark.parametrize(
    ("train", "dev", "settings", "message"),
    [
        ([0, 1], [0, 2], {}, r"dev\.jsonl, line 2: label 2 is none of '0', '1'$"),
        ([0, 1], [-1, 1], {}, r"dev\.jsonl, line 1: label -1 is none of"),
        (
            [0, 3],
            [0],
            {"labels": ["a", "b", "c"]},
            r"train\.jsonl, line 2: label 3 is none of 'a', 'b', 'c', nor a",
        ),
        (
            ["a", "b"],
            ["a", "c"],
            {},
            r"dev\.jsonl, line 2: label 'c' is none of 'a', 'b', nor a number from 0 to 1",
        ),
        (["a", "B"], ["a"], {"labels": ["a", "b"]}, r"train\.jsonl, line 2: label 'B' is none of 'a', 'b'"),
        (
            [0, 1],
            [-1, -1],
            {},
            r"dev\.jsonl is unlabelled \(every 'label' is null or -1\); use a labelled one",
        ),
        ([0, 1], [None, None], {}, r"dev\.jsonl is unlabelled"),
        ([0, True], [0], {}, r"train\.jsonl, line 2: a label has to be a name or a whole number, not true"),
        (
            [0, 1],
            [0, 1.0],
            {},
            r"dev\.jsonl, line 2: a label has to be a name or a whole number, not 1\.0; write 1, without",
        ),
        ([0, None], [0], {}, r"train\.jsonl, line 2: a label has to be a name or a whole number, not null"),
        ([0, [1]], [0], {}, r"train\.jsonl, line 2: a label has to be a name or a whole number, not \[1\]"),
        (
            [1, 2],
            [1],
            {},
            r"train\.jsonl: labels that are numbers have to be 0, 1, \.\.\. with none left out, not 1, 2;",
        ),
        (["a", 1], [1], {}, r"train\.jsonl: labels are both names and numbers: 1, 'a'"),
        ([0, 0], [0], {}, r"train\.jsonl: all labels are the same; a classifier needs at least two classes"),
        (["a", "a"], ["a"], {"labels": ["a", "b"]}, r"train\.jsonl: all labels are the same"),
        (
            [0, 1],
            [0],
            {"labels": ["a", "a"]},
            r"`labels` has to be two or more different names, not \['a', 'a'\]",
        ),
        ([0, 1], [0], {"labels": ["a"]}, r"`labels` has to be two or more different names"),
        (
            [0, 1],
            [0],
            {"metric": "f1_macro"},
            r"no metric 'f1_macro' for a task of 2 classes; there are accuracy, f1, m",
        ),
        (
            [0, 1, 2],
            [0],
            {"metric": "f1"},
            r"no metric 'f1' for a task of 3 classes; there are accuracy, f1_macro, m",
        ),
        ([0, 1], [0], {"metric": "bleu"}, r"no metric 'bleu'"),
    ],
)
def test_bad_labels_are_one_line(tmp_path, make, train, dev, settings, message):
    fails(make(labelled(*train), labelled(*dev), **settings), tmp_path, message)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", r"a\.jsonl is empty: it holds no records"),
        ("a.csv", b"", r"a\.csv is empty"),
        ("a.csv", b"text,label\n", r"a\.csv is empty"),
        (
            "a.csv",
            b"texts,label\nfine,1\n",
            r"a\.csv: no column 'text', only 'texts', 'label'; did you mean 'texts'\?",
        ),
        ("a.csv", b"text,label\nfine,1\nfine\n", r"a\.csv, line 3: not as many fields as the header has"),
        ("a.csv", b"text,label\nfine,1\na,b,1\n", r"a\.csv, line 3: not as many fields as the header has"),
        ("a.csv", b'text,label\n"fine"x,1\n', r"a\.csv, line 2: broken CSV, "),
        ("a.csv", b"text,label\nfine,1\ncaf\xe9,0\n", r"a\.csv, line 3: not UTF-8"),
        (
            "a.jsonl",
            b'{"text": "a", "label": 1}\n{"text": null, "label": 0}',
            r"line 2: 'text' has to be text, not null",
        ),
        (
            "a.jsonl",
            b'{"text": "a", "label": 1}\n\n{"text": 5, "label": 0}',
            r"line 3: 'text' has to be text, not 5",
        ),
        (
            "a.jsonl",
            b'{"text": "a", "label": 1}\n{"text": "b"}',
            r"a\.jsonl, line 2: no column 'label', only 'text'",
        ),
        ("a.txt", b"fine", r"cannot read .*a\.txt: its name has to end in \.jsonl, \.ndjson, \.json, \.csv, "),
        ("folder/a.jsonl", None, r"no such file: .*folder.a\.jsonl"),
        ("", None, r"is a folder; give a file"),
    ],
)
def test_bad_files_are_one_line(tmp_path, make, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    fails(make(dev=ROWS, test=str(tmp_path / name)), tmp_path, message)


def test_parquet_faults_name_the_row(tmp_path, make):
    rows = [{"text": "fine", "label": 0}, {"text": None, "label": 1}]
    fails(make(ROWS, rows, ".parquet"), tmp_path, r"dev\.parquet, row 2: 'text' has to be text, not null")
    fails(
        make(suffix=".parquet", label="lable"),
        tmp_path,
        r"train\.parquet: no column 'lable', .*mean 'label'\?",
    )


def test_hub_names_are_the_labels(tmp_path, monkeypatch):
    features = datasets.Features(
        sentence=datasets.Value("string"),
        label=datasets.ClassLabel(names=["1", "2"]),
        idx=datasets.Value("int32"),
    )
    rows = {"sentence": ["fine", "awful"], "label": [1, 0], "idx": [0, 1]}
    train = datasets.Dataset.from_dict(rows, features=features)
    unlabelled = datasets.Dataset.from_dict({**rows, "label": [-1, -1]}, features=features)
    asked = []
    hub(monkeypatch, {"train": train, "validation": train, "test": unlabelled}, asked)
    task = Classification(source="nyu/glue", subset="sst2", train="train", dev="validation", text="sentence")
    data = load_task(task, tmp_path)
    assert data.labels == ["1", "2"]
    assert data.splits["dev"].to_list() == [{"text": "fine", "label": 1}, {"text": "awful", "label": 0}]
    assert asked[0] == (("nyu/glue", "sst2"), {"split": "train", "cache_dir": str(tmp_path)})
    renamed = load_task(task.model_copy(update={"labels": ["bad", "good"]}), tmp_path)
    assert renamed.labels == ["bad", "good"]
    assert renamed.splits["dev"]["label"][:] == [1, 0]
    fails(task.model_copy(update={"test": "test"}), tmp_path, r"'nyu/glue', split 'test' is unlabelled")
    wrong = task.model_copy(update={"text": "sentences"})
    fails(wrong, tmp_path, r"'nyu/glue', split 'train': no column 'sentences', .*did you mean 'sentence'\?")


def test_hub_faults_name_split_and_row(tmp_path, monkeypatch):
    train = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
    dev = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 7]})
    hub(monkeypatch, {"train": train, "dev": dev})
    task = Classification(source="some/task", train="train", dev="dev")
    fails(task, tmp_path, re.escape("'some/task', split 'dev', row 2: label 7 is none of '0', '1'"))


def test_encode_a_text(tmp_path, make, tokenizer):
    task = make([*ROWS, {"text": "the river " * 30, "label": 0}], max_length=8)
    encoded = encode(load_task(task, tmp_path).splits["train"], tokenizer, task)
    assert set(encoded.column_names) == {*tokenizer.model_input_names, "labels"}
    assert [len(ids) for ids in encoded["input_ids"]] == [6, 2, 4, 8]  # cut, and not padded
    assert encoded["input_ids"][0] == tokenizer("the river was fine")["input_ids"]
    assert encoded["attention_mask"][2] == [1, 1, 1, 1]
    assert encoded["labels"][:] == [1, 0, 1, 0]
    assert not encoded.cache_files


def test_encode_a_pair(tmp_path, make, tokenizer):
    rows = [{"text": "the river", "text_pair": "a stone", "label": n} for n in (0, 1)]
    task = make(rows, rows, text_pair="text_pair")
    encoded = encode(load_task(task, tmp_path).splits["dev"], tokenizer, task)
    assert encoded[0]["input_ids"] == tokenizer("the river", "a stone")["input_ids"]
    assert encoded[0]["input_ids"].count(tokenizer.sep_token_id) == 2


def test_encode_shows_no_progress_bar_and_leaves_the_setting(tmp_path, make, tokenizer, capfd):
    task = make()
    split = load_task(task, tmp_path).splits["train"]
    before = datasets.are_progress_bars_disabled()
    try:
        datasets.enable_progress_bars()
        encode(split, tokenizer, task)
        assert not datasets.are_progress_bars_disabled()
        assert capfd.readouterr().err == ""
    finally:
        if before:
            datasets.disable_progress_bars()


def logits(*chosen, classes):
    return np.eye(classes)[list(chosen)] * 3.0 - 1.0


def test_metrics_of_two_classes():
    # 2 true positives, 1 false positive, 1 false negative, 1 true negative
    found = metrics(logits(1, 1, 1, 0, 0, classes=2), np.array([1, 1, 0, 1, 0]))
    assert found == pytest.approx(
        {"accuracy": 3 / 5, "f1": 4 / 6, "matthews_correlation": (2 * 1 - 1 * 1) / (3 * 3 * 2 * 2) ** 0.5}
    )


def test_metrics_of_three_classes():
    # by class: F1 of 2/2, 2/3 and 0, as class 2 is never chosen
    found = metrics(logits(0, 1, 1, classes=3), np.array([0, 1, 2]))
    covariance, chosen, true = 2 * 3 - 1 - 2, 9 - 5, 9 - 3  # Gorodkin's R_K for these counts
    assert found == pytest.approx(
        {
            "accuracy": 2 / 3,
            "f1_macro": (1 + 2 / 3 + 0) / 3,
            "matthews_correlation": covariance / (chosen * true) ** 0.5,
        }
    )


def test_metrics_of_one_class_alone_are_numbers():
    assert metrics(logits(0, 0, classes=2), np.array([0, 0])) == {
        "accuracy": 1.0,
        "f1": 0.0,
        "matthews_correlation": 0.0,
    }


def test_metrics_names():
    both = {
        **metrics(logits(0, 1, classes=2), np.arange(2)),
        **metrics(logits(0, 1, 2, classes=3), np.arange(3)),
    }
    assert sorted(both) == sorted(METRICS)
    assert all(type(value) is float for value in both.values())


def test_a_task_is_known_by_its_files_wherever_they_are(task, task_files, tmp_path):
    moved = shutil.copytree(task_files, tmp_path / "moved")
    elsewhere = task.model_copy(update={split: str(moved / f"{split}.jsonl") for split in ("train", "dev", "test")})
    assert task_key(elsewhere) == task_key(task)
    (moved / "dev.jsonl").write_text((moved / "test.jsonl").read_text())
    assert task_key(elsewhere) != task_key(task)
    swapped = task.model_copy(update={"dev": task.test, "test": task.dev})
    assert task_key(swapped) != task_key(task)
