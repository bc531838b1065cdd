"""Every stage that trains: stopped by a signal and started again, it makes the very files of an uninterrupted run."""

import json
import os
import shutil
import signal
import sys

import pytest
import torch
from safetensors.torch import load_file
from shared.folders import assert_same, assert_zeros_as_recorded
from shared.settings import METHODS, STAGES, finetune

from pruneonce import training
from pruneonce.errors import Interrupted
from pruneonce.training import checkpoints
from pruneonce.training.trainer import SparseTrainer


@pytest.fixture
def signalled(monkeypatch):
    """Sends this process a signal in the forward pass of given steps, counted over all that is trained."""

    def install(*at, number=signal.SIGTERM):
        seen = 0
        usual = SparseTrainer.training_step

        def step(self, *args, **kwargs):
            nonlocal seen
            if self.accelerator.sync_gradients:
                seen += 1
                if seen in at:
                    os.kill(os.getpid(), number)
            return usual(self, *args, **kwargs)

        monkeypatch.setattr(SparseTrainer, "training_step", step)

    return install


@pytest.mark.parametrize("name", STAGES | METHODS)
def test_interrupted_and_resumed_equals_uninterrupted(name, inputs, signalled, tmp_path):
    stage = (STAGES | METHODS)[name](inputs)
    whole = stage(tmp_path / "whole")
    steps = json.loads((whole / "pruneonce.json").read_text())["training"]["steps"]
    signalled(5, steps // 2 + 4)
    output = tmp_path / "resumed"
    for _ in range(2):
        with pytest.raises(Interrupted) as stop:
            stage(output)
        assert stop.value.signal == signal.SIGTERM
        assert list((tmp_path / "resumed.partial").rglob("checkpoint-*/hashes.json"))
    assert_same(whole, stage(output))
    assert_zeros_as_recorded(whole)


def test_between_two_logs(inputs, signalled, tmp_path, monkeypatch):
    """What was not logged when the signal came is part of what the next log says."""
    loop = sys.modules[training.train.__module__]  # the function has the name of its module
    usual = loop._arguments

    def seldom(*args):
        arguments = usual(*args)
        arguments.logging_steps = 4
        return arguments

    monkeypatch.setattr(loop, "_arguments", seldom)
    stage = STAGES["prune, both, not nested"](inputs)
    whole = stage(tmp_path / "whole")
    signalled(6, 6 + 5)
    for _ in range(2):
        with pytest.raises(Interrupted):
            stage(tmp_path / "resumed")
    assert_same(whole, stage(tmp_path / "resumed"))
    steps = [entry["step"] for entry in json.loads((whole / "metrics.json").read_text())["history"]]
    assert steps == [4, 8, 12]


def test_a_signal_in_the_last_step(inputs, signalled, tmp_path):
    whole = finetune(inputs)(tmp_path / "whole")
    signalled(7, number=signal.SIGINT)
    with pytest.raises(Interrupted) as stop:
        finetune(inputs)(tmp_path / "resumed")
    assert stop.value.signal == signal.SIGINT
    assert (tmp_path / "resumed.partial" / "checkpoints" / "checkpoint-7").is_dir()
    assert_same(whole, finetune(inputs)(tmp_path / "resumed"))


def test_between_two_groups_of_weights_on_codebooks(inputs, signalled, tmp_path):
    """Embeddings go onto codebooks in step 2, attention in step 4: once before, and never again after."""
    stage = STAGES["product quantize"](inputs)
    whole = stage(tmp_path / "whole")
    signalled(2, 3)
    for _ in range(2):
        with pytest.raises(Interrupted):
            stage(tmp_path / "resumed")
    assert_same(whole, stage(tmp_path / "resumed"))


def test_checkpoints_of_both_runs_are_equal(inputs, signalled, tmp_path):
    """Moments, masks, parked weights and random state, not only what becomes of them."""
    stage = STAGES["prune, both, not nested"]
    signalled(7, 10, 20)  # of the second run: in the seventh and in the tenth of its steps
    for name in ("resumed", "resumed", "whole"):
        with pytest.raises(Interrupted):
            stage(inputs)(tmp_path / name)
    one, other = (tmp_path / f"{name}.partial" / "checkpoints" / "checkpoint-10" for name in ("resumed", "whole"))
    names = ("masks", "model", "optimizer", "parked", "process-0")
    assert sorted(file.stem for file in one.glob("*.safetensors")) == list(names)
    for name in [file.name for file in one.glob("*.safetensors")]:
        tensors, others = load_file(one / name), load_file(other / name)
        assert tensors.keys() == others.keys()
        for key in tensors.keys() - {"seconds"}:
            assert torch.equal(tensors[key], others[key]), (name, key)


def test_damaged_checkpoints_are_passed_over(inputs, signalled, tmp_path, capsys):
    stage = STAGES["prune"](inputs, checkpoint_every=4)
    whole = stage(tmp_path / "whole")
    signalled(10)
    with pytest.raises(Interrupted), checkpoints.keeping(3):
        stage(tmp_path / "resumed")
    found = tmp_path / "resumed.partial" / "checkpoints"
    assert sorted(path.name for path in found.iterdir()) == ["checkpoint-10", "checkpoint-4", "checkpoint-8"]
    weights = found / "checkpoint-10" / "optimizer.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    (found / "checkpoint-8" / "masks.safetensors").unlink()
    capsys.readouterr()
    resumed = stage(tmp_path / "resumed")
    said = " ".join(capsys.readouterr().out.split())
    assert "checkpoint-10 is damaged (optimizer.safetensors is not what was written) and passed over" in said
    assert "checkpoint-8 is damaged (a file is missing, or one too many)" in said
    assert_same(whole, resumed)


def test_without_any_whole_checkpoint_it_begins_again(inputs, signalled, tmp_path):
    stage = STAGES["finetune"](inputs)
    signalled(3)
    with pytest.raises(Interrupted):
        stage(tmp_path / "resumed")
    for file in (tmp_path / "resumed.partial" / "checkpoints").rglob("*.json"):
        file.write_text("{")
    resumed = stage(tmp_path / "resumed")
    assert_same(stage(tmp_path / "whole"), resumed)


@pytest.mark.parametrize("number", [1, 3])
def test_so_many_checkpoints_are_kept(number, inputs, signalled, tmp_path):
    signalled(11)
    with pytest.raises(Interrupted), checkpoints.keeping(number):
        STAGES["prune"](inputs, checkpoint_every=2)(tmp_path / "out")
    kept = sorted(int(path.name.split("-")[1]) for path in (tmp_path / "out.partial" / "checkpoints").iterdir())
    assert kept == [11, 10, 8, 6][:number][::-1]
    shutil.rmtree(tmp_path / "out.partial")


def test_half_of_a_checkpoint_is_never_under_its_name(tmp_path, monkeypatch):
    """A process that is killed while it removes an old one leaves none that looks whole and is not."""
    usual = shutil.rmtree

    def killed(path, **kwargs):
        if path.exists():
            (path / "weights").unlink()
            raise KeyboardInterrupt

    def write(step):
        checkpoints.write(tmp_path, step, lambda folder: (folder / "weights").write_text(f"of {step}"))

    write(1)
    write(2)
    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        write(3)
    monkeypatch.setattr(shutil, "rmtree", usual)
    found = [path for path in tmp_path.iterdir() if path.suffix != ".partial"]
    assert sorted(path.name for path in found) == ["checkpoint-2", "checkpoint-3"]
    assert all(checkpoints.damage(path) is None for path in found)
    write(4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-3", "checkpoint-4"]
