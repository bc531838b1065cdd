"""Conversion of other libraries' model files: stand-ins with the names and files of published sparse encoders."""

import copy
import json
import re
import shlex
import shutil
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from shared.models import CONFIGS
from shared.scripts import ROOT
from transformers import BertForMaskedLM, BertForPreTraining, DistilBertForMaskedLM

from pruneonce import UserError, console, stages, storage
from pruneonce.cli import main
from pruneonce.models import convert as reader
from pruneonce.models import load_as_saved, load_encoder, read_provenance, unpickling
from pruneonce.models.architectures import prunable_weights
from pruneonce.models.convert import find
from pruneonce.sparsity import inspect_model, inspect_module, verify

FEW = {"epochs": 1, "learning_rate": 1e-3}
QUERY = "encoder.layer.0.attention.self.query.weight"


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    """Pickles are read here, which saves the seconds of a new process; test_unpickling.py starts one as users do."""

    def unpickled(file, folder):
        folder.mkdir()
        try:
            number = unpickling.write(unpickling.read(file), file.stat().st_size, folder)
        except unpickling.RefusedError as error:
            raise UserError(f"{file} {error}") from None
        return [folder / f"{index:05}.safetensors" for index in range(number)]

    monkeypatch.setattr(reader, "_unpickled", unpickled)


