"""The one door for models: what a file lacks is never filled with random numbers without a word."""

import ast
import json
import re
import shutil
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from shared.models import CONFIGS, SPECIAL, WORDS, make_model, make_tokenizer
from torch.nn.utils import parametrizations, prune
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

import pruneonce
from pruneonce import UserError, stages, storage
from pruneonce.cli import main
from pruneonce.models import (
    check_weights,
    content_key,
    load_as_saved,
    load_config,
    load_encoder,
    load_reporting,
    load_tokenizer,
)
from pruneonce.models.architectures import prunable_weights
from pruneonce.models.loading import names_in, outline
from pruneonce.models.provenance import rest_key
from pruneonce.models.source import unwrapped
from pruneonce.recipe import Prune
from pruneonce.sparsity import inspect_model, verify

PACKAGE = Path(pruneonce.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
QUERY = "encoder.layer.0.attention.self.query.weight"
WEIGHTS = "model.safetensors"


def rewrite(source, folder, change):
    """A copy of a model folder with other tensors: `change` gets them by name and returns those to write."""
    shutil.copytree(source, folder)
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def reconfigure(source, folder, **changes):
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


def sparse(tensors):
    return {
        name: torch.where(weight.abs() < weight.abs().quantile(0.6), 0, weight) if weight.ndim == 2 else weight
        for name, weight in tensors.items()
    }


def same(model, other):
    ours, theirs = model.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


# -- wrappers of names ------------------------------------------------------------------------------------------


PREFIXES = ["_orig_mod.", "module.", "model.", "0.auto_model.", "auto_model.", "module._orig_mod.", "_orig_mod.module."]
PREFIXES += ["model._orig_mod.", "model.0.auto_model.", "module.model.", "model.model._orig_mod.module."]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("head", [False, True], ids=["encoder", "mlm"])
@pytest.mark.parametrize("architecture", ["bert", "modernbert", "distilbert"])
def test_known_wrappers_are_read_right(architecture, head, prefix, tokenizer, tmp_path):
    plain = make_model(tmp_path / "plain", tokenizer, architecture, head)
    rewrite(plain, tmp_path / "sparse", sparse)
    wrapped = rewrite(tmp_path / "sparse", tmp_path / "wrapped", lambda w: {prefix + name: w[name] for name in w})
    assert same(load_as_saved(wrapped), load_as_saved(tmp_path / "sparse"))
    found, expected = inspect_model(wrapped), inspect_model(tmp_path / "sparse")
    assert (found.layers, found.pattern, found.model) == (expected.layers, expected.pattern, expected.model)
    storage.pack([wrapped], tmp_path / "packed.pruneonce", "fp32")
    assert same(pruneonce.load(tmp_path / "packed.pruneonce"), load_as_saved(tmp_path / "sparse"))


def test_a_wrapper_inside_and_the_other_modules_of_sentence_transformers(encoder, tmp_path):
    def wrap(weights):
        names = {name: "0.auto_model." + name.replace("encoder.", "encoder._orig_mod.") for name in weights}
        return {**{names[name]: weight for name, weight in weights.items()}, "2.linear.weight": torch.ones(2, 2)}

    assert same(load_encoder(rewrite(encoder, tmp_path / "wrapped", wrap)), load_encoder(encoder))


def test_masks_of_torchs_pruning_are_applied(encoder, tmp_path):
    model = AutoModel.from_pretrained(encoder)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            prune.random_unstructured(module, "weight", 0.5)
    folder = rewrite(encoder, tmp_path / "masked", lambda _: dict(model.state_dict()))
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            prune.remove(module, "weight")
    assert same(load_encoder(folder), model)
    assert inspect_model(folder).encoder == pytest.approx(0.5, abs=0.01)
    storage.pack([folder], tmp_path / "packed.pruneonce", "fp32")
    assert same(pruneonce.load(tmp_path / "packed.pruneonce"), model)


def test_the_names_that_an_architecture_wants(encoder):
    """Of a state dict, as for a folder that is converted."""
    names = {"module.bert." + name for name in load_file(encoder / WEIGHTS)} | {"module.cls.predictions.bias"}
    short = unwrapped(names, "x")
    model = outline(AutoModel, load_config(encoder), dict.fromkeys(names, ()), "x")
    assert set(names_in(model, short).values()) == model.state_dict().keys()
    assert "cls.predictions.bias" not in names_in(model, short)


# -- what is missing --------------------------------------------------------------------------------------------


def without(*names):
    return lambda weights: {name: weight for name, weight in weights.items() if name not in names}


def parametrized(weights):
    module = parametrizations.weight_norm(torch.nn.Linear(32, 32))
    kept = {name: weight for name, weight in weights.items() if name != QUERY}
    prefix = QUERY.removesuffix("weight")
    return kept | {prefix + name: value for name, value in module.state_dict().items() if "parametrizations" in name}


def adapted(weights):
    return {f"base_model.{name}": weight for name, weight in weights.items()} | {"base_model.x.lora_A": torch.ones(2)}


BROKEN = {
    "one weight left out": (without(QUERY), f"has no weights for {QUERY}, which would be random"),
    "one bias left out": (without("embeddings.LayerNorm.bias"), "has no weights for embeddings.LayerNorm.bias"),
    "one tensor": (
        lambda weights: {QUERY: weights[QUERY]},
        "has 1 weights in all, and its config.json asks for 2 layers|no weights for",
    ),
    "half a pooler": (without("pooler.dense.bias"), "has no weights for pooler.dense.bias"),
    "an unknown prefix": (
        lambda weights: {f"backbone.{name}": weight for name, weight in weights.items()},
        "no weights of an encoder's layers|LayerNorm.bias instead|describes another model than",
    ),
    "another shape": (
        lambda weights: weights | {QUERY: torch.ones(32, 31)},
        rf"has {QUERY} of shape \[32, 31\], and config.json asks for \[32, 32\]",
    ),
    "integers": (
        lambda weights: weights | {QUERY: torch.ones(32, 32).to(torch.int8)},
        f"has {QUERY} as I8, which is not read as a weight|no weights for",
    ),
    "8 bits with a point": (
        lambda weights: {name: weight.to(torch.float8_e4m3fn) for name, weight in weights.items()},
        "as F8_E4M3, which is not read as a weight: another library quantized it|has type F8_E4M3; save the model in",
    ),
    "two of a name": (lambda weights: weights | {f"module.{QUERY}": weights[QUERY] + 1}, f"two tensors for {QUERY}"),
    "a prefix twice": (lambda weights: weights | {f"bert.{QUERY}": weights[QUERY] + 1}, f"two tensors for {QUERY}"),
    "a mask of another shape": (
        lambda weights: without(QUERY)(weights) | {f"{QUERY}_orig": weights[QUERY], f"{QUERY}_mask": torch.ones(2)},
        "has another shape than",
    ),
    "a parametrization": (parametrized, "but parts of it; remove the parametrizations first"),
    "an adapter": (
        adapted,
        "no weights of an encoder's layers|merge the adapter into the model first|another model than",
    ),
    "nan": (lambda weights: weights | {QUERY: weights[QUERY] * torch.nan}, "infinite or undefined numbers"),
    "infinity": (lambda weights: weights | {QUERY: weights[QUERY] * torch.inf}, "infinite or undefined numbers"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_not_whole_is_refused(case, encoder, tmp_path):
    change, message = BROKEN[case]
    folder = rewrite(encoder, tmp_path / "model", change)
    reads = [load_encoder, load_as_saved, inspect_model, lambda folder: verify(encoder, folder)]
    reads += [lambda folder: verify(folder, encoder), pruneonce.load]
    reads += [lambda folder: storage.pack([folder], tmp_path / "x.pruneonce", "fp32")]
    reads += [check_weights] if case not in ("nan", "infinity") else []
    for read in reads:
        with pytest.raises(UserError, match=message) as caught:
            read(folder)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_each_weight_of_the_encoder_is_missed(architecture, tokenizer, tmp_path):
    folder = make_model(tmp_path / "model", tokenizer, architecture, head=True)
    weights = load_file(folder / WEIGHTS)
    prefix = f"{AutoModel.from_pretrained(folder).base_model_prefix}."
    for name in weights:
        save_file(without(name)(weights), folder / WEIGHTS, metadata={"format": "pt"})
        if name.startswith(prefix) and "pooler" not in name:
            with pytest.raises(UserError, match="has no weights for"):
                load_encoder(folder)
        with pytest.raises(UserError, match="has no weights for"):
            load_as_saved(folder)


CONFIGURED = {
    "more layers": ({"num_hidden_layers": 3}, r"has no weights for encoder.layer.2.\S+ and 15 more"),
    "layers without end": (
        {"num_hidden_layers": 900},
        "its config.json asks for 900 layers",
    ),
    "other width": ({"hidden_size": 48, "num_attention_heads": 3}, r"config.json asks for"),
    "a large table": ({"vocab_size": 1 << 20, "hidden_size": 512}, "it is the configuration of another model"),
    "products": ({"intermediate_size": 1 << 20}, "it is the configuration of another model"),
    "sinusoids without end": (
        {"model_type": "distilbert", "sinusoidal_pos_embds": True, "max_position_embeddings": 1 << 20},
        "it is the configuration of another model|no weights of an encoder's layers",
    ),
    "quantized elsewhere": ({"quantization_config": {"quant_method": "awq"}}, "quantized by another library"),
    "another architecture": ({"model_type": "distilbert"}, "has no weights for|no weights of an encoder's layers"),
}


@pytest.mark.parametrize("case", CONFIGURED)
def test_a_configuration_of_another_model_is_refused(case, encoder, tmp_path):
    changes, message = CONFIGURED[case]
    folder = reconfigure(encoder, tmp_path / "model", **changes)
    for read in (load_encoder, load_as_saved, inspect_model, check_weights, pruneonce.load):
        with pytest.raises(UserError, match=message):
            read(folder)


VERBS = {
    "inspect": ["inspect", "BROKEN"],
    "verify": ["verify", "TASK", "--against", "BROKEN"],
    "prepare": ["prepare", "BROKEN", "--corpus", "CORPUS", "--output", "out", "--set", "steps=1"],
    "prune": ["prune", "BROKEN", "--corpus", "CORPUS", "--output", "out", "--set", "steps=1"],
    "prune, teacher": [
        "prune",
        "WHOLE",
        "--teacher",
        "BROKEN",
        "--corpus",
        "CORPUS",
        "--output",
        "out",
        "--objective",
        "hidden",
    ],
    "finetune": ["finetune", "BROKEN", "--train", "TRAIN", "--dev", "DEV", "--output", "out"],
    "transfer": ["transfer", "BROKEN", "--teacher", "TASK", "--train", "TRAIN", "--dev", "DEV", "--output", "out"],
    "transfer, teacher": [
        *["transfer", "WHOLE", "--teacher", "BROKEN TASK", "--train", "TRAIN", "--dev", "DEV", "--output", "out"],
        *["--set", "hidden_weight=0"],
    ],
    "one-shot": ["one-shot", "BROKEN TASK", "--train", "TRAIN", "--dev", "DEV", "--output", "out"],
    "quantize": ["quantize", "BROKEN TASK", "--teacher", "TASK", "--train", "TRAIN", "--dev", "DEV", "--output", "out"],
    "evaluate": ["evaluate", "BROKEN TASK", "--test", "DEV"],
    "evaluate, embedding": ["evaluate", "BROKEN", "--kind", "embedding", "--test", "PAIRS"],
    "export": ["export", "BROKEN", "--output", "out"],
    "pack": ["pack", "BROKEN", "out.pruneonce"],
    "benchmark": ["benchmark", "BROKEN", "--engine", "torch"],
}


@pytest.fixture(scope="module")
def places(encoder, models, task_files, corpus_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("places")
    pairs = [{"text": "the river", "text_pair": "a river", "label": value} for value in (0.1, 0.9)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    dense, _ = models
    named = rewrite(dense, folder / "broken-task", without(f"bert.{QUERY}"))
    (named / "pruneonce.json").unlink()  # of a model with its hash the swap is seen before
    return {
        "BROKEN": rewrite(encoder, folder / "broken", without(QUERY)),
        "BROKEN TASK": named,
        "WHOLE": encoder,
        "TASK": dense,
        "CORPUS": corpus_file,
        "TRAIN": task_files / "train.jsonl",
        "DEV": task_files / "dev.jsonl",
        "PAIRS": folder / "pairs.jsonl",
    }


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_refuses_a_model_that_is_not_whole(verb, places, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = main([str(places.get(word, word)) for word in VERBS[verb]])
    said = capsys.readouterr().err
    assert code == 2, said
    assert "which would be random" in said
    assert len([line for line in said.strip().splitlines() if not line.startswith("labels: ")]) == 1
    assert not list(tmp_path.iterdir())


def test_a_head_a_pooler_and_what_is_tied_may_be_missing(encoder, tokenizer, tmp_path):
    bare = rewrite(encoder, tmp_path / "bare", without("pooler.dense.weight", "pooler.dense.bias"))
    assert load_encoder(bare).pooler is None
    _, missing = load_reporting(AutoModelForSequenceClassification, bare)
    assert missing == {f"{name}.{kind}" for name in ("bert.pooler.dense", "classifier") for kind in ("weight", "bias")}
    masked = make_model(tmp_path / "mlm", tokenizer, "bert", head=True)
    assert "cls.predictions.decoder.weight" not in load_file(masked / WEIGHTS)
    assert load_reporting(AutoModelForMaskedLM, masked)[1] == set()
    _, missing = load_reporting(AutoModelForPreTraining, masked)
    assert {name.rsplit(".", 1)[0] for name in missing} == {"cls.seq_relationship", "bert.pooler.dense"}


def test_position_ids_and_names_of_earlier_versions(encoder, tmp_path):
    def old(weights):
        names = {"embeddings.LayerNorm.weight": "embeddings.LayerNorm.gamma"}
        renamed = {f"bert.{names.get(name, name)}": weight for name, weight in weights.items()}
        return renamed | {"bert.embeddings.position_ids": torch.arange(128)[None]}

    assert same(load_encoder(rewrite(encoder, tmp_path / "old", old)), load_encoder(encoder))


UNREAD = {
    "relative positions": ("distance_embedding.weight", "no relative positions for this architecture any more"),
    "an adapter beside the weights": ("query.lora_A.weight", "merge the adapter into the model first"),
}


@pytest.mark.parametrize("case", UNREAD)
def test_weights_without_which_an_encoder_is_another_are_refused(case, encoder, tmp_path):
    name, message = UNREAD[case]
    name = f"encoder.layer.0.attention.self.{name}"
    folder = rewrite(encoder, tmp_path / "model", lambda weights: weights | {name: torch.ones(4, 32)})
    for read in (load_encoder, check_weights):
        with pytest.raises(UserError, match=f"has {name}, which would be left out; .*{message}"):
            read(folder)


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("architecture", CONFIGS)
def test_layers_that_are_left_out_are_said_and_heads_are_not(architecture, head, tokenizer, tmp_path, capsys):
    folder = make_model(tmp_path / "model", tokenizer, architecture, head=head)
    load_encoder(folder)
    assert "left out" not in capsys.readouterr().err
    layers = "n_layers" if architecture == "distilbert" else "num_hidden_layers"
    fewer = reconfigure(folder, tmp_path / "fewer", **{layers: 1, "layer_types": ["full_attention"]})
    load_encoder(fewer)
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "left out" in line] == said
    assert len(said) == 1
    assert re.search(r"has no place for; left out: \S*layers?\.1\.\S+ and \d+ more$", said[0])


def test_half_a_head_is_refused(encoder, tmp_path):
    for auto, name in (
        (AutoModelForTokenClassification, "classifier.bias"),
        (AutoModelForMaskedLM, "cls.predictions.transform.dense.bias"),
    ):
        folder = tmp_path / name
        auto.from_pretrained(encoder).save_pretrained(folder)
        rewrite(folder, tmp_path / f"half {name}", without(name))
        for load in (lambda folder, auto=auto: load_reporting(auto, folder), load_as_saved):
            with pytest.raises(UserError, match=f"has no weights for {name}"):
                load(tmp_path / f"half {name}")


def test_a_saved_model_has_its_head(encoder, tmp_path):
    folder = reconfigure(encoder, tmp_path / "model", architectures=["BertForSequenceClassification"])
    for load in (load_as_saved, pruneonce.load):
        with pytest.raises(UserError, match=r"has no weights for classifier.bias, which would be random"):
            load(folder)
    assert same(load_encoder(folder), load_encoder(encoder))


# -- verify -----------------------------------------------------------------------------------------------------


def test_a_child_with_fewer_layers_or_other_shapes_is_none(encoder, tokenizer, tmp_path):
    parent = rewrite(encoder, tmp_path / "parent", sparse)
    small = make_model(tmp_path / "small", tokenizer, num_hidden_layers=1)
    kept = {name: weight for name, weight in load_file(parent / WEIGHTS).items() if "layer.1" not in name}
    save_file(kept, small / WEIGHTS, metadata={"format": "pt"})
    found = verify(small, parent)
    assert not any(layer.lost for layer in found.layers)
    assert not found.ok
    assert main(["verify", str(small), "--against", str(parent)]) == 1
    other = make_model(tmp_path / "other", tokenizer, intermediate_size=48)
    wide = {name: weight for name, weight in load_file(parent / WEIGHTS).items() if "intermediate" not in name}
    wide = {name: weight for name, weight in wide.items() if ".output.dense" not in name or "attention" in name}
    save_file({**load_file(other / WEIGHTS), **wide}, other / WEIGHTS, metadata={"format": "pt"})
    assert not verify(other, parent).ok
    pooled = rewrite(parent, tmp_path / "no-pooler", without("pooler.dense.weight", "pooler.dense.bias"))
    assert verify(pooled, parent).ok
    assert verify(pooled, parent).missing == ["pooler.dense.weight"]


# -- what a configuration may name ------------------------------------------------------------------------------


@pytest.fixture
def kernels(monkeypatch):
    """A library `kernels` that notes what it is asked for, and transformers told that it is there."""
    asked = []
    module = types.ModuleType("kernels")
    module.__getattr__ = lambda name: asked.append(name) or (lambda *given, **named: asked.append(given))
    monkeypatch.setitem(sys.modules, "kernels", module)
    return asked


REPOSITORY = "org/repo"
NAMED = [
    {"attn_implementation": REPOSITORY},
    {"_attn_implementation": REPOSITORY},
    {"_attn_implementation_internal": REPOSITORY},
    {"attn_implementation": f"paged|{REPOSITORY}@v1:attention"},
    {"attn_implementation": {"": REPOSITORY}},
    {"experts_implementation": REPOSITORY},
    {"_experts_implementation": {"text_config": [REPOSITORY]}},
    {"text_config": {"attn_implementation": REPOSITORY}},
    {"parts": [{"deep": {"_attn_implementation": REPOSITORY}}]},
]


@pytest.mark.parametrize("named", NAMED, ids=json.dumps)
def test_a_configuration_names_no_code(named, encoder, tmp_path, kernels):
    folder = reconfigure(encoder, tmp_path / "model", **named)
    for read in (load_config, load_encoder, load_tokenizer, inspect_model, check_weights, pruneonce.load):
        with pytest.raises(UserError, match="it wants to run code of its own, which pruneonce never does"):
            read(folder)
    with pytest.raises(UserError, match="it wants to run code of its own"):
        storage.pack([folder], tmp_path / "x.pruneonce")
    assert not kernels


@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_other_implementations_are_left_to_transformers(name, encoder, tmp_path, kernels):
    folder = reconfigure(encoder, tmp_path / "model", **{name: "flash_attention_2"})
    assert load_encoder(folder).config._attn_implementation == "sdpa"
    assert not kernels
    eager = reconfigure(encoder, tmp_path / "eager", attn_implementation="eager")
    assert load_encoder(eager).config._attn_implementation == "eager"


def test_other_keys_that_lead_elsewhere_are_left_out(encoder, tmp_path):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    changes = {
        "auto_map": {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"},
        "transformers_weights": "../elsewhere.safetensors",
        "configuration_files": ["config.9.json"],
        "fusion_config": {"patch": True},
    }
    folder = reconfigure(encoder, tmp_path / "model", **changes)
    (folder / "evil.py").write_text((tmp_path / "evil.py").read_text())
    (folder / "config.9.json").write_text(json.dumps({"attn_implementation": REPOSITORY}))
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "../elsewhere"}))
    assert same(load_encoder(folder), load_encoder(encoder))
    assert not changes.keys() & load_config(folder).to_dict().keys()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_norm_eps": "1e-12"}, '`layer_norm_eps` is the text "1e-12"; write it as a number, without quotes'),
        ({"hidden_size": [32]}, r"`hidden_size` cannot be \[32\]: .*; correct it"),
    ],
)
def test_a_value_of_another_type_is_named(changes, message, encoder, tmp_path):
    folder = reconfigure(encoder, tmp_path / "model", **changes)
    for read in (load_encoder, load_config, inspect_model):
        with pytest.raises(UserError, match=rf"model/config\.json: {message}") as caught:
            read(folder)
        assert "\n" not in str(caught.value)


def test_inspect_says_that_there_is_no_tokenizer(encoder, tmp_path, capsys):
    folder = shutil.copytree(encoder, tmp_path / "model", ignore=shutil.ignore_patterns("tokenizer*"))
    assert [inspect_model(each).tokenizer for each in (encoder, folder)] == [True, False]
    assert main(["inspect", str(folder)]) == 0
    assert "none: copy its files (tokenizer.json" in capsys.readouterr().out
    assert main(["inspect", str(encoder)]) == 0
    assert "tokenizer" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["pipeline", "AutoTokenizer", "GPT2Model", "logging"])
