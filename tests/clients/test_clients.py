"""Clients load the folder that `export --into` makes: the snippets of docs/engines.md, in environments of their own.

`make clients` runs them: they download some 150 MB once, and keep the environments in pytest's cache.
"""

import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from shared.clients import bert_tokenizer, make_classifier, make_embedder
from shared.environments import make_environment
from shared.scripts import ROOT

from pruneonce import stages
from pruneonce.engines import open_engine

pytestmark = [pytest.mark.clients, pytest.mark.timeout(1200)]

TEXTS = ["a great river", "poor music"]
SNIPPETS = dict(
    re.findall(r"^```\w+ client=(\S+)\n(.*?)^```", (ROOT / "docs/engines.md").read_text(encoding="utf-8"), re.M | re.S)
)
REQUIREMENTS = {
    "onnx": ("optimum-onnx>=0.1", "sentence-transformers<6", "fastembed>=0.7"),
    "openvino": ("optimum-intel>=2.2", "sentence-transformers>=6"),
}
# Snippet, environment, name of its result.
PYTHON = [
    ("sentence-transformers", "torch", "vectors"),
    ("sentence-transformers", "onnx", "vectors"),
    ("sentence-transformers", "openvino", "vectors"),
    ("cross-encoder", "torch", "scores"),
    ("cross-encoder", "onnx", "scores"),
    ("cross-encoder", "openvino", "scores"),
    ("optimum-onnx", "onnx", "logits"),
    ("optimum-intel", "openvino", "logits"),
    ("fastembed", "onnx", "vectors"),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The folders of the snippets."""
    root = tmp_path_factory.mktemp("clients")
    tokenizer = bert_tokenizer(root)
    for folder in (make_embedder(root / "embedder", tokenizer), make_classifier(root / "classifier", tokenizer)):
        stages.export_into(folder, folder)
    return root


@pytest.fixture(scope="module")
def python_of(request):
    """The Python of an environment, by its name."""
    made = {}

    def find(name):
        if name not in made:
            wanted = REQUIREMENTS[name]
            made[name] = make_environment(request.config.cache.mkdir(f"clients-{name}"), *wanted)
        return made[name]

    return find


def expected(models, name):
    """The result of ONNX Runtime alone: vectors of the embedder, or logits of the classifier."""
    from transformers import AutoTokenizer

    pairs = [TEXTS[:1], TEXTS[1:]] if name == "scores" else [TEXTS[:1]] if name == "logits" else [TEXTS]
    folder = models / ("embedder" if name == "vectors" else "classifier")
    batch = AutoTokenizer.from_pretrained(folder)(*pairs, padding=True, return_tensors="pt")
    outputs = open_engine(folder / "onnx", "onnxruntime")(dict(batch))
    if name != "vectors":
        return outputs["logits"]
    mask = batch["attention_mask"].numpy()[:, :, None]
    vectors = (outputs["last_hidden_state"] * mask).sum(1) / mask.sum(1)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize(("snippet", "engine", "result"), PYTHON)
def test_python(snippet, engine, result, models, python_of, tmp_path):
    code = SNIPPETS[snippet].replace('backend="onnx"', f'backend="{engine}", device="cpu"')
    script = f"{code}\nimport json, numpy\nprint(json.dumps(numpy.asarray({result}).tolist()))\n"
    if "logits" in result:
        script = script.replace("asarray(logits)", "asarray(logits.detach())")
    python = python_of("onnx" if engine == "torch" else engine)
    found = np.asarray(json.loads(run([python, "-W", "ignore", "-c", script], models).splitlines()[-1]))
    wanted = expected(models, result)
    assert found.shape == wanted.shape
    # torch has activations in fp32, and OpenVINO rounds to integers in another way.
    np.testing.assert_allclose(found, wanted, atol=1e-5 if engine == "onnx" else 0.03)


def test_javascript(models, request):
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed")
    folder = request.config.cache.mkdir("clients-js")
    if not (folder / "whole").is_file():
        # Its scripts fetch libraries for GPUs.
        command = ["npm", "install", "--silent", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run([*command, "@huggingface/transformers@4"], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"cannot install @huggingface/transformers: {done.stderr.strip()[-200:]}")
        (folder / "whole").touch()
    # Node looks for packages beside the script.
    place = folder / "snippet.mjs"
    place.write_text(
        SNIPPETS["transformers.js"].replace('"./"', f"{json.dumps(str(models))} + '/'")
        + "console.log(JSON.stringify(vectors.tolist()));\n"
    )
    found = json.loads(run(["node", place], models).splitlines()[-1])
    np.testing.assert_allclose(found, expected(models, "vectors"), atol=1e-5)


def run(command, folder):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
