"""Model cards: metadata that the hub takes, and code that runs."""

import json
import re
import shutil

import pytest
import yaml
from huggingface_hub import ModelCard
from shared.clients import bert_tokenizer, make_embedder

from pruneonce import stages
from pruneonce.config.openvino import SPARSE
from pruneonce.models import card as cards
from pruneonce.models.card import card_of, is_unedited, refresh_card
from pruneonce.models.clients import Usage, usage_blocks
from pruneonce.recipe import Prune

# https://github.com/huggingface/hub-docs/blob/main/modelcard.md
FIELDS = {
    "base_model",
    "base_model_relation",
    "datasets",
    "language",
    "library_name",
    "license",
    "metrics",
    "model-index",
    "pipeline_tag",
    "tags",
}
RECIPE = {"corpus": {"source": "someone/text"}, "tasks": {"news": {"kind": "classification", "source": "someone/news"}}}


def metadata(text):
    return yaml.safe_load(text.split("---\n")[1])


@pytest.fixture(scope="module")
def run_folder(models, tmp_path_factory):
    """A sparse task model, where a run puts it."""
    run = tmp_path_factory.mktemp("run")
    shutil.copytree(models[1], run / "tasks" / "news" / "sparse")
    (run / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    (run / "tasks" / "news" / "sparse.json").write_text(
        json.dumps({"dev": {"accuracy": 0.75, "f1": 0.5, "examples": 400}})
    )
    return run


def test_metadata_is_as_the_hub_documents_it(run_folder):
    text = card_of(run_folder / "tasks" / "news" / "sparse", "me/news")
    data = metadata(text)
    assert set(data) <= FIELDS
    assert data["pipeline_tag"] == "text-classification"
    assert data["library_name"] == "transformers"
    assert data["tags"] == ["pruneonce", "sparse"]
    assert data["datasets"] == ["someone/text", "someone/news"]
    assert data["metrics"] == ["accuracy", "f1"]
    (index,) = data["model-index"]
    assert index["name"] == "news"
    (result,) = index["results"]
    assert result["task"] == {"type": "text-classification"}
    assert result["dataset"] == {"type": "someone/news", "name": "news", "split": "dev"}
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == {"accuracy": 0.75, "f1": 0.5}
    again = ModelCard(text).data
    assert {(one.metric_type, one.metric_value) for one in again.eval_results} == {("accuracy", 0.75), ("f1", 0.5)}
    assert yaml.safe_load(again.to_yaml()) == data, "read and written by the hub's library, nothing is lost"
    assert "| news | dev | accuracy | 0.75 |" in text
    assert "| news | dev | examples | 400 |" in text, "in the text, and no metric of the metadata"
    assert re.search(r"^\| transfer \| .*epochs 6, batch_size 8, learning_rate 0.003", text, re.M)


def test_numbers_of_the_card_are_those_of_the_folder(models):
    recorded = json.loads((models[1] / "pruneonce.json").read_text())["sparsity"]["encoder"]
    assert f"{100 * recorded:.1f} % of the encoder's Linear weights are zero" in card_of(models[1])
    assert (models[1] / "README.md").read_text() == card_of(models[1]), "as the stage wrote it"


def test_the_base_model_is_that_of_the_first_stage(encoder, tmp_path, monkeypatch):
    """An ancestor is followed while its key is the recorded one."""
    first = stages.prune_one_shot(encoder, Prune(steps=1, learning_rate=1, sparsity=0.5), tmp_path / "first")
    second = stages.prune_one_shot(first, Prune(steps=1, learning_rate=1, sparsity=0.8), tmp_path / "second")
    assert "base_model" not in metadata(card_of(second))
    record = json.loads((first / "pruneonce.json").read_text())
    record |= {"source": "someone/base", "parents": ["hub:someone/base"]}
    (first / "pruneonce.json").write_text(json.dumps(record))
    (tmp_path / "original.md").write_text("---\nlicense: apache-2.0\n---\n")
    monkeypatch.setattr(cards, "try_to_load_from_cache", lambda *_: str(tmp_path / "original.md"))
    data = metadata(card_of(second))
    assert (data["base_model"], data["base_model_relation"]) == ("someone/base", "finetune")
    assert data["license"] == "apache-2.0"
    (second / "README.md").write_text(card_of(second))
    (first / "pruneonce.json").write_text(json.dumps(record | {"key": "another"}))
    assert metadata(card_of(second))["base_model"] == "someone/base", "known from the card before"
    (second / "README.md").unlink()
    assert "base_model" not in metadata(card_of(second))


def test_the_code_of_the_card_runs(tmp_path, monkeypatch):
    embedder = make_embedder(tmp_path / "embedder", bert_tokenizer(tmp_path))
    monkeypatch.chdir(tmp_path)
    refresh_card(embedder)
    text = (embedder / "README.md").read_text()
    data = metadata(text)
    assert (data["library_name"], data["pipeline_tag"]) == ("sentence-transformers", "sentence-similarity")
    assert "int8" in data["tags"]
    assert "activations in fp32" in text
    assert "are zero" not in text, "no number that nobody recorded"
    plain, sentences = re.findall(r"```python\n(.*?)```", text, re.S)
    variables = {}
    exec(plain, variables)
    assert variables["output"].last_hidden_state.shape[-1] == 32
    exec(sentences, variables)
    assert variables["values"].shape == (2, 32)


@pytest.mark.parametrize(
    ("weights", "sparsity", "files", "is_said"),
    [
        ("int8", 0.9, {"openvino/openvino_model.xml"}, True),
        ("int8", 0.9, {"openvino_model.xml"}, True),
        ("int8", 0.5, {"openvino/openvino_model.xml"}, False),
        ("int8", None, {"openvino/openvino_model.xml"}, False),
        ("fp32", 0.9, {"openvino/openvino_model.xml"}, False),
        ("int8", 0.9, {"onnx/model.onnx"}, False),
    ],
)
def test_the_property_for_zeros_is_stated_where_openvino_has_a_kernel(weights, sparsity, files, is_said):
    usage = Usage("me/x", "BertForTokenClassification", False, False, None, False, weights, sparsity, frozenset(files))
    text = "\n".join(usage_blocks(usage))
    assert (f"`{json.dumps(SPARSE)}` is set" in text) == is_said
    assert ("layers with 70 % of zeros" in text) == is_said


def test_the_card_of_a_sparse_int8_export_states_the_property(tmp_path):
    embedder = make_embedder(tmp_path / "embedder", bert_tokenizer(tmp_path))
    (embedder / "openvino").mkdir()
    (embedder / "openvino" / "openvino_model.xml").touch()
    assert "CPU_SPARSE" not in card_of(embedder)
    record = {"sparsity": {"encoder": 0.9}, "settings": {}, "weights": "int8"}
    (embedder / "pruneonce.json").write_text(json.dumps(record))
    assert "CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE" in card_of(embedder)


def test_an_edited_card_is_known(models):
    text = card_of(models[1])
    assert is_unedited(text)
    assert not is_unedited(text.replace("encoder", "model"))
    assert not is_unedited(text + "more")
    assert not is_unedited("mine")