def test_architectures_name_a_class_of_the_configuration_alone(name, encoder, tmp_path):
    folder = reconfigure(encoder, tmp_path / "model", architectures=[name])
    assert same(load_as_saved(folder), load_encoder(encoder))


# -- identity ---------------------------------------------------------------------------------------------------


PRUNE = Prune(objective="hidden", steps=1, learning_rate=1e-3)


@pytest.fixture
def ours(encoder, tmp_path):
    return stages.prune_one_shot(encoder, PRUNE, tmp_path / "ours")


def swap(folder):
    weights = load_file(folder / WEIGHTS)
    save_file({name: weight * 1.5 for name, weight in weights.items()}, folder / WEIGHTS, metadata={"format": "pt"})


def test_replaced_weights_are_not_taken_for_the_old_ones(ours, encoder, tmp_path):
    more = Prune(objective="hidden", steps=1, learning_rate=1e-3, sparsity=0.95)
    child = stages.prune_one_shot(ours, more, tmp_path / "child")
    swap(ours)
    reads = [load_encoder, inspect_model, check_weights, pruneonce.load, lambda folder: verify(child, folder)]
    reads += [lambda folder: stages.prune_one_shot(folder, more, tmp_path / "child")]
    reads += [lambda folder: stages.prune_one_shot(folder, more, tmp_path / "fresh")]
    reads += [lambda folder: stages.prune_one_shot(encoder, PRUNE, folder)]
    reads += [lambda folder: storage.pack([folder], tmp_path / "x.pruneonce")]
    for read in reads:
        with pytest.raises(UserError, match=r"the weights of \S+ours are not those that pruneonce wrote"):
            read(ours)
    (ours / "pruneonce.json").unlink()
    fresh = stages.prune_one_shot(ours, more, tmp_path / "fresh")
    keys = [json.loads((folder / "pruneonce.json").read_text())["key"] for folder in (child, fresh)]
    assert keys[0] != keys[1]


