"""How tokens are related to each other, of a student as of its teacher."""

import json
import math

import pytest
import torch
from shared.models import CONFIGS, make_model
from transformers import AutoModel, BertConfig

from pruneonce import stages
from pruneonce.errors import UserError
from pruneonce.losses import distillation
from pruneonce.losses.distillation import relation_distillation
from pruneonce.losses.relations import captured
from pruneonce.models import load_encoder
from pruneonce.models.architectures import attention_inputs
from pruneonce.recipe import Corpus, Prune, Quantize, Training, Transfer, validate

SETTINGS = {
    "objective": "hidden",
    "steps": 30,
    "batch_size": 8,
    "learning_rate": 3e-3,
    "sparsity": 0.8,
    "rewind": False,
}
TASK = {"epochs": 2, "batch_size": 16, "learning_rate": 3e-3}
BATCH = {
    "input_ids": torch.tensor([[2, 7, 8, 9, 3], [2, 10, 11, 3, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]),
}


def reference(student, teacher, mask):
    """Head by head, row by row; padding is left out rather than masked."""
    total = 0.0
    for ours, theirs in zip(student, teacher, strict=True):
        for row, real in enumerate(mask.bool()):
            for head in range(ours.shape[1]):
                vectors = (one[row, head][real] for one in (ours, theirs))
                p, q = (torch.softmax(one @ one.T / math.sqrt(one.shape[-1]), dim=-1) for one in vectors)
                total += (q * (q / p).log()).sum()
    return total / (int(mask.sum()) * ours.shape[1] * len(student))


def distance(student, teacher):
    vectors = []
    for model in (student, teacher):
        with captured(model) as kept, torch.no_grad():
            model(**BATCH)
        vectors.append(kept)
    return relation_distillation(*vectors, BATCH["attention_mask"])


def test_the_loss_is_that_of_the_paper():
    torch.manual_seed(0)
    student, teacher = ([torch.randn(2, 3, 5, 4) for _ in range(6)] for _ in range(2))
    found = relation_distillation(student, teacher, BATCH["attention_mask"])
    torch.testing.assert_close(found, reference(student, teacher, BATCH["attention_mask"]))
    assert relation_distillation(teacher, teacher, BATCH["attention_mask"]) == 0


def test_a_known_value():
    """Two tokens, one head of width 1: queries 0 relate both alike; 1 and -1 relate each to itself, by e to 1/e."""
    student, teacher = torch.zeros(1, 1, 2, 1), torch.tensor([[[[1.0], [-1.0]]]])
    q = math.e / (math.e + 1 / math.e)
    expected = q * math.log(2 * q) + (1 - q) * math.log(2 * (1 - q))
    assert relation_distillation([student], [teacher], torch.ones(1, 2)).item() == pytest.approx(expected)


@pytest.mark.parametrize("at_once", [1, 60, 2**18], ids=["a head", "two heads", "all"])
def test_the_gradient_is_that_of_the_formula(at_once, monkeypatch):
    monkeypatch.setitem(distillation.AT_ONCE, "cpu", at_once)
    torch.manual_seed(0)
    student, teacher = ([torch.randn(2, 3, 5, 4, requires_grad=True) for _ in range(2)] for _ in range(2))
    found, expected = (
        torch.autograd.grad(3 * loss(student, teacher, BATCH["attention_mask"]), student)
        for loss in (relation_distillation, reference)
    )
    torch.testing.assert_close(found, expected)


def test_another_device_does_as_much_at_once_as_keeps_it_busy(monkeypatch):
    torch.manual_seed(0)
    student, teacher = ([torch.randn(2, 3, 5, 4)] for _ in range(2))
    expected = relation_distillation(student, teacher, BATCH["attention_mask"])
    monkeypatch.delitem(distillation.AT_ONCE, "cpu")
    torch.testing.assert_close(relation_distillation(student, teacher, BATCH["attention_mask"]), expected)


def test_what_is_kept_for_the_gradient_grows_with_the_tokens_alone():
    student, teacher = (torch.randn(1, 2, 64, 4, requires_grad=True) for _ in range(2))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one.numel()), lambda _: None):
        relation_distillation([student], [teacher], torch.ones(1, 64))
    assert sum(kept) == student.numel(), "and not with their square"


def test_no_gradient_flows_into_the_teacher():
    student, teacher = (torch.randn(1, 1, 3, 2, requires_grad=True) for _ in range(2))
    relation_distillation([student], [teacher], torch.ones(1, 3)).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


