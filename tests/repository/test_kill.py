"""The kill test in short; benchmarks/reliability/kill.py is the long form of the same."""

import importlib

import pytest
import shared.scripts  # noqa: F401  # so that `benchmarks` can be imported

pytestmark = pytest.mark.slow


@pytest.fixture
def kill():
    return importlib.import_module("benchmarks.reliability.kill")


def test_killed_at_drawn_moments(kill, tmp_path):
    """Two kills, in processes of their own; every result is that of a run that was left alone."""
    state = kill.kill(2, tmp_path, seed=3, forked=False)
    assert sum(state["kills"].values()) == 2
    assert state["finished"] >= 1
    assert state["unreadable"] == []
    assert state["different"] == []
