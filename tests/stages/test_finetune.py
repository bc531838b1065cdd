"""Distillation of a task teacher: outputs, hidden states, and what stays as it was."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax
from transformers import AutoModel, AutoModelForSequenceClassification, BertConfig

from pruneonce import stages, storage
from pruneonce.errors import UserError
from pruneonce.losses.distillation import relation_distillation
from pruneonce.losses.relations import captured
from pruneonce.recipe import Prune, QuestionAnswering, Training, Transfer, validate
from pruneonce.tasks import kind_of
from pruneonce.tasks.objectives import distilled_objective

SETTINGS = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3}


@pytest.fixture
def sparse(encoder, tmp_path):
    settings = Prune(steps=1, learning_rate=1.0, sparsity=0.8, objective="hidden")
    return stages.prune_one_shot(encoder, settings, tmp_path / "sparse")


@pytest.fixture
def teacher(encoder, task, tmp_path):
    return stages.finetune(encoder, task, Training(**SETTINGS), tmp_path / "dense")


def test_the_loss_is_its_parts_by_the_plain_formulas(encoder, teacher, task):
    student, other = (
        AutoModelForSequenceClassification.from_pretrained(source).eval() for source in (encoder, teacher)
    )
    ids = torch.tensor([[2, 7, 9, 3], [2, 8, 3, 0]])
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": torch.tensor([0, 1])}
    weights = {"kd_weight": 0.7, "task_weight": 0.2, "hidden_weight": 0.4, "relation_weight": 0.3, "temperature": 3.0}
    objective = distilled_objective(kind_of(task), other, Transfer(**SETTINGS, **weights))
    with torch.no_grad():
        found = objective(student, dict(batch))
        labels = batch.pop("labels")
        vectors = []
        for model in (student, other):
            with captured(model) as kept:
                model(**batch)
            vectors.append(kept)
        ours, theirs = (model(**batch, output_hidden_states=True) for model in (student, other))
    t = 3.0
    kd = t * t * kl_div(log_softmax(ours.logits / t, -1), softmax(theirs.logits / t, -1), reduction="batchmean")
    hidden = []
    for own, target in zip(ours.hidden_states[1:], theirs.hidden_states[1:], strict=True):
        real = [(own[row, at], target[row, at]) for row, length in enumerate((4, 3)) for at in range(length)]
        hidden.append(torch.stack([((a - b) ** 2).sum() / (b**2).sum() for a, b in real]).mean())
    parts = {
        "kd": 0.7 * kd,
        "task": 0.2 * cross_entropy(ours.logits, labels),
        "hidden": 0.4 * torch.stack(hidden).mean(),
        "relations": 0.3 * relation_distillation(*vectors, batch["attention_mask"]),
    }
    assert set(found) == {"loss", *parts}
    for name, part in {**parts, "loss": sum(parts.values())}.items():
        torch.testing.assert_close(found[name], part)


def test_what_has_no_weight_is_no_part_of_the_loss(encoder, teacher, task):
    student, other = (
        AutoModelForSequenceClassification.from_pretrained(source).eval() for source in (encoder, teacher)
    )
    batch = {"input_ids": torch.tensor([[2, 7, 9, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    labels = torch.tensor([1])
    weights = {"kd_weight": 0.0, "task_weight": 0.5, "hidden_weight": 0.0}
    objective = distilled_objective(kind_of(task), other, Transfer(**SETTINGS, **weights))
    with torch.no_grad():
        found = objective(student, {**batch, "labels": labels})
        wanted = 0.5 * cross_entropy(student(**batch).logits, labels)
    assert set(found) == {"loss", "task"}
    torch.testing.assert_close(found["loss"], wanted)


def test_hidden_states_are_distilled_unless_their_weight_is_0(sparse, teacher, task, tmp_path):
    for weight, named in ((1.0, True), (0.0, False)):
        settings = Transfer(**SETTINGS, hidden_weight=weight)
        made = stages.transfer(sparse, task, settings, tmp_path / f"with-{weight}", teacher=teacher)
        assert ("loss_hidden" in json.loads((made / "metrics.json").read_text())["history"][-1]) == named


def test_a_weight_that_is_left_out_is_that_of_the_kind_of_task(sparse, teacher, task, tmp_path):
    """And a stage whose settings name the same weight is the same stage."""
    assert task.completed(Transfer(**SETTINGS)).hidden_weight == 1.0
    questions = QuestionAnswering(train="train.json", dev="dev.json")
    assert questions.completed(Transfer(**SETTINGS)).hidden_weight == 10.0
    assert questions.completed(Transfer(**SETTINGS, hidden_weight=0.0)).hidden_weight == 0.0
    made = stages.transfer(sparse, task, Transfer(**SETTINGS), tmp_path / "made", teacher=teacher)
    written = (made / "pruneonce.json").stat().st_mtime_ns
    stages.transfer(sparse, task, Transfer(**SETTINGS, hidden_weight=1.0), made, teacher=teacher)
    assert (made / "pruneonce.json").stat().st_mtime_ns == written


def test_a_loss_of_nothing_is_refused():
    with pytest.raises(UserError, match="`hidden_weight` one at least has to be above 0"):
        validate(Transfer, {**SETTINGS, "kd_weight": 0, "hidden_weight": 0})


def test_a_teacher_of_another_width_cannot_teach_hidden_states(sparse, task, tokenizer, tmp_path):
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=48, num_hidden_layers=2, num_attention_heads=2)
    AutoModel.from_config(config).save_pretrained(tmp_path / "wide")
    tokenizer.save_pretrained(tmp_path / "wide")
    wide = stages.finetune(tmp_path / "wide", task, Training(**SETTINGS), tmp_path / "wide-dense")
    with pytest.raises(UserError, match=r"2 layers of width 48, the model 2 of 32.*set `hidden_weight: 0`"):
        stages.transfer(sparse, task, Transfer(**SETTINGS), tmp_path / "made", teacher=wide)
    stages.transfer(sparse, task, Transfer(**SETTINGS, hidden_weight=0), tmp_path / "made", teacher=wide)


def test_a_teacher_without_the_head_is_refused(encoder, task):
    message = r"has no head for classification \(classifier.bias, classifier.weight would be random\)"
    with pytest.raises(UserError, match=message):
        kind_of(task).load_finished(encoder)


def test_frozen_embeddings_stay_and_are_stored_once_in_a_family(sparse, teacher, task, tmp_path):
    sizes = {}
    for frozen in (False, True):
        settings = Transfer(**SETTINGS, freeze_embeddings=frozen)
        family = [
            stages.transfer(sparse, task, settings, tmp_path / f"{frozen}-{seed}", teacher=teacher, seed=seed)
            for seed in (1, 2)
        ]
        weights = [load_file(model / "model.safetensors") for model in (sparse, *family)]
        table, layer = "embeddings.word_embeddings.weight", "encoder.layer.1.output.dense.weight"
        assert torch.equal(weights[0][table], weights[1][f"bert.{table}"]) == frozen
        assert not torch.equal(weights[0][layer], weights[1][f"bert.{layer}"])
        sizes[frozen] = storage.pack(family, tmp_path / f"{frozen}.pruneonce", "int8").to_json()
    alone = stages.transfer(sparse, task, settings, tmp_path / "alone", teacher=None)
    assert torch.equal(load_file(alone / "model.safetensors")[f"bert.{table}"], weights[0][table])
    one = sizes[False]["parts"]["embeddings"]["packed_bytes"]
    assert sizes[True]["parts"]["embeddings"]["packed_bytes"] == pytest.approx(one / 2, rel=0.1)