def test_a_folder_without_a_hash_is_taken_as_before(ours, tmp_path):
    record = json.loads((ours / "pruneonce.json").read_text())
    assert len(record.pop("sha256")) == 64
    (ours / "pruneonce.json").write_text(json.dumps(record))
    swap(ours)
    assert inspect_model(ours).provenance == record
    child = stages.prune_one_shot(ours, PRUNE, tmp_path / "child")
    assert json.loads((child / "pruneonce.json").read_text())["parents"] == [record["key"]]


EDITS = {
    "config.json": ("layer_norm_eps", 1e-3),
    "tokenizer.json": ("truncation", None),
    "tokenizer_config.json": ("do_lower_case", False),
    "modules.json": (0, {}),
    "sentence_bert_config.json": ("max_seq_length", 9),
    "1_Pooling/config.json": ("pooling_mode_cls_token", True),
}


def edit(folder, name, places=False):
    file = folder / name
    values = json.loads(file.read_text())
    key, value = ("_name_or_path", "/elsewhere") if places else EDITS[name]
    if isinstance(values, list):
        values[key] |= {"name": "other"}
    else:
        values[key] = value if value is not None else {"max_length": 5}
    file.write_text(json.dumps(values))


@pytest.fixture
def embedder(encoder, tmp_path):
    """A folder that pruneonce wrote, with the files of sentence-transformers."""
    source = shutil.copytree(encoder, tmp_path / "source")
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")]
    (source / "modules.json").write_text(
        json.dumps([{"idx": i, "name": str(i), "path": p, "type": f"x.{t}"} for i, (t, p) in enumerate(modules)])
    )
    (source / "sentence_bert_config.json").write_text('{"max_seq_length": 16}')
    (source / "1_Pooling").mkdir()
    (source / "1_Pooling" / "config.json").write_text('{"word_embedding_dimension": 32}')
    return stages.prune_one_shot(source, PRUNE, tmp_path / "ours")


