"""Two processes over gloo: the same training as in one, the same masks, and what happens when one of them dies."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from shared.models import CONFIGS, make_model

from pruneonce import cli
from pruneonce.errors import UserError
from pruneonce.system import distributed
from pruneonce.training import checkpoints

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


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


def in_two(recipe, output, *options):
    command = [*TORCHRUN, "-m", "pruneonce", "run", str(recipe), "--output", str(output), *options]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=400)


@pytest.fixture(scope="module")
def run_of_two(recipe, tmp_path_factory):
    output = tmp_path_factory.mktemp("two") / "run"
    done = in_two(recipe, output)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report: ") == 1  # one process speaks
    assert "LOAD REPORT" not in done.stderr
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


def sent(number, recipe, output):
    """Start a run in two processes and send a signal to the second, once there is a checkpoint; what was said."""
    command = [*TORCHRUN, "-m", "pruneonce", "run", str(recipe), "--output", str(output)]
    launcher = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 300
    while not whole_checkpoints(output):
        assert time.monotonic() < deadline
        assert launcher.poll() is None
        time.sleep(0.002)
    os.kill(worker(launcher.pid, rank=1), number)
    _, said = launcher.communicate(timeout=300)
    assert launcher.returncode != 0
    assert not (output / "sparse").exists()
    return said


def whole_checkpoints(run):
    return list((run / "sparse.partial" / "checkpoints").glob("checkpoint-*[0-9]"))


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (signal.SIGKILL, r"another process of this run ended|Signal 9 \(SIGKILL\)"),
        (signal.SIGTERM, "interrupted; run the same command again to go on"),  # said by the first process
    ],
)
def test_a_killed_process_ends_the_run_and_it_goes_on_from_its_checkpoint(
    number, message, recipe, run_of_two, tmp_path
):
    output = tmp_path / "run"
    assert re.search(message, sent(number, recipe, output))
    assert all(checkpoints.damage(path) is None for path in whole_checkpoints(output))
    again = in_two(recipe, output)
    assert again.returncode == 0, again.stderr
    resumed, whole = (load_file(run / "sparse" / "model.safetensors") for run in (output, run_of_two))
    assert all(whole[name].equal(resumed[name]) for name in whole)
    assert provenance(output / "sparse")["pattern"] == provenance(run_of_two / "sparse")["pattern"]


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


def test_every_architecture_and_objective(tokenizer, corpus_file, tmp_path):
    """A parameter that gets no gradient, or one twice, stops DistributedDataParallel."""
    for architecture in CONFIGS:
        make_model(tmp_path / "models" / architecture, tokenizer, architecture, head=True)
    script = Path(__file__).with_name("ddp_worker.py")
    command = [*TORCHRUN, str(script), str(tmp_path / "models"), str(corpus_file), str(tmp_path / "made")]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "made").glob("*/pruneonce.json"))) == 3 * len(CONFIGS) + 1


def test_mistakes_are_said_once(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({"name": "x", "model": str(tmp_path / "none"), "corpus": {"source": "none.txt"},
                                    "prune": {"steps": 10, "learning_rate": 1e-3}}))  # fmt: skip
    done = in_two(file, tmp_path / "run")
    assert done.stderr.count("error: no model folder at") == 1
    assert not (tmp_path / "run").exists()


def test_sharded_weights_are_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match="Launch without FSDP or DeepSpeed"):
        distributed.start()
