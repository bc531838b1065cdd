"""The kill test in short; benchmarks/reliability/kill.py is the long form of the same."""

import importlib

import pytest
import shared.scripts  # noqa: F401  # so that `benchmarks` can be imported

pytestmark = pytest.mark.slow


@pytest.fixture
def kill():
    return importlib.import_module("benchmarks.reliability.kill")


@pytest.mark.parametrize("work_of", ["run", "product-quantize", "torchrun"])
def test_killed_at_drawn_moments(work_of, kill, tmp_path):
    """Two kills, in processes of their own; every result is that of a run that was left alone."""
    state = kill.kill(2, tmp_path, seed=3, forked=False, work_of=work_of)
    assert sum(state["kills"].values()) == 2
    assert state["finished"] >= 1
    assert state["unreadable"] == []
    assert state["different"] == []