@pytest.mark.parametrize("name", EDITS)
def test_edited_settings_make_another_model(name, embedder, encoder, tmp_path):
    recorded = json.loads((embedder / "pruneonce.json").read_text())
    assert name in recorded["configuration"]
    more = Prune(objective="hidden", steps=1, learning_rate=1e-3, sparsity=0.95)
    stages.prune_one_shot(embedder, more, tmp_path / "child")
    edit(embedder, name)
    assert content_key(embedder) != recorded["key"]
    with pytest.raises(UserError, match="already holds something else"):
        stages.prune_one_shot(embedder, more, tmp_path / "child")
    with pytest.raises(UserError, match=rf"{name} of \S+ours is not as pruneonce wrote it; put back what was there"):
        stages.prune_one_shot(tmp_path / "source", PRUNE, embedder)
    storage.pack([embedder], tmp_path / "x.pruneonce", "fp32")
    (back,) = storage.unpack(tmp_path / "x.pruneonce", tmp_path / "back")
    assert content_key(back) == content_key(embedder)


def test_what_changes_no_number_makes_no_other_model(embedder):
    key = content_key(embedder)
    edit(embedder, "config.json", places=True)
    (embedder / "notes.json").write_text("{}")
    (embedder / "README.md").write_text("mine")
    assert content_key(embedder) == key