@pytest.mark.parametrize("architecture", CONFIGS)
def test_queries_keys_and_values_of_every_layer(architecture):
    torch.manual_seed(0)
    model = AutoModel.from_config(CONFIGS[architecture]).eval()
    given = []
    for module in attention_inputs(model):
        module.register_forward_hook(lambda module, args, output: given.append(output))
    with captured(model) as found:
        model(**BATCH)
    assert [one.shape for one in found] == [(2, 2, 5, 16)] * 6, "three of each of two layers"
    together = torch.cat([one.transpose(1, 2).flatten(2) for one in found], dim=-1)
    assert torch.equal(together, torch.cat(given, dim=-1))
    model(**BATCH)
    assert len(found) == 6, "nothing is captured afterwards"
    with captured(model, enabled=False) as nothing:
        model(**BATCH)
    assert nothing == []


@pytest.mark.parametrize("objective", ["hidden", "mlm"])
def test_pruning_with_relations_comes_nearer_to_the_teachers(objective, tokenizer, corpus_file, tmp_path):
    model = make_model(tmp_path / "model", tokenizer, head=True)
    corpus = Corpus(source=str(corpus_file), block_length=16, validation=0.1)
    dense, found = load_encoder(model).eval(), {}
    for weight in (0.0, 10.0):
        settings = validate(Prune, {**SETTINGS, "objective": objective, "relation_weight": weight})
        made = stages.prune(model, corpus, settings, tmp_path / f"{weight}", report_to=[])
        measured = json.loads((made / "metrics.json").read_text())
        assert ("relations" in measured["final"]) == (weight > 0)
        found[weight] = distance(load_encoder(made).eval(), dense)
    assert found[10.0] < 0.8 * found[0.0]


def test_recomputed_activations_change_nothing(encoder, corpus_file, tmp_path):
    corpus = Corpus(source=str(corpus_file), block_length=16, validation=0.1)
    found = []
    for recompute in (False, True):
        values = {**SETTINGS, "steps": 6, "relation_weight": 0.1, "activation_checkpointing": recompute}
        made = stages.prune(encoder, corpus, validate(Prune, values), tmp_path / str(recompute), report_to=[])
        found.append(load_encoder(made).state_dict())
    for name, weight in found[0].items():
        torch.testing.assert_close(found[1][name], weight, msg=name)


def test_the_transfer_comes_nearer_to_the_task_teachers(models, task, tmp_path):
    teacher, sparse = models
    dense, found = load_encoder(teacher).eval(), {}
    for weight in (0.0, 10.0):
        settings = validate(Transfer, {**TASK, "relation_weight": weight})
        made = stages.transfer(sparse, task, settings, tmp_path / f"{weight}", teacher=teacher)
        assert ("loss_relations" in json.loads((made / "metrics.json").read_text())["history"][-1]) == (weight > 0)
        found[weight] = distance(load_encoder(made).eval(), dense)
    assert found[10.0] < 0.8 * found[0.0]


def test_in_int8_too(models, task, tmp_path):
    teacher, sparse = models
    settings = validate(Quantize, {**TASK, "relation_weight": 10.0})
    made = stages.quantize(sparse, task, settings, tmp_path / "int8", teacher=teacher)
    history = json.loads((made / "metrics.json").read_text())["history"]
    assert history[-1]["loss_relations"] < history[0]["loss_relations"]


def test_a_teacher_with_other_heads_has_other_relations(models, task, tokenizer, tmp_path):
    _, sparse = models
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
    AutoModel.from_config(config).save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    other = stages.finetune(tmp_path / "other", task, validate(Training, TASK), tmp_path / "other-dense")
    settings = validate(Transfer, {**TASK, "relation_weight": 0.1})
    with pytest.raises(UserError, match=r"2 layers of 4 heads, the model 2 of 2.*leave `relation_weight` out"):
        stages.transfer(sparse, task, settings, tmp_path / "made", teacher=other)


def test_what_is_not_asked_for_leaves_older_results_valid():
    assert "relation_weight" not in validate(Prune, SETTINGS).model_dump()
    assert validate(Prune, {**SETTINGS, "relation_weight": 0.1}).model_dump()["relation_weight"] == 0.1


@pytest.mark.parametrize("stage", [Prune, Transfer])
def test_a_compiled_model_cannot_be_looked_into(stage):
    with pytest.raises(UserError, match=r"`relation_weight` looks into the model.*leave one of them out"):
        validate(stage, {**TASK, "relation_weight": 0.1, "compile": True})
