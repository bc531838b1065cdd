"""Slow: the real MiniLM, and the models of a benchmark run where there is one. Zeros are counted without our code."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from shared.processes import python

from pruneonce import stages
from pruneonce.recipe import Classification, Corpus, Prune, Training, Transfer
from pruneonce.runs import quickstart

pytestmark = pytest.mark.slow


def tensors(folder):
    with safe_open(Path(folder) / "model.safetensors", framework="np") as file:
        return {name.removeprefix("bert."): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def count_lost_zeros(child, parent):
    """Zeros of the parent's sparse matrices that the child has, and has not."""
    ours, theirs = tensors(child), tensors(parent)
    kept = lost = 0
    for name, weight in theirs.items():
        zeros = weight == 0
        if weight.ndim == 2 and zeros.mean() > 0.5:
            kept += int((ours[name][zeros] == 0).sum())
            lost += int((ours[name][zeros] != 0).sum())
    return kept, lost


def pruneonce(*arguments):
    return python("-m", "pruneonce", *arguments)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart") / "inputs"
    quickstart.write_inputs(folder, train=64, dev=32, test=32)
    return folder


def test_minilm_from_dense_to_task(inputs, tmp_path):
    from sentence_transformers import SentenceTransformer

    corpus = Corpus(source=str(inputs / "wiki.txt"), block_length=32, max_tokens=20_000)
    settings = Prune(objective="hidden", steps=12, batch_size=8, learning_rate=1e-3, every=2, dropout=0.0)
    sparse = stages.prune(inputs / "model", corpus, settings, tmp_path / "sparse")
    layers = {n: w for n, w in tensors(sparse).items() if n.startswith(("encoder", "pooler")) and w.ndim == 2}
    assert len(layers) == 37
    assert sum(int((w == 0).sum()) for w in layers.values()) / sum(w.size for w in layers.values()) == pytest.approx(
        0.9, abs=1e-4
    )
    for name, weight in layers.items():
        assert int((weight == 0).sum()) == round(0.9 * weight.size), name
    assert json.loads((sparse / "metrics.json").read_text())["final"]["hidden"] < 1.0

    vectors = SentenceTransformer(str(sparse), device="cpu").encode(["a river", "a city"], show_progress_bar=False)
    assert np.isfinite(vectors).all()

    task = Classification(train=str(inputs / "train.jsonl"), dev=str(inputs / "dev.jsonl"))
    training = Training(epochs=1, learning_rate=1e-4)
    dense = stages.finetune(inputs / "model", task, training, tmp_path / "dense")
    child = stages.transfer(sparse, task, Transfer(**training.model_dump()), tmp_path / "task", teacher=dense)
    assert count_lost_zeros(child, sparse) == (sum(round(0.9 * w.size) for w in layers.values()), 0)
    assert pruneonce("verify", child, "--against", sparse).returncode == 0
    assert pruneonce("verify", dense, "--against", sparse).returncode == 1


RUN = Path(os.environ.get("PRUNEONCE_RUN", "runs/prune-once"))


@pytest.mark.parametrize("arm", ["sparse", "one-shot"])
def test_zeros_of_the_benchmark_run(arm):
    parents = sorted(RUN.glob(f"**/{arm}"))
    pairs = [(child, parent) for parent in parents for child in parent.parent.glob(f"tasks/*/{arm}")]
    if not pairs:
        pytest.skip(f"no finished benchmark run at {RUN}; `make benchmark` makes one")
    for child, parent in pairs:
        kept, lost = count_lost_zeros(child, parent)
        assert kept > 0
        assert lost == 0, child
        assert pruneonce("verify", child, "--against", parent).returncode == 0