def test_settings_of_earlier_versions_are_taken_as_before(embedder):
    record = json.loads((embedder / "pruneonce.json").read_text())
    del record["configuration"]
    (embedder / "pruneonce.json").write_text(json.dumps(record))
    edit(embedder, "config.json")
    assert content_key(embedder) == record["key"]


@pytest.mark.parametrize("file", ["vocab.txt", "1_Pooling/config.json"])
def test_files_of_a_foreign_model_that_its_key_does_not_cover(file, encoder, tmp_path):
    """Finished stages keep their keys, and know these files by a key of their own."""
    source = shutil.copytree(encoder, tmp_path / "source", ignore=shutil.ignore_patterns("tokenizer*"))
    (source / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS]))
    (source / "1_Pooling").mkdir()
    (source / "1_Pooling" / "config.json").write_text("{}")
    key, before = content_key(source), rest_key(source)
    made = stages.prune_one_shot(source, PRUNE, tmp_path / "made")
    assert stages.prune_one_shot(source, PRUNE, made) == made
    (source / file).write_text("\n".join([*SPECIAL, *reversed(WORDS)]))
    assert (content_key(source), rest_key(source)) != (key, before)
    with pytest.raises(UserError, match="made already holds something else"):
        stages.prune_one_shot(source, PRUNE, made)
    record = json.loads((made / "pruneonce.json").read_text())
    assert record.pop("rest") == before
    (made / "pruneonce.json").write_text(json.dumps(record))  # as an earlier version wrote it
    assert stages.prune_one_shot(source, PRUNE, made) == made


