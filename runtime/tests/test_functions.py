"""Each operation against PyTorch, transformers or a plain loop."""

import math

import numpy as np
import pytest
import torch
from shared.models import CONFIGS
from transformers.models.modernbert.modeling_modernbert import ModernBertRotaryEmbedding, apply_rotary_pos_emb
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

from pruneonce_runtime import functions
from pruneonce_runtime.architectures import bucket
from pruneonce_runtime.spec import Linear, Matrix, Norm, RelativeBias

X = np.random.default_rng(0).normal(size=(50, 32)).astype(np.float32)


@pytest.mark.parametrize(("scale", "zero"), [(0.013, 117), (0.25, 0), (1 / 3, 255), (1e-5, 3)])
def test_inputs_are_quantized_as_pytorch_does(scale, zero):
    halves = (np.arange(-300, 300, dtype=np.float32) + 0.5) * np.float32(scale)  # ties, and what division would make so
    x = np.concatenate([X.ravel(), halves, np.linspace(-400 * scale, 400 * scale, 20_001), [0, 1e5, -1e5]])
    x = x.astype(np.float32)
    fake = torch.fake_quantize_per_tensor_affine(torch.from_numpy(x), scale, zero, 0, 255)
    expected = (fake.double() / np.float32(scale)).round().long().numpy() + zero
    np.testing.assert_array_equal(functions.quantize(x, np.float32(scale), zero), expected)


def test_quantization_is_not_a_division():
    """The two differ, so that the test above tells them apart."""
    scale = np.float32(0.013)
    x = ((np.arange(-300, 300) + 0.5) * scale).astype(np.float32)
    assert (np.clip(np.rint(x / scale) + 117, 0, 255) != functions.quantize(x, scale, 117)).any()


def test_inputs_that_are_no_numbers():
    x = np.array([np.nan, np.inf, -np.inf, 3e38], np.float32)
    assert functions.quantize(x, np.float32(1e-3), 7).tolist() == [0, 255, 0, 255]


def test_the_largest_sums_fit():
    q, weight = np.full((1, 1 << 16), 255, np.uint8), np.full((1, 1 << 16), -128, np.int8)
    assert functions.integer_sums(q, 0, weight).tolist() == [[-128 * 255 * (1 << 16)]]


def test_a_linear_by_hand():
    matrix = Matrix((2, 2), np.array([[1, -2], [3, 4]], np.int8))
    layer = Linear(matrix, 8, np.array([0.5, 2], np.float32), np.array([1, 0], np.float32), np.float32(0.25), 10)
    x = np.array([[1.0, -0.5]], np.float32)  # 14 and 8, or 4 and -2 from the zero point
    assert functions.linear(layer, x).tolist() == [[8 * 0.5 * 0.25 + 1, 4 * 2 * 0.25]]


def test_groups_of_weights():
    matrix = Matrix((1, 4), np.array([[1, 2, 3, 4]], np.int8))
    layer = Linear(matrix, 4, np.array([[0.5, 0.25]], np.float32))
    assert functions.linear(layer, np.ones((1, 4), np.float32)).tolist() == [[0.5 + 1 + 0.75 + 1]]


def test_erf():
    x = np.concatenate([np.linspace(-8, 8, 4001), [0.0, 1e-300, -1e-12, 40, -40]])
    expected = np.array([math.erf(value) for value in x])
    np.testing.assert_allclose(functions.erf(x), expected, rtol=1e-14, atol=0)
    assert functions.erf(np.zeros((0, 3))).shape == (0, 3)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("gelu", torch.nn.functional.gelu),
        ("gelu_tanh", lambda x: torch.nn.functional.gelu(x, approximate="tanh")),
        ("relu", torch.relu),
        ("silu", torch.nn.functional.silu),
        ("tanh", torch.tanh),
    ],
)
def test_activations(name, theirs):
    x = np.linspace(-12, 12, 2001).astype(np.float32)
    expected = theirs(torch.from_numpy(x).double()).numpy()
    np.testing.assert_allclose(functions.activate(name, x), expected, rtol=1e-6, atol=1e-14)


def test_sigmoid_of_large_numbers():
    assert functions.sigmoid(np.array([-1e4, 0.0, 1e4])).tolist() == [0, 0.5, 1]


def test_softmax():
    scores = np.concatenate([X * 30, np.full((50, 3), -np.inf, np.float32)], axis=1)
    expected = torch.softmax(torch.from_numpy(scores).double(), -1).numpy()
    np.testing.assert_allclose(functions.softmax(scores), expected, rtol=1e-6, atol=1e-30)
    assert (functions.softmax(scores)[:, 32:] == 0).all()


@pytest.mark.parametrize("biased", [True, False])
def test_layer_norm(biased):
    weight, bias = X[0], X[1] if biased else None
    expected = torch.nn.functional.layer_norm(
        torch.from_numpy(X).double(),
        (32,),
        torch.from_numpy(weight).double(),
        torch.from_numpy(bias).double() if biased else None,
        eps=1e-3,
    )
    np.testing.assert_allclose(functions.layer_norm(Norm(weight, bias, 1e-3), X), expected, rtol=1e-6, atol=1e-7)


def test_rotary_positions():
    config = CONFIGS["modernbert"]
    rotary = ModernBertRotaryEmbedding(config)
    for kind, theta in (("full_attention", 160_000.0), ("sliding_attention", 10_000.0)):
        places = torch.arange(100)[None]
        cosine, sine = rotary(torch.zeros(1), places, kind)
        x = np.random.default_rng(1).normal(size=(100, 2, 16)).astype(np.float32)
        given = torch.from_numpy(x).transpose(0, 1)[None]
        expected = apply_rotary_pos_emb(given, given, cosine, sine)[0][0].transpose(0, 1).numpy()
        frequencies = (1 / theta ** (np.arange(0, 16, 2) / 16)).astype(np.float32)
        np.testing.assert_allclose(functions.rotate(x, frequencies), expected, atol=2e-5)


def test_buckets_of_distances():
    distances = np.arange(-600, 601)
    expected = MPNetEncoder.relative_position_bucket(torch.from_numpy(distances)).numpy()
    np.testing.assert_array_equal(bucket(distances), expected)


def test_attention_by_a_plain_loop():
    generator = np.random.default_rng(2)
    q, k, v = generator.normal(size=(3, 11, 2, 4)).astype(np.float32)
    bias = RelativeBias(generator.normal(size=(2, 7)).astype(np.float32))
    expected = np.zeros((11, 2, 4))
    for head in range(2):
        for i in range(11):
            near = [j for j in range(11) if abs(i - j) <= 5]
            scores = [q[i, head] @ k[j, head] / 2 + bias.table[head, min(max(j - i, -3), 3) + 3] for j in near]
            powers = np.exp(np.array(scores, np.float64))
            expected[i, head] = (powers / powers.sum()) @ v[near, head]
    for rows in (1, 4, 256):
        found = functions.attention(q, k, v, bias, 5, rows)
        np.testing.assert_allclose(found, expected.reshape(11, 8), atol=1e-6)