def pruned(model, share=0.8):
    """The model with small prunable weights set to zero."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in prunable_weights(model).values():
            weight[weight.abs() < weight.abs().quantile(share)] = 0
    return model


def foreign(folder, tokenizer, model, tensors, *, name="pytorch_model.bin"):
    """A folder as another library leaves it: configuration, tokenizer and a state dict."""
    folder.mkdir(parents=True)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if name.endswith(".safetensors"):
        save_file({key: tensor.clone() for key, tensor in tensors.items()}, folder / name)
    else:
        torch.save(tensors, folder / name)
    return folder


@pytest.fixture(scope="module")
def bert():
    torch.manual_seed(0)
    return pruned(BertForPreTraining(CONFIGS["bert"]))


def state(model):
    """The state dict with what older versions wrote besides: positions as buffers, the tied decoder."""
    tensors = OrderedDict(model.state_dict())
    tensors[f"{model.base_model_prefix}.embeddings.position_ids"] = torch.arange(128)[None]
    return tensors


def assert_same(folder, model, without=()):
    """The folder has the model, bit for bit, as its own class and with its zeros."""
    again, expected = load_as_saved(folder), model.state_dict()
    assert type(again) is type(model)
    found = again.state_dict()
    assert found.keys() == expected.keys() - set(without)
    assert all(torch.equal(found[name], expected[name]) for name in found)
    inspection = inspect_model(folder)
    assert inspection.layers == inspect_module(again).layers == inspect_module(model).layers
    assert inspection.encoder == pytest.approx(0.8, abs=0.01)


def test_a_pre_trained_bert_of_2021(bert, tokenizer, tmp_path, capsys):
    source = foreign(tmp_path / "source", tokenizer, bert, state(bert))
    made = stages.convert(source, str(tmp_path / "made"))
    assert made == tmp_path / "made"
    assert_same(made, bert)
    record = read_provenance(made)
    assert record["left_out"] == ["bert.embeddings.position_ids"]
    facts = f"80.0 % zeros; sha256 of the pattern `{record['pattern']}`"
    card = (made / "README.md").read_text()
    assert f"It was not made by pruneonce, converted from source: {facts}." in card
    assert "made by pruneonce (" not in card
    shown = capsys.readouterr().out
    assert "left out 1 tensors, which this model has no place for: bert.embeddings.position_ids" in shown
    assert {file.suffix for file in made.iterdir()} == {".json", ".safetensors", ".md"}
    assert stages.convert(source, tmp_path / "made") == made
    assert "already made" in capsys.readouterr().out


def test_without_safetensors_the_error_names_the_verb(bert, tokenizer, tmp_path):
    source = foreign(tmp_path / "source", tokenizer, bert, state(bert))
    for read in (load_encoder, inspect_model):
        with pytest.raises(
            UserError, match=f"only pytorch_model.bin; `pruneonce convert {source} DEST` makes a folder"
        ):
            read(source)


VERBS = {
    "inspect": "inspect {source}",
    "transfer": "transfer {source} --teacher {dense} {data} --output made",
    "finetune": "finetune {source} {data} --output made",
    "quantize": "quantize {source} --post-training {data} --output made",
    "verify": "verify {source} --against {dense}",
    "verify against it": "verify {dense} --against {source}",
    "pack": "pack {source} made.pruneonce",
    "export": "export {source} --output made",
    "benchmark": "benchmark {source}",
    "run": "run recipe.yaml --output made",
    "plan": "plan recipe.yaml",
    "a file": "inspect {source}/pytorch_model.bin",
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_names_the_remedy(verb, bert, tokenizer, models, task_files, tmp_path, monkeypatch, capsys):
    """The path stays whole in a narrow terminal, and with a space in it the command can be copied."""
    monkeypatch.setattr(console.errors, "width", 40)
    monkeypatch.chdir(tmp_path)
    source = foreign(tmp_path / "from somebody" / "encoder", tokenizer, bert, state(bert))
    data = {split: str(task_files / f"{split}.jsonl") for split in ("train", "dev")}
    recipe = {"name": "r", "model": str(models[0]), "sparse": str(source), "tasks": {"mood": data}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"teacher": FEW, "transfer": FEW}))
    options = shlex.join(["--train", data["train"], "--dev", data["dev"]])
    before = sorted(tmp_path.rglob("*"))
    line = VERBS[verb].format(source=shlex.quote(str(source)), dense=models[0], data=options)
    assert main(shlex.split(line)) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    given = source / "pytorch_model.bin" if verb == "a file" else source
    assert error.startswith(f"error: {given} ")
    assert f"`pruneonce convert '{given}' DEST` makes a folder of it" in error
    assert sorted(tmp_path.rglob("*")) == before


def test_a_vocabulary_head_of_bert_keeps_the_pooler(bert, tokenizer, tmp_path):
    """Its class has no place for the pooler and the second head, which the file has."""
    model = BertForMaskedLM(CONFIGS["bert"])
    source = foreign(tmp_path / "source", tokenizer, model, state(bert))
    made = stages.convert(source, tmp_path / "made")
    left_out = ["bert.embeddings.position_ids", "cls.seq_relationship.bias", "cls.seq_relationship.weight"]
    assert read_provenance(made)["left_out"] == left_out
    assert torch.equal(load_encoder(made).pooler.dense.weight, bert.bert.pooler.dense.weight)
    assert type(load_as_saved(made)) is BertForMaskedLM
    inspection = inspect_model(made)
    assert inspection.layers == inspect_module(bert).layers
    assert inspection.pattern == read_provenance(made)["pattern"]


def test_an_encoder_whose_configuration_names_a_head(bert, tokenizer, tmp_path, capsys):
    tensors = {name: tensor for name, tensor in bert.state_dict().items() if not name.startswith("cls.")}
    made = stages.convert(foreign(tmp_path / "source", tokenizer, bert, tensors), tmp_path / "made")
    assert "no head of BertForPreTraining, so the encoder alone is kept" in capsys.readouterr().out
    assert_same(made, bert.bert)


def test_a_distilbert(tokenizer, tmp_path):
    model = pruned(DistilBertForMaskedLM(CONFIGS["distilbert"]))
    made = stages.convert(foreign(tmp_path / "source", tokenizer, model, model.state_dict()), tmp_path / "made")
    assert "vocab_layer_norm.weight" in model.state_dict()
    assert read_provenance(made)["left_out"] == []
    assert_same(made, model)


def test_names_of_2019(bert, tokenizer, tmp_path):
    """`gamma` and `beta` of layer normalization."""
    tensors = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in state(bert).items()
    }
    assert_same(stages.convert(foreign(tmp_path / "source", tokenizer, bert, tensors), tmp_path / "made"), bert)


def test_several_files(bert, tokenizer, tmp_path):
    tensors = state(bert)
    source = foreign(tmp_path / "source", tokenizer, bert, {}, name="pytorch_model.bin")
    (source / "pytorch_model.bin").unlink()
    places = {name: f"pytorch_model-0000{number % 2 + 1}-of-00002.bin" for number, name in enumerate(tensors)}
    for file in set(places.values()):
        torch.save({name: tensors[name] for name in tensors if places[name] == file}, source / file)
    (source / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    assert_same(stages.convert(source, tmp_path / "made"), bert)
    (source / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"x": "../secret.bin"}}))
    with pytest.raises(UserError, match="does not name the files of the weights"):
        stages.convert(source, tmp_path / "other")


CHECKPOINTS = {
    "module.": lambda tensors: {f"module.{name}": tensor for name, tensor in tensors.items()},
    "_orig_mod.": lambda tensors: {f"_orig_mod.{name}": tensor for name, tensor in tensors.items()},
    "model_state_dict": lambda tensors: {"model_state_dict": tensors, "epoch": 3, "optimizer": {"state": {}}},
    "lightning": lambda tensors: {
        "state_dict": {**{f"model.{name}": value for name, value in tensors.items()}, "loss.weight": torch.ones(2)},
        "global_step": 7,
    },
    "half precision": lambda tensors: {name: tensor.half() for name, tensor in tensors.items()},
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_checkpoints_of_training_libraries(case, bert, tokenizer, tmp_path):
    about = foreign(tmp_path / "about", tokenizer, bert, {})
    file = tmp_path / "best.ckpt"
    torch.save(CHECKPOINTS[case](state(bert)), file)
    made = stages.convert(file, tmp_path / "made", config=about)
    assert_same(made, copy.deepcopy(bert).half().float() if case == "half precision" else bert)
    assert ("loss.weight" in read_provenance(made)["left_out"]) == (case == "lightning")


def test_safetensors_with_wrappers(bert, tokenizer, tmp_path):
    tensors = {f"module._orig_mod.{name}": tensor for name, tensor in state(bert).items()}
    source = foreign(tmp_path / "source", tokenizer, bert, tensors, name="model.safetensors")
    assert_same(stages.convert(source, tmp_path / "made"), bert)


# -- zeros that are not in the weights --------------------------------------------------------------------------


def masked(model, name, mask_name):
    """State of a model whose zeros are in masks alone, under the names that `name` and `mask_name` make."""
    tensors = {}
    weights = {f"bert.{short}" for short in prunable_weights(model)}
    for key, tensor in state(model).items():
        if key in weights:
            tensors[name(key)] = torch.where(tensor == 0, 1.0, tensor)
            tensors[mask_name(key)] = (tensor != 0).to(torch.uint8 if "layer.0" in key else torch.float32)
        else:
            tensors[key] = tensor
    return tensors


def operation(part):
    return lambda key: f"nncf_module.{key.removesuffix('weight')}pre_ops.0.op.{part}_binary_mask"


MASKS = {
    "torch": (lambda key: f"{key}_orig", lambda key: f"{key}_mask"),
    "NNCF, magnitude": (lambda key: f"nncf_module.{key}", operation("")),
    "NNCF, movement": (lambda key: f"nncf_module.{key}", operation("weight_ctx.")),
}


@pytest.mark.parametrize("case", MASKS)
def test_masks_are_applied(case, bert, tokenizer, tmp_path, capsys):
    tensors = masked(bert, *MASKS[case])
    scales = {f"nncf_module.bert.{QUERY.removesuffix('weight')}pre_ops.1.op.scale": torch.ones(1)}
    source = foreign(tmp_path / "source", tokenizer, bert, tensors | (scales if "NNCF" in case else {}))
    made = stages.convert(source, tmp_path / "made")
    assert_same(made, bert)
    assert read_provenance(made)["masks"] == len(prunable_weights(bert)) == 13
    assert f"applied {len(prunable_weights(bert))} masks" in capsys.readouterr().out
    assert read_provenance(made)["left_out"] == ["bert.embeddings.position_ids", *(scales if "NNCF" in case else [])]


BROKEN = {
    "a mask without its weight": ({f"bert.{QUERY}_mask": torch.ones(32, 32)}, "but no mask beside it"),
    "scores of movement pruning": (
        {"bert.encoder.layer.0.attention.self.query.mask_scores": torch.ones(32, 32)},
        "mask_scores, from which the zeros of a weight follow",
    ),
    "no mask": (
        {f"bert.{QUERY.removesuffix('weight')}pre_ops.0.op._binary_mask": torch.full((32, 32), 0.5)},
        "is no mask: it has numbers other than 0 and 1",
    ),
    "a mask of another shape": (
        {f"bert.{QUERY.removesuffix('weight')}pre_ops.0.op._binary_mask": torch.ones(32, 1)},
        "has another shape than",
    ),
    "a weight twice": ({f"module.bert.{QUERY}": torch.ones(32, 32)}, "has two tensors for"),
    "another shape": ({f"bert.{QUERY}": torch.ones(32, 31)}, r"of shape \[32, 31\], and config.json asks for"),
    "nan": ({f"bert.{QUERY}": torch.full((32, 32), float("nan"))}, "has infinite or undefined numbers"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_zeros_and_weights_that_are_not_known_are_refused(case, bert, tokenizer, tmp_path):
    more, message = BROKEN[case]
    source = foreign(tmp_path / "source", tokenizer, bert, {**state(bert), **more})
    with pytest.raises(UserError, match=message):
        stages.convert(source, tmp_path / "made")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def packed(tensor):
    """A tensor in compressed-tensors' bitmask format, by the description of it."""
    rows, columns = tensor.shape
    bits = np.packbits((tensor != 0).numpy(), axis=1, bitorder="little")
    assert bits.shape == (rows, -(-columns // 8))
    counts = (tensor != 0).sum(-1)
    return {
        "compressed": tensor[tensor != 0],
        "bitmask": torch.from_numpy(bits),
        "shape": torch.tensor([rows, columns]),
        "row_offsets": torch.cumsum(counts, 0) - counts,
    }


def bitmasked(folder, tokenizer, model, change=lambda parts: parts):
    tensors, prunable = {}, {f"bert.{name}" for name in prunable_weights(model)}
    for name, tensor in state(model).items():
        parts = change(packed(tensor)) if name in prunable else {"": tensor}
        tensors |= {f"{name}.{part}".removesuffix("."): value for part, value in parts.items()}
    source = foreign(folder, tokenizer, model, tensors, name="model.safetensors")
    config = json.loads((source / "config.json").read_text())
    zeros = {"format": "sparse-bitmask", "global_sparsity": 0.8, "targets": ["Linear"]}
    config["quantization_config"] = {"quant_method": "compressed-tensors", "sparsity_config": zeros}
    (source / "config.json").write_text(json.dumps(config))
    return source


def test_bitmasks_of_compressed_tensors(bert, tokenizer, tmp_path):
    source = bitmasked(tmp_path / "source", tokenizer, bert)
    made = stages.convert(source, tmp_path / "made")
    assert_same(made, bert)
    assert "quantization_config" not in json.loads((made / "config.json").read_text())
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"]["config_groups"] = {"group_0": {"weights": {"num_bits": 8}}}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="quantized by another library"):
        stages.convert(source, tmp_path / "other")


@pytest.mark.parametrize(
    "change",
    [
        lambda parts: parts | {"compressed": parts["compressed"][1:]},
        lambda parts: parts | {"bitmask": parts["bitmask"][1:]},
        lambda parts: parts | {"shape": torch.tensor([1 << 40, 1 << 40])},
        lambda parts: {part: parts[part] for part in ("compressed", "bitmask")},
    ],
    ids=["values", "bits", "shape", "no shape"],
)
def test_damaged_bitmasks(change, bert, tokenizer, tmp_path):
    source = bitmasked(tmp_path / "source", tokenizer, bert, change)
    with pytest.raises(UserError, match="is damaged: the bitmask of "):
        stages.convert(source, tmp_path / "made")


# -- what is read and written -----------------------------------------------------------------------------------


def test_nothing_is_overwritten(bert, tokenizer, tmp_path):
    source = foreign(tmp_path / "source", tokenizer, bert, state(bert))
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "mine").touch()
    with pytest.raises(UserError, match="already holds something else"):
        stages.convert(source, tmp_path / "made")
    assert [file.name for file in (tmp_path / "made").iterdir()] == ["mine"]
    assert not (tmp_path / "made.partial").exists()
    with pytest.raises(UserError, match="nothing to convert"):
        stages.convert(stages.convert(source, tmp_path / "other"), tmp_path / "third")


def test_sources_that_are_none(bert, tokenizer, tmp_path):
    with pytest.raises(UserError, match="no model folder at"):
        find(tmp_path / "none")
    source = foreign(tmp_path / "source", tokenizer, bert, state(bert))
    shutil.copyfile(source / "pytorch_model.bin", source / "other.pt")
    assert [file.name for file in find(source).files] == ["pytorch_model.bin"]
    (source / "pytorch_model.bin").rename(source / "epoch-1.pt")
    with pytest.raises(UserError, match=r"several files that could be the weights \(epoch-1.pt, other.pt\)"):
        find(source)
    assert [file.name for file in find(source / "other.pt").files] == ["other.pt"]
    (source / "other.pt").rename(source / "optimizer.pt")
    assert [file.name for file in find(source).files] == ["epoch-1.pt"]
    (source / "epoch-1.pt").unlink()
    with pytest.raises(UserError, match="has no weights"):
        find(source)
    shutil.move(source / "optimizer.pt", tmp_path / "alone.pt")
    with pytest.raises(UserError, match=r"has no config.json; .*--config FOLDER"):
        find(tmp_path / "alone.pt")
    (source / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"source has no tokenizer .*--config FOLDER"):
        stages.convert(tmp_path / "alone.pt", tmp_path / "made", config=source)


def test_of_the_hub_only_data_is_downloaded(bert, tokenizer, tmp_path, monkeypatch):
    """Pickles are asked for where there are no safetensors; code never is."""
    source = foreign(tmp_path / "hub", tokenizer, bert, state(bert))
    asked = []

    def snapshot(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(source)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    found = find("someone/sparse")
    assert (found.name, found.files, found.about) == ("someone/sparse", [source / "pytorch_model.bin"], source)
    data = ["*.json", "*.txt", "*.model", "*.safetensors"]
    assert asked == [("someone/sparse", data), ("someone/sparse", [*data, "pytorch_model*.bin"])]
    with pytest.raises(UserError, match=r"where it has pytorch_model.bin, `pruneonce convert someone/sparse DEST`"):
        load_encoder("someone/sparse")
    made = stages.convert("someone/sparse", tmp_path / "made")
    assert read_provenance(made)["parents"] == ["hub:someone/sparse"]
    card = (made / "README.md").read_text()
    assert "converted from [someone/sparse](https://huggingface.co/someone/sparse): 80.0 % zeros" in card
    assert "base_model: someone/sparse" in card


# -- from the folder to a task ----------------------------------------------------------------------------------


def test_the_commands_of_the_page(bert, encoder, tokenizer, task_files, hub, tmp_path, monkeypatch, capsys):
    """Each command of docs/published.md, in few steps; the other machine has what was pushed, and the packed file."""
    here, there = tmp_path / "here", tmp_path / "there"
    for place in (here, there):
        shutil.copytree(task_files, place)
    rows = (there / "train.jsonl").read_text().splitlines(keepends=True)
    (there / "train.jsonl").write_text("".join(reversed(rows)))
    foreign(here / "someone", tokenizer, bert, state(bert))
    page = (ROOT / "docs" / "published.md").read_text()
    begin, share, later = re.findall(r"^```\n(.*?)^```", page, re.M | re.S)

    def typed(block, **names):
        names = {
            "Intel/bert-base-uncased-sparse-85-unstructured-pruneofa": "someone",
            "bert-base-uncased": str(encoder),
            **names,
        }
        for line in block.splitlines():
            program, *arguments = [names.get(word, word) for word in shlex.split(line)]
            assert program == "pruneonce"
            few = ["--set", "epochs=null", "--set", "steps=2"] if "--train" in arguments else []
            assert main([*arguments, *few]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    monkeypatch.chdir(here)
    shown = typed(begin)
    assert "made sparse: 80.0 % of the encoder's Linear weights are zero" in shown
    assert "next: pruneonce transfer sparse --teacher dense" in shown
    assert "zeros of sparse are zeros in task" in shown
    assert "files, " in typed(share, **{"USER/NAME": "me/sparse"})
    published = hub.repositories["me/sparse"]["files"]
    assert b"It was not made by pruneonce, converted from someone: 80.0 % zeros; sha256 of" in published["README.md"]

    monkeypatch.chdir(there)
    (there / "me").mkdir()
    for name, content in published.items():
        (there / "me" / name).write_bytes(content)
    shutil.copyfile(here / "task.pruneonce", there / "task.pruneonce")
    assert "zeros of me are zeros in task" in typed(later, **{"USER/NAME": "me"})
    assert "Its sparse encoder was not made by pruneonce, converted from someone" in Path("task/README.md").read_text()
    storage.unpack("task.pruneonce", "before")
    storage.unpack("family.pruneonce", "family")
    assert {folder.name for folder in Path("family").iterdir()} == {"task", "other"}
    before, after = (Path(folder, "model.safetensors").read_bytes() for folder in ("before", "family/task"))
    assert before == after
    assert verify("family/other", "me").ok