@pytest.mark.parametrize("values", ["fp32", "int8"])
def test_a_packed_model_keeps_its_identity(values, ours, tmp_path):
    storage.pack([ours], tmp_path / "x.pruneonce", values)
    (back,) = storage.unpack(tmp_path / "x.pruneonce", tmp_path / "back")
    before, after = (json.loads((folder / "pruneonce.json").read_text()) for folder in (ours, back))
    assert (before["sha256"] == after["sha256"]) == (values == "fp32")
    assert inspect_model(back).provenance == after
    swap(back)
    with pytest.raises(UserError, match="are not those that pruneonce wrote"):
        load_encoder(back)


def test_the_hash_is_of_the_tensors_not_of_the_file(ours):
    weights = load_file(ours / WEIGHTS)
    (ours / WEIGHTS).unlink()
    save_file(dict(reversed(weights.items())), ours / WEIGHTS, metadata={"other": "metadata"})
    assert inspect_model(ours).provenance
    AutoModel.from_pretrained(ours).save_pretrained(ours / "shards", max_shard_size="20KB")
    (ours / WEIGHTS).unlink()
    for file in (ours / "shards").glob("model*"):
        shutil.move(file, ours / file.name)
    assert len(list(ours.glob("*.safetensors"))) > 1
    assert inspect_model(ours).provenance


