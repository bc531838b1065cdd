"""Roles that a user gives of an architecture whose module tree has several stacks of layers."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from shared.models import SPECIAL, WORDS, make_tokenizer
from transformers import AutoConfig, AutoModel

from pruneonce import recipe
from pruneonce.cli import main
from pruneonce.errors import UserError
from pruneonce.models import content_key, key_of, load_encoder
from pruneonce.models.architectures import attention_inputs, layers_found, prunable_weights
from pruneonce.models.given_roles import KEY, giving
from pruneonce.plan import plan
from pruneonce.recipe import RolesOfModules
from pruneonce.runs import pipeline
from pruneonce.runs.staleness import stage_keys
from pruneonce.sparsity import inspect_model, inspect_module

TEXT = {"layers": "text_model.layers"}
TYPE = "modernvbert"


@pytest.fixture(scope="module")
def two_stacks(tmp_path_factory):
    """A tiny encoder of texts and images, whose type is not in the table of architectures."""
    folder = tmp_path_factory.mktemp("two-stacks")
    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    tokens = {"pad_token_id": 0, "bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
    words = len(SPECIAL) + len(WORDS)
    text = {**small, **tokens, "model_type": "modernbert", "vocab_size": words, "max_position_embeddings": 64}
    config = AutoConfig.for_model(
        TYPE,
        text_config=text,
        vision_config={**small, "image_size": 32, "patch_size": 16},
        image_token_id=4,
        vocab_size=words,
    )
    AutoModel.from_config(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def corpus(tmp_path):
    file = tmp_path / "corpus.txt"
    file.write_text("\n".join(" ".join(WORDS[n : n + 12]) for n in range(30)), encoding="utf-8")
    return file


def prune(model, corpus, output, *more):
    values = ("steps=2", "batch_size=2", "corpus.block_length=16", "start=0", "end=1", "every=1", "warmup=0")
    sets = [part for value in values for part in ("--set", value)]
    typed = ["prune", model, "--corpus", corpus, "--output", output, "--objective", "hidden", *sets, *more]
    return main([str(part) for part in typed])


def test_the_layers_that_are_given_are_pruned_and_later_verbs_know_them(two_stacks, corpus, tmp_path, capsys):
    assert prune(two_stacks, corpus, tmp_path / "sparse") == 2
    assert "--roles layers=text_model.layers" in " ".join(capsys.readouterr().err.split())
    assert prune(two_stacks, corpus, tmp_path / "sparse", "--roles", "layers=text_model.layers") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "2 blocks text_model.layers, of each attn.Wqkv" in said
    assert said.index("text_model.layers") < said.index("1/2")  # before the first step
    found = inspect_model(tmp_path / "sparse")
    assert {layer.name.split(".layers")[0] for layer in found.layers} == {"text_model"}
    assert found.encoder == pytest.approx(0.9, abs=0.01)
    assert found.pattern == inspect_module(load_encoder(tmp_path / "sparse")).pattern
    assert json.loads((tmp_path / "sparse" / "config.json").read_text())[KEY] == TEXT
    assert main(["inspect", str(two_stacks), "--roles", "layers=text_model.layers", "--json"]) == 0
    assert main(["inspect", str(tmp_path / "sparse"), "--json"]) == 0
    assert main(["verify", str(tmp_path / "sparse"), "--against", str(tmp_path / "sparse")]) == 0


@pytest.mark.parametrize(
    ("roles", "reason"),
    [
        (
            {"layers": "encoder.blocks"},
            "no list of blocks .* stacks with Linears are vision_model.encoder.layers, t",
        ),
        ({**TEXT, "pooler": "text_model.final_norm"}, "`roles.pooler` names text_model.final_norm, which is no Linear"),
        ({**TEXT, "attention": ["attn.q", "attn.k", "attn.v"]}, "`roles.attention` names text_model.layers.0.attn.q,"),
        ({"attention": ["attn.Wqkv"]}, "are in several stacks"),
    ],
)
def test_roles_that_the_model_has_not_are_refused_in_a_line(two_stacks, roles, reason):
    with giving(roles, TYPE), pytest.raises(UserError, match=reason):
        prunable_weights(load_encoder(two_stacks))


def test_the_attention_that_is_given_is_known_to_relations(two_stacks):
    with giving({**TEXT, "attention": ["attn.Wqkv"]}, TYPE):
        model = load_encoder(two_stacks)
    assert len(attention_inputs(model)) == 2  # out of config.json, no roles being in force
    assert "as `roles` say" in layers_found(model)


def test_damaged_roles_in_a_configuration_are_said(two_stacks, tmp_path):
    save_file(load_file(two_stacks / "model.safetensors"), tmp_path / "model.safetensors")
    config = json.loads((two_stacks / "config.json").read_text())
    for damaged in ("layers", {"layers": 3}, {"attention": "x"}, [TEXT]):
        (tmp_path / "config.json").write_text(json.dumps({**config, KEY: damaged}))
        with pytest.raises(UserError, match="is damaged: it is no mapping"):
            inspect_model(tmp_path)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, "`roles` is empty"),
        ({"layer": "x"}, "layer"),
        ({"attention": ["q", "k"]}, "takes three names"),
        ({"layers": ""}, "layers"),
    ],
)
def test_a_section_that_says_nothing_is_refused(values, reason):
    with pytest.raises(UserError, match=reason):
        recipe.validate(RolesOfModules, values)


PRUNING = {"objective": "hidden", "start": 0, "end": 1, "every": 1}


def a_recipe(model, corpus, **changes):
    training = {"steps": 2, "learning_rate": 1e-3, "batch_size": 2}
    values = {"name": "one", "model": str(model), "corpus": {"source": str(corpus), "block_length": 16}}
    return recipe.validate(recipe.Recipe, {**values, "prune": {**training, **PRUNING}, **changes})


def test_a_run_says_its_layers_before_it_trains(two_stacks, corpus, tmp_path, capsys):
    one = a_recipe(two_stacks, corpus, roles=TEXT, report_to=[])
    pipeline.run(one, tmp_path / "run")
    said = " ".join(capsys.readouterr().out.split())
    assert said.index("to prune, as `roles` say: 2 blocks text_model.layers") < said.index("prune: sparse pre-training")
    assert inspect_model(tmp_path / "run" / "sparse").encoder > 0.85


@pytest.mark.slow
def test_a_plan_measures_with_the_roles(two_stacks, corpus):
    assert plan(a_recipe(two_stacks, corpus, roles=TEXT), seconds=0.1).stages[0].steps == 2


def test_roles_are_in_the_keys_and_without_them_keys_are_as_ever(two_stacks, corpus, encoder):
    plain, with_roles = a_recipe(two_stacks, corpus), a_recipe(two_stacks, corpus, roles=TEXT)
    assert "roles" not in plain.model_dump()
    assert stage_keys(plain)["sparse"] != stage_keys(with_roles)["sparse"]
    key, of_another_type = content_key(two_stacks), content_key(encoder)
    with giving(TEXT, TYPE):
        assert content_key(two_stacks) == key_of([key, TEXT])
        assert content_key(encoder) == of_another_type


def test_roles_of_a_known_architecture_are_refused(encoder, corpus):
    with (
        pytest.raises(UserError, match="'bert' are known, so `roles` change nothing"),
        pipeline.roles_of_recipe(a_recipe(encoder, corpus, roles=TEXT)),
    ):
        pass
