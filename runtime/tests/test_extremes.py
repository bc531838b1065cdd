"""Models and batches at the ends of what there is, in every engine; and that the kernels are fast."""

import time

import numpy as np
import pytest
import torch
from oracle import HEADS, packed, random_model
from pruneonce.models.architectures import prunable_weights
from shared.models import WORDS

from pruneonce_runtime import instruction_sets, load
from pruneonce_runtime.native import kernels
from pruneonce_runtime.spec import Linear, Matrix

ENGINES = [*instruction_sets(), "reference"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A classifier for texts of up to 512 tokens."""
    model = random_model(HEADS["sequence"], "bert", max_position_embeddings=512)
    return packed(tmp_path_factory.mktemp("extremes"), model, "calibrated").file


def agree(found, expected):
    """Probabilities; an input that rounding moves to its neighbour moves them a little."""
    np.testing.assert_allclose([one.probability for one in found], [one.probability for one in expected], atol=0.02)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["no zeros", "zeros alone", "one layer"])
def test_models(kind, engine, tmp_path):
    model = random_model(HEADS["sequence"], "bert", **({"num_hidden_layers": 1} if kind == "one layer" else {}))
    with torch.no_grad():
        for weight in [] if kind == "one layer" else prunable_weights(model).values():
            weight.copy_(torch.randn_like(weight) * 0.1 if kind == "no zeros" else torch.zeros_like(weight))
    file = packed(tmp_path, model, "calibrated").file
    texts = ["a great river", "awful winter"]
    agree(load(file, instructions=engine)(texts), load(file, instructions="reference")(texts))


@pytest.mark.parametrize("engine", ENGINES)
def test_lengths(engine, file):
    """A text without words, and one of as many tokens as there are positions."""
    model, reference = (load(file, instructions=name, max_length=512) for name in (engine, "reference"))
    texts = ["", " ".join((WORDS * 20)[:600])]
    assert [len(tokens) for tokens in model._parts.tokenizer.texts(texts, 512)] == [2, 512]
    agree(model(texts), reference(texts))
    agree([model("")], [reference("")])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_thousand_texts_are_those_one_by_one(engine, file):
    model = load(file, instructions=engine)
    chosen = np.random.default_rng(0)
    texts = [" ".join(chosen.choice(WORDS, size)) for size in chosen.integers(0, 40, 1000)]
    found = model(texts)
    assert len(found) == 1000
    for number in (0, 1, 17, 500, 999):
        agree([found[number]], [model(texts[number])])
        assert engine == "reference" or found[number] == model(texts[number])  # bit for bit


@pytest.mark.parametrize("engine", ENGINES)
def test_no_texts(engine, file):
    assert load(file, instructions=engine)([]) == []
    assert list(load(file, instructions=engine).stream(iter([]))) == []


@pytest.mark.skipif(kernels is None, reason="the kernels are not built")
def test_the_kernels_are_fast():
    """Beside a loop over the kept weights in numpy, in this process: the kernels take a tenth of its time, or less.

    The bound is generous: they take a fiftieth or less. The least of several runs of each counts.
    """
    draw = np.random.default_rng(0)
    weight = np.where(draw.random((384, 384)) < 0.1, draw.integers(-127, 128, (384, 384)), 0).astype(np.int8)
    scale = np.full(384, 0.01, np.float32)
    linear = Linear(Matrix(weight.shape, weight), 8, scale, np.zeros(384, np.float32), np.float32(0.02), 0)
    x = np.abs(draw.normal(0, 2, (64, 384))).astype(np.float32)
    quantized = np.ascontiguousarray(np.clip(np.rint(x / np.float32(0.02)), 0, 255).astype(np.int32).T)
    kept = [(row, *np.nonzero(weight[row])) for row in range(384)]

    def loop():
        return np.stack(
            [(weight[row, places].astype(np.int32)[:, None] * quantized[places]).sum(0) for row, places in kept]
        )

    matrix = kernels.Linear(linear)
    times, sums = {}, {}
    for name, work in (("kernel", lambda: matrix.sums(x)), ("loop", loop)):
        for _ in range(7):
            began = time.perf_counter()
            sums[name] = work()
            times[name] = min(times.get(name, np.inf), time.perf_counter() - began)
    np.testing.assert_array_equal(sums["kernel"], sums["loop"].T)
    print(f"the loop takes {times['loop'] / times['kernel']:.0f} times as long")
    assert times["kernel"] < times["loop"] / 10
