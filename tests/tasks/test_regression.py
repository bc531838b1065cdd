"""Regression: numbers from every source, loss and metrics, and a model from data to engine."""

import csv
import json
import random

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from scipy import stats
from transformers import AutoModelForSequenceClassification

from pruneonce import stages
from pruneonce.errors import UserError
from pruneonce.recipe import Calibrate, Prune, Regression, Training, Transfer, make_task
from pruneonce.sparsity import verify
from pruneonce.tasks import kind_for, kind_of

ROWS = [{"text": "the river was fine", "label": 4.5}, {"text": "", "label": 0}, {"text": "a stone", "label": -1.25}]


def write(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([{**row, "label": float(row["label"])} for row in rows]), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def make(tmp_path):
    """`make(train rows, dev rows, ...)`: the kind for a task over files of these rows."""

    def make(train=ROWS, dev=ROWS, suffix=".jsonl", **settings):
        files = {name: write(tmp_path / f"{name}{suffix}", rows) for name, rows in (("train", train), ("dev", dev))}
        return kind_of(Regression(**{**files, **settings}))

    return make


def rated(*numbers):
    return [{"text": "fine", "label": number} for number in numbers]


# -- reading ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_every_format_gives_the_same_task(tmp_path, make, suffix):
    """In CSV every number is text."""
    data = make(suffix=suffix).load(tmp_path)
    assert data.labels == []
    assert list(data.splits) == ["train", "dev"]
    assert data.splits["train"].to_list() == [{**row, "label": float(row["label"])} for row in ROWS]


def test_pairs_under_other_names(tmp_path, make):
    rows = [{"a": "the river", "b": "fine", "how": "4e-1"}, {"a": "a stone", "b": "good", "how": " 2 "}]
    kind = make(rows, rows, text="a", text_pair="b", label="how")
    split = kind.load(tmp_path).splits["dev"]
    assert split.to_list()[0] == {"text": "the river", "text_pair": "fine", "label": 0.4}
    assert split["label"][:] == [0.4, 2.0]
    assert kind.texts(split) == [("the river", "fine"), ("a stone", "good")]
    assert make().texts(make().load(tmp_path).splits["dev"]) == [row["text"] for row in ROWS]


def test_numbers_of_the_hub(tmp_path, monkeypatch):
    """Similarity as STS-B has it, by its preset."""
    rows = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [5.0, 0.4], "idx": [0, 1]}
    monkeypatch.setattr(
        "pruneonce.data.readers.load_dataset", lambda *given, **options: datasets.Dataset.from_dict(rows)
    )
    kind = kind_of(make_task({"preset": "stsb"}))
    data = kind.load(tmp_path)
    assert data.splits["dev"].to_list()[1] == {"text": "b", "text_pair": "d", "label": 0.4}


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        (rated(1, None), {}, r"dev\.jsonl, line 2: 'label' has to be a number, not null"),
        (rated(1, "good"), {}, r"dev\.jsonl, line 2: 'label' has to be a number, not \"good\""),
        (rated(1, ""), {}, r"dev\.jsonl, line 2: 'label' has to be a number, not \"\""),
        (rated(1, "1_000"), {}, r"dev\.jsonl, line 2: 'label' has to be a number, not \"1_000\"; write it as 1000"),
        (rated(1, "\uff13.5"), {}, r"dev\.jsonl, line 2: 'label' has to be a number, not .*; write it as 3\.5"),
        (rated(1, True), {}, r"dev\.jsonl, line 2: 'label' has to be a number, not true"),
        (rated(1, [2]), {}, r"dev\.jsonl, line 2: 'label' has to be a number, not \[2\]"),
        (rated(1, float("nan")), {}, r"dev\.jsonl, line 2: 'label' has to be a number, not NaN"),
        (rated(1, "inf"), {}, r"dev\.jsonl, line 2: 'label' has to be a number, not \"inf\""),
        (rated(2, 2), {}, r"dev\.jsonl: all numbers in 'label' are the same"),
        ([{"text": 5, "label": 1}], {}, r"dev\.jsonl, line 1: 'text' has to be text, not 5"),
        (ROWS, {"label": "lable"}, r"no column 'lable', only 'text', 'label'; did you mean 'label'\?"),
        (ROWS, {"text_pair": "other"}, r"no column 'other', only 'text', 'label'"),
        (ROWS, {"metric": "accuracy"}, r"no metric 'accuracy' for a regression; there are pearson, spearman"),
        (ROWS, {"test": "gone.jsonl"}, r"no such file: gone\.jsonl"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, make, rows, settings, message):
    with pytest.raises(UserError, match=message) as failure:
        make(ROWS, rows, **settings).load(tmp_path / "cache")
    assert "\n" not in str(failure.value)
    assert not (tmp_path / "cache").exists()


# -- losses and metrics -----------------------------------------------------------------------------------------


