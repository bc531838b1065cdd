"""What goes wrong around a run: each fault gives one clear line and a non-zero exit, and costs nothing that was there.

The rows of the table in docs/reliability.md name these tests.
"""

import errno
import os
import platform
import re
import shutil
import signal
import subprocess
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from shared.folders import assert_same
from shared.processes import python, start

from pruneonce import stages
from pruneonce.cli import main
from pruneonce.errors import InUseError, UserError
from pruneonce.recipe import Classification, Corpus, Prune, Training
from pruneonce.system import locks
from pruneonce.training import checkpoints
from pruneonce.training.trainer import SparseTrainer

PRUNE = {"objective": "hidden", "steps": 12, "batch_size": 4, "learning_rate": 1e-3, "every": 2, "checkpoint_every": 4}


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def at_step(monkeypatch):
    """Calls a function in the training step of a number, the loss given and taken; counted over all that is trained."""
    usual = SparseTrainer.compute_loss

    def install(step, do):
        numbers = count(1)

        def compute_loss(self, *args, **kwargs):
            loss = usual(self, *args, **kwargs)
            if next(numbers) != step:
                return loss
            changed = do(loss)
            return loss if changed is None else changed

        monkeypatch.setattr(SparseTrainer, "compute_loss", compute_loss)

    yield install
    monkeypatch.undo()


@pytest.fixture
def corpus(corpus_file):
    return Corpus(source=str(corpus_file), block_length=16, validation=0.01)


@pytest.fixture
def recipe(recipe_values, tmp_path):
    """A recipe of two stages and one task over files that may be spoiled; logs for tensorboard, as is the default."""
    data = tmp_path / "data"
    data.mkdir()
    tasks = {split: shutil.copy2(file, data) for split, file in recipe_values["tasks"]["mood"].items()}
    recipe_values["corpus"]["source"] = shutil.copy2(recipe_values["corpus"]["source"], data)
    recipe_values["prune"] |= {"steps": 12, "checkpoint_every": 4}
    values = {**recipe_values, "tasks": {"mood": tasks}, "baselines": {}, "report_to": ["tensorboard"]}
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def fill(folder):
    """Write until the disk is full; gives the file."""
    file = folder / "filler"
    with file.open("wb", buffering=0) as stream:
        for size in (1 << 16, 1 << 10, 1):
            with suppress(OSError):
                while True:
                    stream.write(bytes(size))
    assert shutil.disk_usage(folder).free == 0
    return file


def line_of(capsys):
    """The one line on stderr."""
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: "), said
    assert "\n" not in said, said
    return said


def whole_checkpoints(folder):
    """The steps of the checkpoints in a folder, all of which are whole and finite; nothing else is there."""
    steps = []
    for path in (folder / "checkpoints").iterdir():
        assert checkpoints.damage(path) is None
        assert all(tensor.isfinite().all() for tensor in load_file(path / "model.safetensors").values())
        steps.append(int(path.name.split("-")[1]))
    return sorted(steps)


# -- the disk ---------------------------------------------------------------------------------------------------


def test_disk_full_as_a_checkpoint_is_written(encoder, corpus, small_disk, at_step, tmp_path):
    settings = Prune(**PRUNE)
    whole = stages.prune(encoder, corpus, settings, tmp_path / "whole")
    output = small_disk / "sparse"
    at_step(6, lambda loss: fill(small_disk) and None)
    with pytest.raises(
        UserError, match=r"the disk is full: cannot write \S+checkpoint-8; free some space, then run it"
    ):
        stages.prune(encoder, corpus, settings, output)
    assert whole_checkpoints(small_disk / "sparse.partial") == [4]
    (small_disk / "filler").unlink()
    assert_same(whole, stages.prune(encoder, corpus, settings, output))


def test_disk_full_as_the_model_is_written(encoder, corpus, small_disk, at_step, tmp_path):
    settings = Prune(**{**PRUNE, "steps": 11, "checkpoint_every": None})
    whole = stages.prune(encoder, corpus, settings, tmp_path / "whole")
    at_step(11, lambda loss: fill(small_disk) and None)
    with pytest.raises(UserError, match=r"the disk is full: cannot write \S+/sparse; free"):
        stages.prune(encoder, corpus, settings, small_disk / "sparse")
    assert not (small_disk / "sparse").exists()
    (small_disk / "filler").unlink()
    assert_same(whole, stages.prune(encoder, corpus, settings, small_disk / "sparse"))


def test_disk_full_in_a_run(recipe, small_disk, at_step, capsys):
    """Whoever meets the full disk first, the logger of transformers too."""
    at_step(6, lambda loss: fill(small_disk) and None)
    assert main(["run", str(recipe), "--output", str(small_disk / "run")]) == 2
    assert "disk is full" in line_of(capsys)
    assert whole_checkpoints(small_disk / "run" / "sparse.partial") == [4]
    (small_disk / "filler").unlink()
    assert main(["run", str(recipe), "--output", str(small_disk / "run")]) == 0


