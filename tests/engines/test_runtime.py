"""The engine `pruneonce`: every architecture and head gives what PyTorch gives, whatever the batch and its padding."""

import json
import shutil
from functools import cache

import numpy as np
import pytest
import torch
from shared.exports import GRIDS, agrees, inputs, task_model
from shared.models import CONFIGS, make_tokenizer
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from pruneonce import quantization, storage
from pruneonce.cli import main
from pruneonce.engines import engine_of, open_engine
from pruneonce.errors import UserError
from pruneonce.models import load_as_saved, load_tokenizer

pytest.importorskip("pruneonce_runtime", reason="pruneonce-runtime is not installed: pip install ./runtime")

HEADS = {
    "encoder": AutoModel,
    "sequence": AutoModelForSequenceClassification,
    "tokens": AutoModelForTokenClassification,
    "answers": AutoModelForQuestionAnswering,
}
WITH_TYPES = ("input_ids", "token_type_ids", "attention_mask")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Makes a tiny model folder, once."""

    @cache
    def make(architecture="bert", head="sequence", grid="int8", names=("input_ids", "attention_mask")):
        tokenizer = make_tokenizer(model_input_names=list(names))
        return task_model(tmp_path_factory.mktemp("models") / head, architecture, tokenizer, grid, HEADS[head])

    return make


def in_torch(folder):
    model = (quantization.load if quantization.is_quantized(folder) else load_as_saved)(folder).eval()
    if hasattr(model, "pooler"):
        model.pooler = None  # of a bare encoder; the runtime leaves it out
    return model


def padded(texts, places, width):
    """A batch of `texts` [tokens], each from its place on; [PAD] is token 0."""
    batch = {name: np.zeros((len(texts), width), np.int64) for name in ("input_ids", "attention_mask")}
    for row, (text, start) in enumerate(zip(texts, places, strict=True)):
        batch["input_ids"][row, start : start + len(text)] = text
        batch["attention_mask"][row, start : start + len(text)] = 1
    return batch


@pytest.mark.parametrize(
    ("architecture", "head", "grid"),
    [
        *((architecture, head, "int8") for architecture in CONFIGS for head in HEADS),
        *(("bert", "sequence", grid) for grid in GRIDS if grid != "int8"),
    ],
)
def test_it_agrees_with_torch(architecture, head, grid, model):
    """Within the bounds of the other engines."""
    folder = model(architecture, head, grid)
    most = 1e-5 if grid in ("fp32", "int4") else 0.1
    agrees(open_engine(folder, "pruneonce"), in_torch(folder), 1e-4, most, padding=False)


def test_token_types_count(model):
    folder = model(names=WITH_TYPES)
    opened = open_engine(folder, "pruneonce")
    assert set(opened.inputs) == set(open_engine(folder, "torch").inputs) == set(WITH_TYPES)
    agrees(opened, in_torch(folder), 1e-4, 0.1)
    batch = inputs(2, 8, WITH_TYPES)
    others = {**batch, "token_type_ids": torch.zeros_like(batch["input_ids"])}
    assert not np.array_equal(opened(batch)["logits"], opened(others)["logits"])


@pytest.mark.parametrize("head", HEADS)
def test_neither_padding_nor_neighbours_change_a_bit(head, model):
    opened = open_engine(model("modernbert", head), "pruneonce")
    texts = [np.arange(10, 10 + length) for length in (6, 1, 12)]
    places = [4, 11, 0]  # padding on both sides, on the left, none
    together = opened(padded(texts, places, 12))
    for row, (text, start) in enumerate(zip(texts, places, strict=True)):
        alone = opened(padded([text], [0], len(text)))
        assert alone.keys() == together.keys()
        for name, expected in alone.items():
            found = together[name][row]
            if head != "sequence":
                assert not np.delete(found, np.s_[start : start + len(text)], axis=0).any()
                found = found[start : start + len(text)]
            np.testing.assert_array_equal(found, expected[0])


@pytest.mark.parametrize(
    ("head", "shapes"),
    [
        ("encoder", {"last_hidden_state": (0, 8, 32)}),
        ("sequence", {"logits": (0, 2)}),
        ("tokens", {"logits": (0, 8, 2)}),
        ("answers", {"start_logits": (0, 8), "end_logits": (0, 8)}),
    ],
)
def test_a_batch_of_no_texts(head, shapes, model):
    found = open_engine(model(head=head), "pruneonce")(padded([], [], 8))
    assert {name: value.shape for name, value in found.items()} == shapes


def test_mistakes_in_a_batch_are_one_line(model):
    opened = open_engine(model(), "pruneonce")
    with pytest.raises(UserError, match=r"pruneonce-runtime cannot run \S+: offsets have to begin with 0, rise.*$"):
        opened(padded([[7], []], [0, 0], 3))
    with pytest.raises(UserError, match=r"pruneonce-runtime cannot run \S+: a token id is not one of .*$"):
        opened(padded([[9_999]], [0], 3))
    with pytest.raises(UserError, match=r"pruneonce-runtime cannot run \S+: a text of 129 tokens; .* 128 at most$"):
        opened(padded([[7] * 129], [0], 129))


def test_threads(model):
    batch = inputs(8, 100)
    usual = torch.get_num_threads()
    alone, three = (open_engine(model(), "pruneonce", threads) for threads in (None, 3))
    assert (alone.threads, three.threads, torch.get_num_threads()) == (usual, 3, usual)
    np.testing.assert_array_equal(alone(batch)["logits"], three(batch)["logits"])


def test_packed_files_and_members_of_families(model, tmp_path):
    """What `pack` does not round is the model of the folder, bit for bit; of a family, each member."""
    one, two = (shutil.copytree(model(grid=grid), tmp_path / grid) for grid in ("int8", "fp32"))
    storage.pack([one], tmp_path / "one.pruneonce", "fp32")
    family = tmp_path / "family.pruneonce"
    storage.pack([one, two], family, "fp32")
    batch = inputs(4, 20)
    found = {place: open_engine(place, "pruneonce")(batch)["logits"] for place in (family / "int8", family / "fp32")}
    for place, folder in ((tmp_path / "one.pruneonce", one), (family / "int8", one), (family / "fp32", two)):
        assert engine_of(place) == "pruneonce"
        expected = open_engine(folder, "pruneonce")(batch)["logits"]
        np.testing.assert_array_equal(open_engine(place, "pruneonce")(batch)["logits"], expected)
    assert not np.array_equal(*found.values())
    with pytest.raises(UserError, match=r"holds several models; name one of them: \S+/int8, \S+/fp32$"):
        open_engine(family, "pruneonce")
    with pytest.raises(UserError, match=r"has no member 'int2'; it holds int8, fp32$"):
        open_engine(family / "int2", "pruneonce")


def test_evaluate_measures_packed_files(models, task, tmp_path, capsys):
    """By the verb, which takes kind and labels of what is packed."""
    dense, sparse = models
    storage.pack([dense, sparse], tmp_path / "family.pruneonce", "fp32")
    expected = {}
    for name, folder in (("dense", dense), ("sparse", sparse)):
        for place in (folder, tmp_path / "family.pruneonce" / name):
            assert main(["evaluate", str(place), "--test", task.test, "--json"]) == 0
            measured = json.loads(capsys.readouterr().out)["test"]
            assert measured == expected.setdefault(name, measured)
    assert expected["dense"]["accuracy"] > 0.7, "it has learned something to lose"
    assert expected["dense"] != expected["sparse"]
    assert main(["evaluate", str(tmp_path / "family.pruneonce"), "--test", task.test]) == 2
    assert "name one of them" in capsys.readouterr().err


def test_a_damaged_file_is_refused(model, tmp_path):
    storage.pack([model()], tmp_path / "m.pruneonce", "fp32")
    content = bytearray((tmp_path / "m.pruneonce").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "m.pruneonce").write_bytes(content)
    with pytest.raises(UserError, match=r"pruneonce-runtime cannot open \S+m\.pruneonce: .* damaged: [^\n]*$"):
        open_engine(tmp_path / "m.pruneonce", "pruneonce")


def test_a_model_on_the_hub(model, monkeypatch):
    """It is saved as a folder first."""
    folder, batch = model(grid="fp32"), inputs(3, 9)
    monkeypatch.setattr("pruneonce.models.load_as_saved", lambda source: load_as_saved(folder))
    monkeypatch.setattr("pruneonce.models.load_tokenizer", lambda source: load_tokenizer(folder))
    monkeypatch.setattr("pruneonce.models.copy_sentence_transformer", lambda source, output, type: None)
    found, expected = (open_engine(place, "pruneonce")(batch)["logits"] for place in ("somebody/model", folder))
    np.testing.assert_array_equal(found, expected)
