"""Two processes over gloo: the same training as in one, the same masks, and what happens when one of them dies."""

import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from shared import corpus_stages
from shared.models import CONFIGS, make_model
from shared.processes import Done, Started, pruneonce, python, start_two

from pruneonce import cli
from pruneonce.errors import UserError
from pruneonce.system import distributed
from pruneonce.training import checkpoints

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.fixture(scope="module")
def recipe(tiny_recipe, tokenizer, tmp_path_factory):
    """Runs in seconds and without dropout, whose random numbers depend on the number of processes."""
    folder = tmp_path_factory.mktemp("ddp")
    values = tiny_recipe()
    for section in ("prune", "teacher", "transfer"):
        values[section] = {**values[section], "dropout": 0.0}
    values["model"] = str(make_model(folder / "model", tokenizer, head=True))
    values["prune"] |= {"objective": "both", "checkpoint_every": 5, "batch_size": 4}
    values["baselines"] = {}
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def in_two(recipe: Path, output: Path, said: Path) -> list[Done]:
    """A run in two processes; how each ended, the first one first."""
    return [process.finish() for process in start_two(said, pruneonce, "run", str(recipe), "--output", str(output))]


@pytest.fixture(scope="module")
def run_of_two(recipe, tmp_path_factory):
    output = tmp_path_factory.mktemp("two") / "run"
    first, second = in_two(recipe, output, output.parent)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert first.stdout.count("report: ") == 1
    assert second.stdout == ""  # one process speaks
    assert "LOAD REPORT" not in first.stderr + second.stderr
    return output


def history(run):
    return [entry["loss"] for entry in json.loads((run / "sparse" / "metrics.json").read_text())["history"]]


def provenance(folder):
    return json.loads((folder / "pruneonce.json").read_text())


def test_two_processes_train_as_one_at_the_same_global_batch(recipe, run_of_two, tmp_path):
    changes = [f"{section}.batch_size={2 * size}" for section, size in (("prune", 4),)]
    options = [part for change in changes for part in ("--set", change)]
    assert cli.main(["run", str(recipe), "--output", str(tmp_path / "one"), *options]) == 0
    assert history(run_of_two) == pytest.approx(history(tmp_path / "one"), rel=1e-3)  # bf16, where there is bf16
    one, two = (provenance(run / "sparse") for run in (tmp_path / "one", run_of_two))
    assert two["sparsity"]["encoder"] == one["sparsity"]["encoder"]
    assert two["training"]["tokens"] == one["training"]["tokens"]
    assert (run_of_two / "report.html").is_file()
    assert len(list((run_of_two / "tasks").rglob("pruneonce.json"))) == 2


def whole_checkpoints(run):
    return list((run / "sparse.partial" / "checkpoints").glob("checkpoint-*[0-9]"))


@pytest.mark.parametrize(
    ("number", "codes", "message"),
    [
        (signal.SIGKILL, (70, -signal.SIGKILL), "another process of this run ended"),
        (signal.SIGTERM, (143, 143), "interrupted; run the same command again to go on"),  # all stop at one step
    ],
)
def test_a_killed_process_ends_the_run_and_it_goes_on_from_its_checkpoint(
    number, codes, message, recipe, run_of_two, tmp_path
):
    output = tmp_path / "run"
    first, second = start_two(tmp_path / "killed", pruneonce, "run", str(recipe), "--output", str(output))
    second.wait_for(lambda: whole_checkpoints(output))
    os.kill(second.pid, number)
    ends = first.finish(), second.finish()
    assert tuple(end.returncode for end in ends) == codes
    assert message in ends[0].stderr
    assert not (output / "sparse").exists()
    assert all(checkpoints.damage(path) is None for path in whole_checkpoints(output))
    again = in_two(recipe, output, tmp_path / "again")
    assert [end.returncode for end in again] == [0, 0], again[0].stderr
    assert_same_model(output, run_of_two)


def assert_same_model(output, whole):
    weights, expected = (load_file(run / "sparse" / "model.safetensors") for run in (output, whole))
    assert all(expected[name].equal(weights[name]) for name in expected)
    assert provenance(output / "sparse")["pattern"] == provenance(whole / "sparse")["pattern"]


def test_every_architecture_and_objective(tokenizer, corpus_file, tmp_path):
    """A parameter that gets no gradient, or one twice, stops DistributedDataParallel."""
    for architecture in CONFIGS:
        make_model(tmp_path / "models" / architecture, tokenizer, architecture, head=True)
    made = tmp_path / "made"
    pair = start_two(tmp_path / "said", corpus_stages.run, tmp_path / "models", corpus_file, made)
    ends = [process.finish() for process in pair]
    assert [end.returncode for end in ends] == [0, 0], ends[0].stderr + ends[1].stderr
    assert len(list(made.glob("*/pruneonce.json"))) == 3 * len(CONFIGS) + 1


def test_mistakes_are_said_once(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({"name": "x", "model": str(tmp_path / "none"), "corpus": {"source": "none.txt"},
                                    "prune": {"steps": 10, "learning_rate": 1e-3}}))  # fmt: skip
    ends = in_two(file, tmp_path / "run", tmp_path / "said")
    assert [end.returncode for end in ends] == [2, 2]
    assert ends[0].stderr.count("error: no model folder at") == 1
    assert ends[1].stderr == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_torchrun_starts_them(recipe, run_of_two, tmp_path):
    """As a user does; the other tests here set torchrun's variables themselves, for a process that has all imports."""
    output = tmp_path / "run"
    done = python(*TORCHRUN, "-m", "pruneonce", "run", recipe, "--output", output)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report: ") == 1
    assert "LOAD REPORT" not in done.stderr
    assert_same_model(output, run_of_two)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "message"),
    [
        (signal.SIGKILL, r"another process of this run ended|Signal 9 \(SIGKILL\)"),
        (signal.SIGTERM, "interrupted; run the same command again to go on"),  # said by the first process
    ],
)
def test_torchrun_ends_with_a_killed_process(number, message, recipe, run_of_two, tmp_path):
    output = tmp_path / "run"
    launcher = Started(
        tmp_path / "said",
        os.execv,
        sys.executable,
        [sys.executable, *TORCHRUN, "-m", "pruneonce", "run", str(recipe), "--output", str(output)],
    )
    launcher.wait_for(lambda: whole_checkpoints(output))
    os.kill(worker(launcher.pid, rank=1), number)
    done = launcher.finish()
    assert done.returncode != 0
    assert re.search(message, done.stderr)
    assert not (output / "sparse").exists()
    assert all(checkpoints.damage(path) is None for path in whole_checkpoints(output))
    again = python(*TORCHRUN, "-m", "pruneonce", "run", recipe, "--output", output)
    assert again.returncode == 0, again.stderr
    assert_same_model(output, run_of_two)


def worker(launcher: int, rank: int) -> int:
    """The process of a rank among the launcher's children."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == launcher and f"\0RANK={rank}\0" in (folder / "environ").read_text():
                return int(folder.name)
        except OSError:  # it ended meanwhile
            continue
    raise AssertionError(f"no process of rank {rank}")


def test_sharded_weights_are_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match="Launch without FSDP or DeepSpeed"):
        distributed.start()