def test_disk_full_from_the_start(recipe, small_disk, capsys):
    filler = fill(small_disk)
    assert main(["run", str(recipe), "--output", str(small_disk / "run")]) == 2
    assert re.search("No space left on device|disk is full", line_of(capsys))
    assert not list(small_disk.rglob("*.safetensors"))
    filler.unlink()
    assert main(["run", str(recipe), "--output", str(small_disk / "run")]) == 0


def test_disk_fails(encoder, corpus, at_step, tmp_path, monkeypatch):
    """An I/O error as a checkpoint is flushed to the disk."""
    usual = os.fsync

    def failing(descriptor):
        if "checkpoint-8.partial" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        usual(descriptor)

    settings = Prune(**PRUNE)
    whole = stages.prune(encoder, corpus, settings, tmp_path / "whole")
    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(UserError, match=r"cannot write \S+checkpoint-8: Input/output error"):
        stages.prune(encoder, corpus, settings, tmp_path / "sparse")
    assert whole_checkpoints(tmp_path / "sparse.partial") == [4]
    monkeypatch.setattr(os, "fsync", usual)
    assert_same(whole, stages.prune(encoder, corpus, settings, tmp_path / "sparse"))


def test_read_only_from_the_start(recipe, small_disk, capsys):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert main(["run", str(recipe), "--output", str(small_disk / "run")]) == 2
    assert f"cannot write to {small_disk / 'run'}: Read-only file system" in line_of(capsys)


