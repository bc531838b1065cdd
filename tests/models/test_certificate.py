"""Block "Certificate" of a card: percentages, examples and engines as people write them."""

import pytest

from pruneonce.models.certificate import facts, footing
from pruneonce.wording import percent, percent_as_set

ENDS = {"low": 0.8, "high": 0.9}
CERTIFICATE = {
    "task": {"metric": "accuracy"},
    "units": 1000,
    "split": "test",
    "score": {"value": 0.85, **ENDS},
    "reference": {"value": 0.86, **ENDS},
    "difference": {"value": -0.01, "low": -0.02, "high": 0.0, "test": "McNemar, exact", "p": 0.25},
    "changes": {},
    "interval": {"method": "percentile bootstrap", "confidence": 0.95, "resamples": 2000, "seed": 0},
    "speed": [{"engine": "onnxruntime", "title": "ONNX Runtime", "milliseconds": 2.0, "busy": False}],
    "processor": "Zen 5",
    "threads": 2,
}


def test_units_and_confidence_are_words():
    assert footing(CERTIFICATE).startswith("In percent, on 1,000 examples of `test`, with 95 % intervals: ")
    assert footing(CERTIFICATE | {"unit": "queries"}).startswith("In percent, on 1,000 queries of `test`, with 95 % ")


def test_engines_have_their_titles():
    assert facts(CERTIFICATE)["a text in ONNX Runtime"] == "2.00 ms"
    speed = {"engine": "openvino", "title": "OpenVINO", "variant": "zeros skipped", "milliseconds": 1, "busy": False}
    assert facts(CERTIFICATE | {"speed": [speed]})["a text in OpenVINO (zeros skipped)"] == "1.00 ms"


@pytest.mark.parametrize(
    ("share", "text"), [(0.95, "95 %"), (0.999, "99.9 %"), (2 / 3, "66.67 %"), (0.29, "29 %"), (1, "100 %")]
)
def test_a_share_that_was_set_has_no_zeros_at_its_end(share, text):
    assert percent_as_set(share) == text


def test_a_measured_share_has_its_decimals():
    assert (percent(0.5), percent(0.12345, 2), percent(0.01, sign="+")) == ("50.0 %", "12.35 %", "+1.0 %")
