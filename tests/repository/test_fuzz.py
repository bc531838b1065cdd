"""Damaged and hostile input in short; benchmarks/reliability/fuzz.py is the long form of the same."""

import importlib

import pytest
import shared.scripts  # noqa: F401  # so that `benchmarks` can be imported

CASES = {
    "recipe": 300,
    "packed_bytes": 100,
    "packed_lies": 60,
    "grids": 60,
    "checkpoint_files": 60,
    "model_folder": 25,
    "exports_damaged": 60,
    "exports_lying": 25,
}


@pytest.fixture(scope="module")
def fuzz():
    return importlib.import_module("benchmarks.reliability.fuzz")


@pytest.fixture(scope="module")
def targets(fuzz, tmp_path_factory):
    return fuzz.Targets(tmp_path_factory.mktemp("inputs"))


def test_all_targets_have_a_share(fuzz):
    assert CASES.keys() == fuzz.SHARES.keys()
    assert sum(share for _, share in fuzz.SHARES.values()) == 100


@pytest.mark.parametrize("target", CASES)
def test_only_the_documented_error(target, fuzz, targets, tmp_path):
    found = fuzz.check(getattr(targets, target), CASES[target], 1, tmp_path / "case" / "in")
    assert found["cases"] >= CASES[target]
    assert found["refused"] or target == "checkpoint_files"