def test_a_card_without_source_is_shown(ours, capsys):
    record = json.loads((ours / "pruneonce.json").read_text())
    (ours / "pruneonce.json").write_text(json.dumps({"key": record["key"]}))
    assert main(["inspect", str(ours)]) == 0
    assert "unknown from unknown" in capsys.readouterr().out


# -- tokenizer, predictions -------------------------------------------------------------------------------------


def test_a_tokenizer_with_more_tokens_than_the_table_is_refused(encoder, tmp_path):
    folder = shutil.copytree(encoder, tmp_path / "model")
    larger = make_tokenizer()
    larger.add_tokens(["beyond"])
    larger.save_pretrained(folder)
    with pytest.raises(UserError, match=r"has 54 tokens, and its model a table of 53: no vector for 'beyond'"):
        load_tokenizer(folder)


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "electra", "mpnet", "roberta"])
def test_a_folder_without_a_vocabulary_is_refused(architecture, tokenizer, tmp_path):
    folder = make_model(tmp_path / "model", tokenizer, architecture)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UserError, match=r"has no vocabulary: its tokenizer knows no word"):
        load_tokenizer(folder)


def test_nan_is_no_class(models, task_files, tmp_path, monkeypatch, capsys):
    dense, _ = models

    def broken(weights):
        weights["bert.embeddings.word_embeddings.weight"].fill_(3e38)
        return weights

    folder = rewrite(dense, tmp_path / "model", broken)
    (folder / "pruneonce.json").unlink()
    (tmp_path / "row.jsonl").write_text((task_files / "dev.jsonl").read_text())
    code = main(["evaluate", str(folder), "--test", str(tmp_path / "row.jsonl")])
    assert code == 2
    assert "the model gives nan" in capsys.readouterr().err


