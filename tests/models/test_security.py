"""What the threat model (docs/threat-model.md) promises: no code, no pickle, no path out, no network, no secrets."""

import json
import re
import shutil
import socket
from pathlib import Path

import pytest
import torch
import yaml
from shared.processes import python
from transformers import AutoModel

from pruneonce import recipe, stages
from pruneonce.cli import main
from pruneonce.config import safe_yaml
from pruneonce.errors import UserError
from pruneonce.models import copy_sentence_transformer, load_config, load_encoder, unpickling
from pruneonce.recipe import Prune
from pruneonce.report import write_report

SOURCES = sorted((Path(__file__).parents[2] / "src").rglob("*.py"))
PRUNE = Prune(objective="hidden", steps=6, learning_rate=1e-3, every=1)
HOSTILE = "</title><script>alert(1)</script><img src=x onerror=alert(2)>&\"'"


# -- code and pickle --------------------------------------------------------------------------------------------


def test_no_source_unpickles_or_runs_what_it_reads():
    forbidden = re.compile(
        r"\bpickle\b|torch\.load\(|allow_pickle=True|joblib\.load|(?<![.\w])(eval|exec)\(|yaml\.(unsafe_|full_)?load\(|"
        r"trust_remote_code=True|shell=True|os\.system|getattr\(torch,"
    )
    found = []
    for file in SOURCES:
        code = re.sub(r'""".*?"""|#[^\n]*', "", file.read_text(), flags=re.S)
        found += [f"{file.name}: {match[0]}" for match in forbidden.finditer(code)]
    # The process of `convert`, which reads tensors alone; `pickle` is for the name of an exception.
    reader = ["unpickling.py: pickle", "unpickling.py: torch.load(", "unpickling.py: pickle"]
    assert found == reader
    assert "torch.load(file, weights_only=True, " in Path(unpickling.__file__).read_text()


def test_a_model_with_code_of_its_own_is_refused(encoder, tmp_path):
    folder = shutil.copytree(encoder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    for load in (load_config, load_encoder):
        with pytest.raises(UserError, match="it wants to run code of its own, which pruneonce never does"):
            load(folder)
    with pytest.raises(UserError, match="it wants to run code of its own"):
        stages.prune_one_shot(folder, PRUNE, tmp_path / "sparse")
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_are_refused(encoder, tmp_path):
    folder = shutil.copytree(encoder, tmp_path / "model")
    torch.save(AutoModel.from_pretrained(encoder).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"has no safetensors weights, only pytorch_model.bin"):
        load_encoder(folder)


# -- paths ------------------------------------------------------------------------------------------------------


def modules(folder, *paths):
    values = [{"idx": number, "name": str(number), "path": path, "type": "x"} for number, path in enumerate(paths)]
    (folder / "modules.json").write_text(json.dumps(values))


@pytest.mark.parametrize("path", ["../secret", "/etc", ".", "1_Pooling/..", "1_Pooling/../../secret", "model", 7, None])
def test_modules_stay_in_the_folder(path, encoder, tmp_path, capsys):
    folder = shutil.copytree(encoder, tmp_path / "model")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "config.json").write_text("secret")
    (folder / "1_Pooling").mkdir()
    modules(folder, "", path)
    (tmp_path / "out").mkdir()
    copy_sentence_transformer(folder, tmp_path / "out")
    assert "its modules are in odd places" in capsys.readouterr().out
    assert not list((tmp_path / "out").iterdir())


def test_of_a_module_only_data_is_taken_along(encoder, tmp_path):
    folder = shutil.copytree(encoder, tmp_path / "model")
    inside = folder / "1_Dense"
    inside.mkdir()
    (tmp_path / "secret.json").write_text("secret")
    (inside / "config.json").symlink_to(tmp_path / "secret.json")
    for name in ("model.safetensors", "pytorch_model.bin", "evil.py"):
        (inside / name).write_text("x")
    modules(folder, "", "1_Dense")
    (tmp_path / "out").mkdir()
    copy_sentence_transformer(folder, tmp_path / "out")
    copied = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert copied == ["1_Dense/model.safetensors", "modules.json"]


def test_of_the_hubs_cache_links_are_followed(encoder, tmp_path):
    """There every file is a link to a blob beside the snapshots."""
    snapshot = tmp_path / "models--a--b" / "snapshots" / "1"
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    (snapshot / "1_Pooling").mkdir(parents=True)
    modules(blobs, "", "1_Pooling")
    (snapshot / "modules.json").symlink_to(blobs / "modules.json")
    (blobs / "pooling").write_text("{}")
    (snapshot / "1_Pooling" / "config.json").symlink_to(blobs / "pooling")
    (tmp_path / "out").mkdir()
    copy_sentence_transformer(snapshot, tmp_path / "out")
    assert (tmp_path / "out" / "1_Pooling" / "config.json").read_text() == "{}"


