"""Damaged and hostile input in short; benchmarks/reliability/fuzz.py is the long form of the same."""

import inspect

import pytest
import shared.scripts  # noqa: F401  # so that `benchmarks` can be imported

from benchmarks.reliability import fuzz
from benchmarks.reliability.runtime import Runtime
from benchmarks.reliability.targets import RUNTIME_SHARES, SHARES, Targets
from pruneonce.errors import UserError


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    return Targets(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    pytest.importorskip("pruneonce_runtime")
    return Runtime(tmp_path_factory.mktemp("runtime"))


@pytest.mark.parametrize(("group", "shares"), [("targets", SHARES), ("runtime", RUNTIME_SHARES)])
def test_all_targets_have_a_share(group, shares, request):
    group = request.getfixturevalue(group)
    cases = {name for name in dir(group) if not name.startswith("_") and inspect.ismethod(getattr(group, name))}
    assert cases == shares.keys()
    assert sum(share.percent for share in shares.values()) == 100


@pytest.mark.parametrize("target", SHARES)
def test_only_the_documented_error(target, targets, tmp_path):
    found = fuzz.check(getattr(targets, target), SHARES[target].quick, 1, tmp_path / "case" / "in")
    assert found["cases"] >= SHARES[target].quick
    assert found["refused"] or target == "checkpoint_files"


@pytest.mark.parametrize("target", RUNTIME_SHARES)
def test_the_runtime_gives_only_its_documented_error(target, runtime, tmp_path):
    found = fuzz.check(getattr(runtime, target), RUNTIME_SHARES[target].quick, 1, tmp_path / "case" / "in")
    assert found["cases"] >= RUNTIME_SHARES[target].quick
    assert 0 < found["refused"] < found["cases"]


def bug(data, folder):
    raise ValueError("a bug")


def two_lines(data, folder):
    error = UserError("one")
    error.args = ("one\ntwo",)
    raise error


def no_words(data, folder):
    raise UserError(" ")


def outside(data, folder):
    (folder.parent / "elsewhere").touch()


@pytest.mark.parametrize(
    ("case", "error", "message"),
    [
        (bug, ValueError, "a bug"),
        (two_lines, AssertionError, "more than a line"),
        (no_words, AssertionError, "without words"),
        (outside, AssertionError, "written outside"),
    ],
)
def test_a_broken_promise_is_found(case, error, message, tmp_path):
    with pytest.raises(error, match=message):
        fuzz.check(case, 1, 1, tmp_path / "case" / "in")


def test_a_slow_case_is_found(monkeypatch, tmp_path):
    monkeypatch.setattr(fuzz, "SECONDS", 0.0)
    with pytest.raises(AssertionError, match=r"\d s"):
        fuzz.check(lambda data, folder: None, 1, 1, tmp_path / "case" / "in")
