"""How the benchmarks compare a model in an engine with the same model in PyTorch."""

import importlib

import pytest
import shared.scripts  # noqa: F401  # so that `benchmarks` can be imported

from pruneonce import stages
from pruneonce.engines import open_engine
from pruneonce.models import load_tokenizer


@pytest.fixture
def compared():
    return importlib.import_module("benchmarks.agreement").compared


def test_a_model_agrees_with_itself_and_not_with_its_opposite(compared, models, task, tmp_path):
    dense, _ = models
    engine = open_engine(dense, "torch")

    def opposite(batch):
        return {"logits": -engine(batch)["logits"]}

    tokenizer, ways = load_tokenizer(dense), {"torch": engine, "opposite": opposite}
    found = compared(task, tokenizer, ways, "torch", tmp_path)
    ours, theirs = found["torch"], found["opposite"]
    assert ours["accuracy"] == stages.evaluate(dense, task, splits=["test"])["test"]["accuracy"]
    assert (ours["largest"], ours["typical"], ours["changed"], ours["examples"]) == (0, 0, 0, 40)
    assert theirs["accuracy"] == pytest.approx(1 - ours["accuracy"])
    assert theirs["changed"] == 40
    assert theirs["largest"] == pytest.approx(2 * ours["range"])
    assert 0 < theirs["typical"] < theirs["largest"]