def test_read_only_from_some_moment_on(encoder, corpus, tmp_path, monkeypatch):
    """As Linux does to a file system that it finds broken. (It cannot be asked to while the lock's file is open.)"""
    usual = Path.mkdir

    def mkdir(self, *args, **kwargs):
        if "checkpoint-8" in self.name:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
        usual(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(UserError, match=r"cannot write \S+checkpoint-8: Read-only file system"):
        stages.prune(encoder, corpus, Prune(**PRUNE), tmp_path / "sparse")
    assert whole_checkpoints(tmp_path / "sparse.partial") == [4]


# -- numbers ----------------------------------------------------------------------------------------------------


def test_loss_becomes_nan(encoder, corpus, at_step, tmp_path):
    at_step(6, lambda loss: loss * torch.nan)
    with pytest.raises(UserError, match="the gradients became nan at step 6; lower `learning_rate`"):
        stages.prune(encoder, corpus, Prune(**PRUNE), tmp_path / "sparse")
    assert whole_checkpoints(tmp_path / "sparse.partial") == [4]


def test_gradients_become_infinite(encoder, corpus, at_step, tmp_path):
    at_step(6, lambda loss: loss * 1e38)
    with pytest.raises(UserError, match=r"the (gradients became inf at step 6|loss became \S+ at step 6); lower"):
        stages.prune(encoder, corpus, Prune(**PRUNE), tmp_path / "sparse")
    assert whole_checkpoints(tmp_path / "sparse.partial") == [4]


def test_loss_explodes(encoder, corpus, at_step, tmp_path):
    at_step(6, lambda loss: loss * 1e9)
    with pytest.raises(UserError, match=r"the loss became \S+ at step 6; lower `learning_rate`"):
        stages.prune(encoder, corpus, Prune(**PRUNE), tmp_path / "sparse")
    assert whole_checkpoints(tmp_path / "sparse.partial") == [4]


def test_weights_leave_the_range_of_numbers(encoder, corpus, tmp_path):
    """The loss before the step was fine: it is the checkpoint that must not be written."""
    settings = Prune(**{**PRUNE, "learning_rate": 1e39, "checkpoint_every": 1, "steps": 30})
    with pytest.raises(UserError, match="is no longer finite at step"):
        stages.prune(encoder, corpus, settings, tmp_path / "sparse")
    assert not (tmp_path / "sparse").exists()
    assert not list(tmp_path.rglob("model.safetensors"))


def test_memory_ends(encoder, corpus, at_step, tmp_path):
    at_step(6, lambda loss: torch.empty(1 << 60, dtype=torch.uint8))
    with pytest.raises(UserError, match=r"out of memory: lower `batch_size` \(and raise `accumulate`"):
        stages.prune(encoder, corpus, Prune(**PRUNE), tmp_path / "sparse")
    assert whole_checkpoints(tmp_path / "sparse.partial") == [4]


# -- data -------------------------------------------------------------------------------------------------------


def file_of(recipe, split):
    return Path(yaml.safe_load(recipe.read_text())["tasks"]["mood"][split])


def test_task_file_changes(recipe, at_step, tmp_path, capsys):
    dev = file_of(recipe, "dev")
    content = dev.read_text()
    at_step(6, lambda loss: dev.write_text(content.replace("great", "fine")) and None)
    command = ["run", str(recipe), "--output", str(tmp_path / "run")]
    assert main(command) == 2
    assert f"file {dev}: not what it was when the run in {tmp_path / 'run'} began" in line_of(capsys)
    assert (tmp_path / "run" / "sparse" / "model.safetensors").is_file()
    assert main(command) == 2  # nor is it taken when the run is started again
    dev.write_text(content)
    assert main(command) == 0


def test_task_file_vanishes(recipe, at_step, tmp_path, capsys):
    at_step(6, lambda loss: file_of(recipe, "train").unlink())
    assert main(["run", str(recipe), "--output", str(tmp_path / "run")]) == 2
    assert f"cannot read {file_of(recipe, 'train')}: No such file" in line_of(capsys)
    assert (tmp_path / "run" / "sparse" / "model.safetensors").is_file()


def test_corpus_changes(recipe, at_step, tmp_path, capsys):
    corpus = Path(yaml.safe_load(recipe.read_text())["corpus"]["source"])
    at_step(6, lambda loss: corpus.write_text("the good river\n" * 100) and None)
    assert main(["run", str(recipe), "--output", str(tmp_path / "run")]) == 2
    assert f"corpus {corpus}: not what it was" in line_of(capsys)


def test_streamed_corpus_changes(encoder, corpus_file, at_step, tmp_path):
    file = shutil.copy2(corpus_file, tmp_path / "text.txt")
    corpus = Corpus(source=str(file), block_length=16, validation=0.01, streaming=True)
    at_step(6, lambda loss: file.write_text("the good river\n" * 100) and None)
    settings = Prune(**{**PRUNE, "steps": 60, "batch_size": 32})  # more than a pass
    with pytest.raises(UserError, match="changed since the stage began; put it back as it was"):
        stages.prune(encoder, corpus, settings, tmp_path / "sparse")
    assert whole_checkpoints(tmp_path / "sparse.partial")


def test_a_stage_does_not_go_on_with_other_data(encoder, task_files, at_step, tmp_path):
    train = shutil.copy2(task_files / "train.jsonl", tmp_path)
    task = Classification(train=str(train), dev=str(task_files / "dev.jsonl"))
    settings = Training(epochs=1, batch_size=16, learning_rate=1e-3, checkpoint_every=2)
    at_step(4, lambda loss: loss * torch.nan)
    with pytest.raises(UserError, match="became nan"):
        stages.finetune(encoder, task, settings, tmp_path / "dense")
    Path(train).write_text(Path(train).read_text().replace("great", "fine"))
    with pytest.raises(UserError, match="unfinished work of other settings or other data"):
        stages.finetune(encoder, task, settings, tmp_path / "dense")
    assert whole_checkpoints(tmp_path / "dense.partial") == [2]


# -- others -----------------------------------------------------------------------------------------------------


def test_two_runs_in_one_folder(recipe, at_step, tmp_path, capsys):
    """The second one is started in the middle of the first."""
    codes = []
    command = ["run", str(recipe), "--output", str(tmp_path / "run")]
    at_step(6, lambda loss: codes.append(main(command)))
    assert main(command) == 0
    assert codes == [2]
    said = f"{tmp_path / 'run'} is in use by process {os.getpid()} on {platform.node()}; wait until that has ended"
    assert said in capsys.readouterr().err
    assert not list((tmp_path / "run").rglob("lock"))


def test_two_processes_on_one_stage(encoder, corpus, at_step, tmp_path):
    refused = []

    def again(loss):
        with pytest.raises(InUseError, match="is in use by process"):
            stages.prune(encoder, corpus, Prune(**PRUNE), tmp_path / "sparse")
        refused.append(True)

    at_step(6, again)
    stages.prune(encoder, corpus, Prune(**PRUNE), tmp_path / "sparse")
    assert refused


def test_a_stale_lock_is_none(recipe, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / locks.NAME).write_text("process 999999999 on elsewhere\n")
    assert main(["run", str(recipe), "--output", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_stop_the_command(number, code, recipe, tmp_path):
    """A checkpoint although the recipe asks for none at that step, the exit code, and nothing lost."""
    steps = ["--set", "prune.steps=200", "--set", "prune.checkpoint_every=null", "--set", "prune.batch_size=64"]
    process = start(tmp_path / "said", "run", recipe, "--output", tmp_path / "run", *steps)
    process.wait_for(lambda: "/200" in process.stdout.read_text())  # it trains
    os.kill(process.pid, number)
    done = process.finish()
    said = done.stderr
    assert done.returncode == code, said
    assert "stopping after this step, with a checkpoint" in said
    assert "run the same command again to go on" in said
    assert "Traceback" not in said
    (step,) = whole_checkpoints(tmp_path / "run" / "sparse.partial")
    assert 20 <= step < 200


def test_a_second_signal_ends_at_once():
    script = (
        "import os, signal, time\n"
        "from pruneonce.system import interruption\n"
        "with interruption.deferred():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(0.1)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(600)\n"
    )
    done = python("-c", script)
    assert done.returncode == -signal.SIGINT, done.stderr
