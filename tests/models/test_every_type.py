"""Every type of transformers' masked-language mapping goes through the steps as docs/architectures.md says."""

import json
import re

import pytest
import torch
from shared.scripts import BENCHMARKS
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from benchmarks import architectures
from benchmarks.architectures import DOCUMENT, STEPS, Trial, batch_of, difference, least_error, logits_of, run, written

QUICK = ("xlm-roberta", "deberta-v2", "nomic_bert", "gte", "convbert", "big_bird")
SHORT = ("prune", "transfer", "verify", "int8", "pack")
RESULT = BENCHMARKS / "results" / "architectures.json"
FOUND = json.loads(RESULT.read_text(encoding="utf-8"))
ROWS = {name: dict(zip(STEPS, cells, strict=True)) for name, _, *cells in FOUND["blocks"][1]["rows"]}


def test_the_page_has_every_type_and_is_that_of_its_result():
    assert set(ROWS) == set(MODEL_FOR_MASKED_LM_MAPPING_NAMES)
    assert DOCUMENT.read_text(encoding="utf-8").endswith(written(FOUND))


def test_no_outcome_is_a_fault_of_this_package():
    notes = FOUND["blocks"][-1]
    assert "Error:" not in notes
    assert "bug in pruneonce" not in notes
    numbers = {int(n) for row in ROWS.values() for cell in row.values() for n in re.findall(r"no \((\d+)\)", cell)}
    assert numbers == set(range(1, notes.count("\n") + 2))


def works(model_type, steps):
    outcome = run(model_type, steps)
    expected = {step: "works" for step in steps if ROWS[model_type][step] == "works"}
    assert {step: value for step, value in outcome.items() if value == "works"} == expected, outcome


@pytest.mark.parametrize("model_type", QUICK)
def test_a_type_is_pruned_transferred_quantized_and_packed(model_type):
    works(model_type, SHORT)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", sorted(set(ROWS) - set(QUICK)))
def test_every_other_type_too(model_type):
    works(model_type, SHORT)


@pytest.mark.slow
def test_an_export_is_compared_by_the_spread_of_logits_and_a_wrong_one_fails(tmp_path, monkeypatch):
    trial = Trial("xlm-roberta", tmp_path)
    for step in ("prune", "transfer", "int8"):
        getattr(trial, step)()
    assert re.fullmatch(r"\de-0\d of \de-01", trial.exported("onnx", "onnxruntime"))
    model = architectures.quantization.load(tmp_path / "int8")
    batch = batch_of(architectures.TEXTS)
    expected = logits_of(model, batch)
    assert difference(expected + 100, expected) > 1e3  # a constant is no spread
    assert 0 < least_error(model, batch) < 1
    usual = architectures.quantization.load

    def wrong(folder):
        """The model with a Linear whose weights are 10 % too large, in the place of the exported one."""
        changed = usual(folder)
        with torch.no_grad():
            changed.roberta.encoder.layer[1].attention.self.value.weight.mul_(1.1)
        return changed

    monkeypatch.setattr(architectures.quantization, "load", wrong)
    with pytest.raises(AssertionError, match="logits differ by"):
        trial.exported("onnx", "onnxruntime")
