"""The kill tests in short; benchmarks/reliability/kill.py is the long form of the same."""

import importlib
import json
import time

import pytest
import shared.scripts  # noqa: F401  # so that `benchmarks` can be imported
import yaml

pytestmark = pytest.mark.slow

SHORT = ("name", "model", "corpus", "prepare", "prune", "teacher", "transfer")  # sections of the recipe for torchrun


@pytest.fixture(scope="module")
def kill():
    return importlib.import_module("benchmarks.reliability.kill")


@pytest.fixture(scope="module")
def finished(kill, tmp_path_factory):
    """A folder with a finished run as the reference, which product quantization starts from as well."""
    work = tmp_path_factory.mktemp("kill")
    kill.make_inputs(work / "inputs")
    began = time.monotonic()
    kill.Run(kill.command(kill.RUN, work / "inputs", work / "reference"), work / "reference", forked=False).finish()
    (work / "state.json").write_text(json.dumps({"seconds": time.monotonic() - began}))
    (work / "inputs" / "run").symlink_to(work / "reference")
    return work


def killed(kill, count, work, work_of):
    """Kill so often, in processes of their own; every result is that of a run that was left alone."""
    state = kill.kill(count, work, seed=3, forked=False, work_of=work_of)
    assert sum(state["kills"].values()) == count
    assert state["finished"] >= 1
    assert state["unreadable"] == []
    assert state["different"] == []


def test_killed_at_drawn_moments(kill, finished):
    killed(kill, 2, finished, kill.RUN)


def test_product_quantization_killed_at_drawn_moments(kill, finished, tmp_path):
    (tmp_path / "inputs").symlink_to(finished / "inputs")
    killed(kill, 2, tmp_path, kill.PRODUCT)


def test_one_of_two_processes_killed_at_a_drawn_moment(kill, tmp_path):
    """Under torchrun, with a recipe of one task without a sweep, baselines and exports."""
    recipe = kill.make_inputs(tmp_path / "inputs")
    values = yaml.safe_load(recipe.read_text())
    short = {name: values[name] for name in SHORT}
    short["teacher"].pop("sweep")
    recipe.write_text(yaml.safe_dump({**short, "tasks": {"mood": values["tasks"]["mood"]}}, sort_keys=False))
    killed(kill, 1, tmp_path, kill.TORCHRUN)