# -- no other way in --------------------------------------------------------------------------------------------


# Who calls what reads weights, and why that is not a model from outside.
ALLOWED = {
    ("models/loading.py", "from_pretrained"): "the door",
    ("models/loading.py", "safe_open"): "the door",
    ("models/source.py", "safe_open"): "the door, without PyTorch",
    ("models/convert.py", "safe_open"): "other libraries' files, whose tensors go through the door",
    ("models/unpickling.py", "load"): "the one reader of pickles, a process of its own with limits",
    ("models/grid.py", "safe_open"): "scales beside the weights",
    ("models/grid.py", "load_file"): "scales beside the weights",
    ("quantization/codebooks.py", "safe_open"): "codes beside the weights",
    ("quantization/codebooks.py", "load_file"): "codes beside the weights",
    ("quantization/iterative.py", "load_file"): "a checkpoint of ours, hashed",
    ("methods/block_lasso/block_lasso.py", "load_file"): "a checkpoint of ours, hashed",
    ("sparsity/masks.py", "safe_open"): "masks of a checkpoint of ours, hashed",
    ("training/sparsifier.py", "load_file"): "a checkpoint of ours, hashed",
    ("training/trainer.py", "load_file"): "a checkpoint of ours, hashed",
    ("storage/container.py", "safe_open"): "a packed file, whose members go through the door",
    ("storage/source.py", "safe_open"): "tensors of all types to pack, compared with the outline of the door",
}
READERS = {"load_file", "safe_open", "load_model", "load", "deserialize"}


def test_no_source_reads_weights_past_the_door():
    found = set()
    for file in SOURCES:
        tree = ast.parse(file.read_text())
        place = file.relative_to(PACKAGE)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("safetensors"):
                names = {alias.name for alias in node.names} & READERS
                found |= {(place.as_posix(), name) for name in names}
            if isinstance(node, ast.Attribute) and node.attr == "from_pretrained":
                found.add((place.as_posix(), node.attr))
            if isinstance(node, ast.Attribute) and ast.unparse(node).startswith(("safetensors.", "torch.load")):
                found.add((place.as_posix(), node.attr))
    assert found == ALLOWED.keys()


def test_loading_does_not_change_the_prunable_weights(encoder):
    assert prunable_weights(load_encoder(encoder)).keys() == prunable_weights(AutoModel.from_pretrained(encoder)).keys()
