"""Reranking tasks: what is read, the loss against numpy, rankings by hand, and a cross-encoder that others load."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from shared.folders import zeros_in_file

from pruneonce import stages
from pruneonce.cli import main
from pruneonce.errors import UserError
from pruneonce.models import load_tokenizer
from pruneonce.recipe import Calibrate, Prune, Quantize, Reranking, Training, Transfer
from pruneonce.sparsity import verify
from pruneonce.tasks import kind_of

TRAINING = {"epochs": 2, "batch_size": 16, "learning_rate": 1e-3, "dropout": 0.0}
ROWS = [
    {"query": "which river", "passage": "the river", "label": 2},
    {"query": "which river", "passage": "the water", "label": 1},
    {"query": "which river", "passage": "the music", "label": 0},
    {"query": "good music", "passage": "the music", "label": 1},
    {"query": "good music", "passage": "the house", "label": -1},
]


@pytest.fixture
def make(tmp_path):
    """`make(train rows, dev rows, ...)`: a task over JSONL files of these rows."""

    def make(train=ROWS, dev=ROWS, **settings):
        for split, rows in (("train", train), ("dev", dev)):
            (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "dev")}
        return Reranking(**files, **settings)

    return make


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """A passage is relevant where it has the query's word."""
    folder, words = tmp_path_factory.mktemp("reranking"), ["river", "stone", "city", "music", "paper", "house"]
    rows = [
        {"query": f"which {word}", "passage": f"{start} {other}", "label": int(word == other)}
        for start in ("the good", "a", "this fine")
        for word in words
        for other in words[:4]
    ]
    for split in ("train", "dev"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Reranking(train=str(folder / "train.jsonl"), dev=str(folder / "dev.jsonl"))


@pytest.fixture(scope="module")
def models(encoder, task, tmp_path_factory):
    """A dense cross-encoder, the sparse encoder, and the sparse cross-encoder that the first taught."""
    folder = tmp_path_factory.mktemp("models")
    dense = stages.finetune(encoder, task, Training(**TRAINING), folder / "dense")
    settings = Prune(objective="hidden", steps=1, learning_rate=1e-3, sparsity=0.6)
    sparse = stages.prune_one_shot(encoder, settings, folder / "sparse")
    return dense, sparse, stages.transfer(sparse, task, Transfer(**TRAINING), folder / "child", teacher=dense)


# -- data -------------------------------------------------------------------------------------------------------


def test_targets_are_relevances_over_the_largest_of_training(make, tmp_path, tokenizer):
    dev = [{**ROWS[0], "label": 5}, {**ROWS[1], "label": 0.5}]
    kind = kind_of(make(dev=dev))
    data = kind.load(tmp_path)
    assert data.splits["train"]["target"][:] == [1, 0.5, 0, 0.5, 0]
    assert data.splits["train"]["label"][:] == [2, 1, 0, 1, -1]
    assert data.splits["dev"]["target"][:] == [1, 0.25]
    encoded = kind.encode(data.splits["train"], tokenizer, training=True)
    assert encoded[0]["input_ids"] == tokenizer("which river", "the river")["input_ids"]
    assert encoded["labels"][:] == [1, 0.5, 0, 0.5, 0]
    assert kind.texts(data.splits["dev"]) == [("which river", "the river"), ("which river", "the water")]


def test_columns_under_other_names(make, tmp_path):
    rows = [{"q": row["query"], "p": row["passage"], "y": row["label"]} for row in ROWS]
    data = kind_of(make(rows, rows, query="q", passage="p", label="y")).load(tmp_path)
    assert data.splits["dev"]["query"][:] == [row["query"] for row in ROWS]


@pytest.mark.parametrize(
    ("train", "dev", "changes", "message"),
    [
        (ROWS, ROWS, {"metric": "f1"}, "no metric 'f1' for a reranking; there are ndcg@10, mrr@10"),
        (ROWS, ROWS, {"query": "queri"}, "no column 'queri', only .*; did you mean 'query'"),
        ([{**ROWS[0], "label": "yes"}], ROWS, {}, "line 1: 'label' has to be a number, not \"yes\""),
        ([{**ROWS[0], "query": 5}], ROWS, {}, "line 1: 'query' has to be text, not 5"),
        ([ROWS[2], ROWS[4]], ROWS, {}, r"train\.jsonl: no passage is relevant to its query"),
        (ROWS, [ROWS[2], ROWS[4]], {}, r"dev\.jsonl: no passage is relevant to its query"),
        ([ROWS[1], ROWS[3]], ROWS, {}, r"train\.jsonl: all passages are as relevant"),
        (
            ROWS,
            [ROWS[0], {**ROWS[0], "label": 1}],
            {},
            r"dev\.jsonl, line 2: .* relevance 1 for its query, further",
        ),
    ],
)
def test_mistakes_in_the_data_are_one_line(train, dev, changes, message, make, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        kind_of(make(train, dev, **changes)).load(tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_queries_that_every_model_ranks_as_well_are_said(make, tmp_path):
    dev = [*ROWS, {"query": "bad city", "passage": "the city", "label": 0}, {**ROWS[0], "query": "a river"}]
    kind = kind_of(make(dev=dev))
    data = kind.load(tmp_path)
    assert kind.undefined(data.splits["dev"], data) == (
        "1 of 4 queries have no relevant passage and count as 0, "
        "1 of 4 queries have passages of one relevance alone and count as 1"
    )
    assert not kind.undefined(data.splits["train"], data)


# -- losses and metrics -----------------------------------------------------------------------------------------


def test_losses_equal_numpy():
    kind = kind_of(Reranking(train="", dev=""))
    scores, targets = np.array([2.0, -1.0, 0.5]), np.array([1.0, 0.0, 0.25])
    probabilities = 1 / (1 + np.exp(-scores))
    entropy = -np.mean(targets * np.log(probabilities) + (1 - targets) * np.log(1 - probabilities))
    found = kind.output({"logits": torch.tensor(scores)[:, None]}, torch.ones(3, 4))
    assert kind.loss(found, torch.tensor(targets)).item() == pytest.approx(entropy)
    other = torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64)
    assert kind.distillation(found, other, torch.ones(3, 4), 2.0).item() == pytest.approx(np.mean((scores - 1) ** 2))


def test_ranking_by_hand():
    kind = kind_of(Reranking(train="", dev=""))
    rows = [*ROWS, {"query": "bad city", "passage": "the city", "label": 0}, ROWS[0]]  # one twice counts once
    scores = [np.float32(score) for score in (0.5, 0.9, 0.1, -1.0, -2.0, 3.0, 0.5)]
    found = kind.measure(scores, Dataset.from_list([{**row, "label": float(row["label"])} for row in rows]), None)
    first = (1 + 2 / np.log2(3)) / (2 + 1 / np.log2(3))  # ranked: relevance 1, 2, 0
    assert found["ndcg@10"] == pytest.approx((first + 1 + 0) / 3)
    assert found["mrr@10"] == pytest.approx((1 + 1 + 0) / 3)


# -- training ---------------------------------------------------------------------------------------------------


def test_transfer_keeps_the_zeros_and_others_load_it(models, task):
    from sentence_transformers import CrossEncoder
    from transformers import AutoModelForSequenceClassification

    dense, sparse, child = models
    assert verify(child, sparse).ok
    assert min(zeros_in_file(child).values()) == pytest.approx(0.6, abs=1e-2)
    pair = ("which river", "the good river")
    model = AutoModelForSequenceClassification.from_pretrained(child)
    assert model.config.num_labels == 1
    tokenizer = load_tokenizer(child)
    score = model(**tokenizer(*pair, return_tensors="pt")).logits.sigmoid().item()
    assert CrossEncoder(str(child), device="cpu").predict([pair], show_progress_bar=False) == pytest.approx([score])
    found = {folder: stages.evaluate(folder, task)["dev"] for folder in (dense, child)}
    assert all(metrics["examples"] == 72 for metrics in found.values())
    assert all(0 < metrics["ndcg@10"] <= 1 and 0 < metrics["mrr@10"] <= 1 for metrics in found.values())
    history = json.loads((child / "metrics.json").read_text())["history"]
    assert {"loss_kd", "loss_hidden"} <= set(history[-1])


def test_labels_and_teacher_together(models, task, tmp_path):
    dense, sparse, _ = models
    child = stages.transfer(sparse, task, Transfer(**TRAINING, task_weight=0.5), tmp_path / "child", teacher=dense)
    assert "loss_task" in json.loads((child / "metrics.json").read_text())["history"][-1]


def test_a_model_of_several_labels_is_refused(models, task, encoder, task_files, tmp_path):
    from pruneonce.recipe import Classification

    classes = Classification(train=str(task_files / "train.jsonl"), dev=str(task_files / "dev.jsonl"))
    classifier = stages.finetune(encoder, classes, Training(steps=1, learning_rate=1e-3), tmp_path / "classifier")
    with pytest.raises(UserError, match="classifier has 2 labels; a reranker has one score"):
        stages.evaluate(classifier, task)
    with pytest.raises(UserError, match=r"the teacher .*classifier has 2 labels; a reranker has one score"):
        stages.transfer(models[1], task, Transfer(**TRAINING), tmp_path / "out", teacher=classifier)


def test_int8_and_an_engine_agree(models, task, tmp_path):
    dense, sparse, child = models
    trained = stages.quantize(child, task, Quantize(**TRAINING), tmp_path / "int8", teacher=dense)
    calibrated = stages.calibrate(child, task, Calibrate(examples=16), tmp_path / "ptq")
    for model in (trained, calibrated):
        assert verify(model, sparse).ok
    made = stages.export(trained, tmp_path / "onnx")
    found = [stages.evaluate(folder, task)["dev"] for folder in (trained, made)]
    assert found[0].keys() == found[1].keys()
    assert found[1]["ndcg@10"] == pytest.approx(found[0]["ndcg@10"], abs=0.05)


def test_the_command_line(models, task, capsys):
    assert main(["evaluate", str(models[2]), "--kind", "reranking", "--dev", task.dev, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["dev"]) == {"ndcg@10", "mrr@10", "examples"}
    wrong = ["--set", "task.passage=text"]
    assert main(["evaluate", str(models[2]), "--kind", "reranking", "--dev", task.dev, *wrong]) == 2
    assert "no column 'text'" in capsys.readouterr().err
    assert main(["evaluate", str(models[2]), "--dev", task.dev, "--set", "tsk.metric=f1"]) == 2
    assert "unknown key `tsk`; `evaluate` takes `task.KEY`" in capsys.readouterr().err