@pytest.mark.parametrize("name", ["../x", "a/b", "/x", "..", "."])
def test_names_in_a_recipe_are_no_paths(name, recipe_values):
    with pytest.raises(UserError, match="`name`: String should match"):
        recipe.validate(recipe.Recipe, {**recipe_values, "name": name})
    with pytest.raises(UserError, match="use letters, digits, - and _"):
        recipe.validate(recipe.Recipe, {**recipe_values, "tasks": {name: recipe_values["tasks"]["mood"]}})


# -- recipes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("!!python/object/apply:os.system ['touch ran']", "is not valid YAML"),
        ("a: &a [x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]\n", None),
        ("\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10) if n else 'x'}]" for n in range(12)), "100,000"),
        ("a: &a {b: *a}", "deeper than 50"),
        ("[" * 5000 + "]" * 5000, "deeper than 50"),
        ("a: " + "9" * 5000, "is not valid YAML"),
        ('"a\\nb": 1', "unknown key `a b`"),
        ("a: 2026-13-45", "is not valid YAML"),
        ("a: !!float abc", "is not valid YAML"),
        ("prune: {}\nname: x\nprune: {}", "the key 'prune' comes twice, in line 1 and in line 3; keep one of the two"),
        ("x" * 200_000, "larger than 100,000 bytes"),
        ("a: " + ":".join(["59"] * 30_000), "a number is far too large"),  # in base 60
    ],
)  # fmt: skip
def test_yaml_is_plain_and_bounded(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    if message is None:
        assert len(safe_yaml.read(file)["b"]) == 10
        return
    with pytest.raises(UserError, match=message) as caught:
        recipe.load(str(file))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


# -- the report -------------------------------------------------------------------------------------------------


def test_the_report_escapes_what_came_from_data(tmp_path):
    layer = {"name": "<script>0</script>", "shape": [2, 2], "sparsity": 0.5}
    history = [{"step": step, "loss": 1.0, "learning_rate": 1e-3, "sparsity": 0.5} for step in (1, 2)]
    stage = {"name": HOSTILE, "stage": HOSTILE, "folder": HOSTILE, "seconds": 1.0, "steps": 2, "tokens": 3}
    result = {
        "task": HOSTILE, "arm": "sparse", "folder": HOSTILE, "sparsity": 0.5, "metric": HOSTILE, "split": HOSTILE,
        "examples": 3, "value": 0.5, "recovery": 1.0, "all": {"dev": {HOSTILE: 0.5}},
    }  # fmt: skip
    summary = {
        "name": HOSTILE, "description": HOSTILE, "model": HOSTILE, "created": "2026-01-01T12:00:00+00:00",
        "seconds": 1.0, "machine": {"processor": HOSTILE, "threads": 2, "python": HOSTILE, "torch": HOSTILE,
                                    "transformers": HOSTILE, "pruneonce": HOSTILE},
        "sparsity": {"encoder": 0.5, "model": 0.5, "target": 0.5}, "pattern": HOSTILE, "layers": [layer],
        "stages": [{**stage, "history": history, "final": {HOSTILE: 0.3}}],
        "results": [{**result, "arm": "dense", "sparsity": 0.0}, result],
    }  # fmt: skip
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    page = write_report(tmp_path).read_text()
    assert "alert(1)" in page  # it is shown
    assert "<script" not in page
    assert "<img" not in page
    assert "default-src 'none'" in page


# -- network and secrets ----------------------------------------------------------------------------------------


@pytest.fixture
def offline_recipe(recipe_values, tmp_path):
    values = {**recipe_values, "baselines": {}, "report_to": ["tensorboard"]}
    values["prune"] |= {"checkpoint_every": 10}
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def test_a_run_over_local_files_opens_no_connection(offline_recipe, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: asked.append(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: asked.append(args))
    assert main(["run", str(offline_recipe), "--output", str(tmp_path / "run")]) == 0, capsys.readouterr().err
    assert asked == []


def test_offline_is_honoured(tmp_path):
    inspect = ["-m", "pruneonce", "inspect", "someone/model-that-is-not-cached"]
    done = python(*inspect, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_no_secret_is_written_or_said(offline_recipe, tmp_path, monkeypatch, capfd):
    secret = "hf_abcdefghijklmnopqrstuvwxyz"
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, secret)
    assert main(["run", str(offline_recipe), "--output", str(tmp_path / "run")]) == 0
    assert secret not in "".join(capfd.readouterr())
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) > 20
    for file in files:
        assert secret.encode() not in file.read_bytes(), file


def test_a_made_folder_has_no_pickle(offline_recipe, tmp_path):
    assert main(["run", str(offline_recipe), "--output", str(tmp_path / "run")]) == 0
    made = {path.suffix for path in (tmp_path / "run").rglob("*") if path.is_file()}
    made = {suffix for suffix in made if not re.fullmatch(r"\.\d+", suffix)}  # tensorboard's event files
    assert made <= {".json", ".safetensors", ".pruneonce", ".yaml", ".html", ".md", ".arrow", ".txt", ".jinja"}
