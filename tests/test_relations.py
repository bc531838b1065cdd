"""How tokens are related to each other, of a student as of its teacher."""

import json
import math

import pytest
import torch
from conftest import CONFIGS, make_model
from transformers import AutoModel

from pruneonce import modelfolder, stages
from pruneonce.distillation import relation_distillation
from pruneonce.errors import UserError
from pruneonce.recipe import Corpus, Prune, validate
from pruneonce.relations import captured
from pruneonce.sparsity import attention_inputs

SETTINGS = {
    "objective": "hidden",
    "steps": 30,
    "batch_size": 8,
    "learning_rate": 3e-3,
    "sparsity": 0.8,
    "rewind": False,
}
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
    dense, found = modelfolder.load_encoder(model).eval(), {}
    for weight in (0.0, 10.0):
        settings = validate(Prune, {**SETTINGS, "objective": objective, "relation_weight": weight})
        made = stages.prune(model, corpus, settings, tmp_path / f"{weight}", report_to=[])
        measured = json.loads((made / "metrics.json").read_text())
        assert ("relations" in measured["final"]) == (weight > 0)
        vectors = []
        for one in (modelfolder.load_encoder(made).eval(), dense):
            with captured(one) as kept, torch.no_grad():
                one(**BATCH)
            vectors.append(kept)
        found[weight] = relation_distillation(*vectors, BATCH["attention_mask"])
    assert found[10.0] < 0.8 * found[0.0]


def test_recomputed_activations_change_nothing(encoder, corpus_file, tmp_path):
    corpus = Corpus(source=str(corpus_file), block_length=16, validation=0.1)
    found = []
    for recompute in (False, True):
        values = {**SETTINGS, "steps": 6, "relation_weight": 0.1, "activation_checkpointing": recompute}
        made = stages.prune(encoder, corpus, validate(Prune, values), tmp_path / str(recompute), report_to=[])
        found.append(modelfolder.load_encoder(made).state_dict())
    for name, weight in found[0].items():
        torch.testing.assert_close(found[1][name], weight, msg=name)


def test_what_is_not_asked_for_leaves_older_results_valid():
    assert "relation_weight" not in validate(Prune, SETTINGS).model_dump()
    assert validate(Prune, {**SETTINGS, "relation_weight": 0.1}).model_dump()["relation_weight"] == 0.1


def test_a_compiled_model_cannot_be_looked_into():
    with pytest.raises(UserError, match=r"`relation_weight` looks into the model.*leave one of them out"):
        validate(Prune, {**SETTINGS, "relation_weight": 0.1, "compile": True})