def test_losses_are_squared_differences(make):
    kind = make()
    student, teacher = np.array([0.5, -2.0, 3.0]), np.array([1.0, 2.0, 3.5])
    ours, theirs = torch.tensor(student), torch.tensor(teacher)
    expected = ((student - teacher) ** 2).mean()
    assert kind.loss(ours, theirs).item() == pytest.approx(expected)
    assert kind.loss(ours.float(), theirs).dtype == torch.float32, "labels are float64"
    mask = torch.ones(3, 4)
    for temperature in (1.0, 4.0):
        assert kind.distillation(ours, theirs, mask, temperature).item() == pytest.approx(expected)
    assert kind.output({"logits": torch.zeros(3, 1)}, mask).shape == (3,)


def test_metrics_are_both_correlations(tmp_path, make):
    kind = make()
    rows = kind.load(tmp_path).splits["dev"]
    found = kind.measure([np.float32(one) for one in (3.0, 1.0, 2.0)], rows, rows)
    assert found == pytest.approx({"pearson": stats.pearsonr([3, 1, 2], [4.5, 0, -1.25])[0], "spearman": 0.5})
    assert kind.measure([np.float32(1)] * 3, rows, rows) == {"pearson": 0.0, "spearman": 0.0}, "says nothing"


def test_a_head_of_one_number(tmp_path, make, encoder):
    kind = make()
    model = kind.load_model(encoder, **kind.config(kind.load(tmp_path)))
    assert model.classifier.out_features == 1
    assert model.config.problem_type == "regression"


# -- from data to engine ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """A learnable task: how many of the words are good ones, less the bad ones."""
    chosen, folder = random.Random(0), tmp_path_factory.mktemp("rated")
    for split, size in (("train", 192), ("dev", 48)):
        rows = []
        for _ in range(size):
            words = chosen.choices(["the", "was", "great", "awful"], k=6)
            rows.append({"text": " ".join(words), "label": (words.count("great") - words.count("awful")) / 2})
        write(folder / f"{split}.csv", rows)
    return Regression(train=str(folder / "train.csv"), dev=str(folder / "dev.csv"), max_length=16)


@pytest.fixture(scope="module")
def made(encoder, task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    settings = {"epochs": 8, "batch_size": 16, "learning_rate": 2e-3}
    dense = stages.finetune(encoder, task, Training(**settings), folder / "dense")
    pruning = Prune(steps=1, learning_rate=1e-4, sparsity=0.5, objective="hidden")
    sparse = stages.prune_one_shot(encoder, pruning, folder / "sparse")
    transferred = stages.transfer(sparse, task, Transfer(**settings), folder / "transferred", teacher=dense)
    int8 = stages.calibrate(transferred, task, Calibrate(examples=64), folder / "int8")
    return {"dense": dense, "sparse": sparse, "transferred": transferred, "int8": int8}


def test_transfer_learns_the_task_and_keeps_its_zeros(task, made):
    found = stages.evaluate(made["transferred"], task)["dev"]
    assert list(found) == ["pearson", "spearman", "examples"]
    assert found["spearman"] > 0.8
    before, after = (load_file(made[name] / "model.safetensors") for name in ("sparse", "transferred"))
    name = "encoder.layer.0.attention.self.query.weight"
    zero = before[name] == 0
    assert zero.float().mean() == pytest.approx(0.5, abs=0.01)
    assert not after[f"bert.{name}"][zero].any()
    assert verify(made["transferred"], made["sparse"]).ok


def test_the_model_is_one_of_transformers(made):
    model = AutoModelForSequenceClassification.from_pretrained(made["transferred"])
    assert (model.config.num_labels, model.config.problem_type) == (1, "regression")
    assert kind_for(model.config) == "regression"


def test_int8_and_an_engine_say_what_pytorch_says(task, made, tmp_path):
    fp32, int8 = (stages.evaluate(made[name], task)["dev"] for name in ("transferred", "int8"))
    assert int8 == pytest.approx(fp32, abs=0.03)
    exported = stages.export(made["int8"], tmp_path / "onnx")
    assert stages.evaluate(exported, task)["dev"] == pytest.approx(int8, abs=0.02)


def test_a_model_with_classes_is_refused(task, encoder, task_files, tmp_path):
    files = {split: str(task_files / f"{split}.jsonl") for split in ("train", "dev")}
    classes = stages.finetune(encoder, make_task(files), Training(steps=1, learning_rate=1e-4), tmp_path / "classes")
    with pytest.raises(UserError, match="has 2 labels; a regression has one number"):
        stages.evaluate(classes, task)
    with pytest.raises(UserError, match="has 2 labels; a regression has one number"):
        stages.transfer(encoder, task, Transfer(steps=1, learning_rate=1e-4), tmp_path / "made", teacher=classes)
