"""`pruneonce push`, against a stand-in of the hub."""

import json

import pytest
from huggingface_hub import ModelCard, constants
from shared.models import make_model

from pruneonce import cli, stages
from pruneonce.models import content_key
from pruneonce.models.card import is_unedited, write_card
from pruneonce.recipe import Prune


@pytest.fixture
def folder(tokenizer, tmp_path):
    """A sparse model, made from a folder with an absolute path, with traces of training beside it."""
    encoder = make_model(tmp_path / "encoder", tokenizer)
    (encoder / "README.md").write_text("---\nlicense: mit\nlanguage: en\n---\n")
    made = stages.prune_one_shot(encoder, Prune(steps=1, learning_rate=1, sparsity=0.5), tmp_path / "sparse")
    for name in ("checkpoints/checkpoint-1/optimizer.pt", "tensorboard/events.out.tfevents.1", "x.partial/a.json"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text("{}")
    config = json.loads((made / "config.json").read_text())
    (made / "config.json").write_text(json.dumps({**config, "_name_or_path": str(encoder)}))
    return made


def test_what_arrives(hub, folder, tmp_path, capsys):
    key = content_key(folder)
    assert cli.main(["push", str(folder), "me/small", "--private"]) == 0, capsys.readouterr().err
    repository = hub.repositories["me/small"]
    assert repository["private"]
    files = repository["files"]
    assert set(files) == {
        "README.md",
        "config.json",
        "metrics.json",
        "model.safetensors",
        "pruneonce.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert not [name for name, content in files.items() if str(tmp_path).encode() in content]
    provenance = json.loads(files["pruneonce.json"])
    assert (provenance["source"], provenance["key"]) == ("encoder", key)
    assert json.loads(files["config.json"])["_name_or_path"] == "encoder"
    assert str(tmp_path) in (folder / "pruneonce.json").read_text(), "the folder itself keeps its source"
    card = ModelCard(files["README.md"].decode())
    assert (card.data.license, card.data.language) == ("mit", "en")
    assert 'from_pretrained("me/small")' in card.content
    assert "pushed 7 files" in capsys.readouterr().out


def test_pushed_again_an_edited_card_stays(hub, folder):
    write_card(folder)
    edited = (folder / "README.md").read_text().replace("# sparse", "# My encoder")
    (folder / "README.md").write_text(edited)
    for _ in range(2):
        assert cli.main(["push", str(folder), "me/small"]) == 0
    assert hub.repositories["me/small"]["files"]["README.md"].decode() == edited
    assert not is_unedited(edited)


def test_a_dry_run_sends_nothing(hub, folder, capsys):
    card = (folder / "README.md").read_text()
    assert cli.main(["push", str(folder), "me/small", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert hub.repositories == {}
    assert f"{(folder / 'model.safetensors').stat().st_size:,}  model.safetensors\n" in said
    assert "pruneonce.json  (local paths shortened: source)" in said
    assert "7 files" in said
    assert "checkpoint" not in said
    assert (folder / "README.md").read_text() == card


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda hub, patch: patch.setattr(hub, "status", 403), "the token may not write to me/small"),
        (lambda hub, patch: patch.setenv("HF_TOKEN", "hf_wrong"), "the hub does not know the token"),
        (lambda hub, patch: patch.setattr("pruneonce.models.push.get_token", lambda: None), "run `hf auth login`"),
        (lambda hub, patch: patch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9"), "cannot reach http://127.0"),
        (lambda hub, patch: patch.setattr(constants, "HF_HUB_OFFLINE", True), "HF_HUB_OFFLINE is set"),
    ],
    ids=["no rights", "wrong token", "no token", "no network", "offline"],
)
def test_refusals_are_one_line(change, line, hub, folder, monkeypatch, capsys):
    change(hub, monkeypatch)
    assert cli.main(["push", str(folder), "me/small"]) == 2
    error = capsys.readouterr().err.strip()
    assert line in error
    assert "\n" not in error
    assert hub.repositories == {}


def test_folders_that_are_not_pushed(hub, folder, tokenizer, tmp_path, capsys):
    def refusal(path, repo="me/small"):
        assert cli.main(["push", str(path), repo]) == 2
        return capsys.readouterr().err

    assert "USER/NAME" in refusal(folder, "small")
    assert "no model folder" in refusal(tmp_path / "nothing")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "pruneonce.json").write_text('{"stage": "export", "source": "x", "parents": ["other"]}')
    assert "exported from another model" in refusal(folder)
    (folder / "onnx" / "pruneonce.json").unlink()
    (folder / "README.md").write_text(f"Made from {tmp_path}/encoder.")
    assert "names a path of this machine" in refusal(folder)
    (folder / "README.md").unlink()
    for name in ("notes.txt", "results.csv", "examples.jsonl", "run.sh"):
        (folder / name).write_text("read from /home/me/data")
        assert f"{name} names a path of this machine, /home/me/data: take it out" in refusal(folder)
        (folder / name).unlink()
    assert "is unfinished" in refusal(folder.rename(tmp_path / "sparse.partial"))
    assert hub.repositories == {}
