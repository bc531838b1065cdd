"""Every kind of task: what all of them have to bear, on the tiny tasks of shared/settings.py."""

import json
import math

import pytest
from shared.folders import zeros_in_file
from shared.settings import KINDS

from pruneonce import recipe, stages, tasks
from pruneonce.recipe import Prune, Training, Transfer
from pruneonce.sparsity import verify

SETTINGS = {"steps": 2, "batch_size": 8, "learning_rate": 1e-3}


def test_every_kind_is_here():
    assert KINDS.keys() == recipe.KINDS.keys()
    assert all(issubclass(tasks.kind_class(kind), tasks.Kind) for kind in recipe.KINDS)


@pytest.fixture(scope="module")
def sparse(encoder, tmp_path_factory):
    settings = Prune(objective="hidden", steps=1, learning_rate=1e-3, sparsity=0.8)
    return stages.prune_one_shot(encoder, settings, tmp_path_factory.mktemp("sparse") / "sparse")


@pytest.mark.parametrize("kind", KINDS)
def test_transfer_keeps_the_zeros_and_is_measured(kind, encoder, sparse, tmp_path):
    task = KINDS[kind](tmp_path)
    assert task.kind == kind
    embeds = kind == "embedding"  # whose teacher is the encoder itself
    teacher = encoder if embeds else stages.finetune(encoder, task, Training(**SETTINGS), tmp_path / "dense")
    child = stages.transfer(sparse, task, Transfer(**SETTINGS), tmp_path / "child", teacher=teacher)
    assert verify(child, sparse).ok
    zeros = {name.removeprefix("bert."): share for name, share in zeros_in_file(child).items()}
    assert len(zeros) >= 12
    parents = zeros_in_file(sparse)
    assert all(zeros[name] >= parents[name] == pytest.approx(0.8, abs=1e-3) for name in zeros)
    assert json.loads((child / "pruneonce.json").read_text())["training"]["steps"] == 2
    found = stages.evaluate(child, task)["dev"]
    assert math.isfinite(found[task.metric])
    assert found["examples"] == 40
