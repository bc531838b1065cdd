"""Model files read without PyTorch say the same as the model that transformers makes of them."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from shared.models import CONFIGS, make_model
from transformers import AutoModelForSequenceClassification

from pruneonce import UserError, console, stages
from pruneonce.data.readers import hub_faults
from pruneonce.models import load_as_saved, load_encoder
from pruneonce.models.architectures import prunable_names, prunable_weights
from pruneonce.models.source import hub_reason, must_exist, read_config, stored_weights
from pruneonce.recipe import Prune
from pruneonce.sparsity import inspect_model, inspect_module, verify


def zeroed(folder, share=0.6):
    """The folder with small weights of its matrices set to zero."""
    weights = load_file(folder / "model.safetensors")
    for weight in weights.values():
        if weight.ndim == 2:
            weight[weight.abs() < weight.abs().quantile(share)] = 0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("head", [False, True], ids=["encoder", "mlm"])
@pytest.mark.parametrize("architecture", CONFIGS)
def test_the_same_weights_in_the_same_order(architecture, head, tokenizer, tmp_path):
    folder = make_model(tmp_path / "model", tokenizer, architecture, head)
    expected = prunable_weights(load_encoder(folder))
    stored = stored_weights(folder)
    matrices = [name for name, weight in stored.items() if len(weight.shape) == 2]
    names = prunable_names(read_config(folder)["model_type"], matrices)
    assert list(names) == list(expected)
    for short, name in names.items():
        assert torch.equal(torch.from_numpy(stored[name].read()), expected[short])


@pytest.mark.parametrize("head", [False, True], ids=["encoder", "mlm"])
@pytest.mark.parametrize("architecture", CONFIGS)
def test_an_inspection_of_files_is_that_of_the_model(architecture, head, tokenizer, tmp_path):
    folder = zeroed(make_model(tmp_path / "model", tokenizer, architecture, head))
    found, expected = inspect_model(folder), inspect_module(load_as_saved(folder))
    for name in ("layers", "encoder", "model", "parameters", "pattern"):
        assert getattr(found, name) == getattr(expected, name), name
    assert 0.3 < found.encoder < 0.9


def test_an_inspection_counts_the_head(encoder, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(encoder)
    model.save_pretrained(tmp_path / "task")
    found = inspect_model(tmp_path / "task")
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert [layer.name for layer in found.layers] == [layer.name for layer in inspect_model(encoder).layers]


def test_an_inspection_of_a_hub_id_has_its_provenance(encoder, tmp_path, monkeypatch):
    """What `push` published is known again as ours; an encoder without provenance is from elsewhere."""
    made = stages.prune_one_shot(encoder, Prune(steps=1, learning_rate=1, sparsity=0.5), tmp_path / "made")

    def snapshot(name, allow_patterns):
        files = {file for pattern in allow_patterns for file in made.glob(pattern)}
        folder = tmp_path / name.replace("/", "--")
        folder.mkdir()
        for file in files:
            shutil.copyfile(file, folder / file.name)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert inspect_model("someone/sparse").provenance["stage"] == "prune-one-shot"
    (made / "pruneonce.json").unlink()
    monkeypatch.setattr("pruneonce.models.loading.check_weights", lambda *_: None)
    assert inspect_model("someone/other").provenance is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types(dtype, encoder, tmp_path):
    folder = zeroed(shutil.copytree(encoder, tmp_path / "model"))
    expected = inspect_model(folder)
    weights = {name: weight.to(dtype) for name, weight in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    found = inspect_model(folder)
    assert (found.pattern, found.encoder, found.parameters) == (expected.pattern, expected.encoder, expected.parameters)
    assert verify(folder, folder).ok


def test_several_files(encoder, tmp_path):
    load_encoder(encoder).save_pretrained(tmp_path / "model", max_shard_size="20KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    found, expected = inspect_model(tmp_path / "model"), inspect_model(encoder)
    assert (found.layers, found.pattern, found.parameters) == (expected.layers, expected.pattern, expected.parameters)


def damaged(folder, what):
    file = folder / "model.safetensors"
    if what == "cut off":
        file.write_bytes(file.read_bytes()[:-100])
    elif what == "missing":
        file.unlink()
    elif what == "other architecture":
        (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    elif what == "no layers":
        (folder / "config.json").write_text(json.dumps({"model_type": "modernbert"}))
    elif what == "endless":
        (folder / "config.json").write_text(json.dumps({"model_type": "bert", "num_hidden_layers": 10**9}))
    else:
        file.rename(folder.parent / "elsewhere.safetensors")
        index = {"weight_map": {"x": "../elsewhere.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("cut off", "cannot load a model from .*model.safetensors: "),
        ("missing", "it has no model.safetensors"),
        ("other architecture", "architecture 'gpt2' is not supported"),
        ("no layers", "no weights of an encoder's layers"),
        ("endless", "`num_hidden_layers` is 1000000000"),
        ("a file outside", "does not name the files of the weights"),
    ],
)
@pytest.mark.parametrize("look", [inspect_model, lambda folder: verify(folder, folder)], ids=["inspect", "verify"])
def test_damage_is_one_line(look, what, message, encoder, tmp_path):
    folder = shutil.copytree(encoder, tmp_path / "model")
    damaged(folder, what)
    with pytest.raises(UserError, match=message):
        look(folder)


@pytest.mark.parametrize(
    ("offline", "message"),
    [
        ("1", "no folder here has this name, and the Hugging Face hub is switched off by HF_HUB_OFFLINE; correct the"),
        (
            "0",
            "no folder here has this name, and the Hugging Face hub cannot be reached; correct the path, or go online",
        ),
    ],
)
def test_a_hub_that_gives_no_answer(offline, message, monkeypatch):
    from huggingface_hub.errors import LocalEntryNotFoundError

    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    errors = [LocalEntryNotFoundError("cannot find it"), OSError("We couldn't connect to 'https://...'.\nCheck it.")]
    errors += [type("ConnectError", (Exception,), {})("refused"), OSError("refused")]
    errors[-1].__cause__ = errors[-2]
    for error in errors:
        assert hub_reason(error).startswith(message)
    assert hub_reason(OSError("no such model\nlook again")) == "no such model"


def test_asking_the_hub_is_said_once(monkeypatch, capsys, tmp_path):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    console.asking_hub.cache_clear()
    must_exist("some/model")
    must_exist("some/model")
    assert capsys.readouterr().err == "asking the Hugging Face hub for some/model\n"
    console.asking_hub.cache_clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    must_exist("some/model")
    with hub_faults("some/data"):
        pass
    assert capsys.readouterr().err == ""
    console.asking_hub.cache_clear()
