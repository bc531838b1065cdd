"""int8 products on x86 processors without VNNI: which weights overflow there, and weights that do not."""

import numpy as np
import pytest

from pruneonce.export.saturation import MOST, fitted, overflowing


def saturating(inputs, integers):
    """Multiply uint8 [rows, in] by int8 [out, in] as `vpmaddubsw` and `vpmaddwd` do: pairs are cut off at int16."""
    products = inputs[:, None].astype(np.int32) * integers[None].astype(np.int32)
    pairs = products.reshape(*products.shape[:2], -1, 2).sum(-1)
    return np.clip(pairs, -(2**15), 2**15 - 1).sum(-1)


def extreme_inputs(integers):
    """For each output and sign, the inputs that are largest where its weights have that sign."""
    return np.concatenate([255 * (integers > 0), 255 * (integers < 0)]).astype(np.uint8)


def exact(inputs, integers):
    return inputs.astype(np.int64) @ integers.T.astype(np.int64)


@pytest.fixture
def weights():
    random = np.random.default_rng(0)
    integers = np.clip(np.rint(random.normal(0, 40, (48, 64))), -127, 127).astype(np.int8)
    integers[:16][random.random((16, 64)) < 0.9] = 0
    integers[16] = 3  # cannot overflow
    integers[17, :4] = (127, 127, -127, 127)
    return integers, np.linspace(0.001, 0.01, 48).astype(np.float32)


def test_every_pair_of_integers():
    """A pair overflows in the emulated instruction with some inputs if and only if it is found."""
    values = np.arange(-127, 128)
    pairs = np.stack(np.meshgrid(values, values), -1).reshape(-1, 2).astype(np.int8)
    inputs = np.uint8([[255, 255], [255, 0], [0, 255]])
    wrong = (saturating(inputs, pairs) != exact(inputs, pairs)).any(0)
    np.testing.assert_array_equal(overflowing(pairs)[:, 0], wrong)
    assert wrong.any()


def test_fitted_weights_are_multiplied_exactly(weights):
    integers, scale = weights
    inputs = extreme_inputs(integers)
    assert (saturating(inputs, integers) != exact(inputs, integers)).any(), "there is something to repair"
    found, _ = fitted(integers, scale)
    assert found.dtype == np.int8
    assert not overflowing(found).any()
    inputs = np.concatenate([extreme_inputs(found), inputs])
    np.testing.assert_array_equal(saturating(inputs, found), exact(inputs, found))


def test_fitted_weights_are_near_and_keep_zeros(weights):
    integers, scale = weights
    found, scales = fitted(integers, scale)
    assert not found[integers == 0].any()
    untouched = ~overflowing(integers).any(1)
    assert 1 < untouched.sum() < 48
    np.testing.assert_array_equal(found[untouched], integers[untouched])
    np.testing.assert_array_equal(scales[untouched], scale[untouched])
    steps = np.abs(found * scales[:, None] - integers * scale[:, None]) / scale[:, None]
    halved = np.abs(np.rint(integers / 2) * 2 - integers)
    assert (np.square(steps).sum(1) <= np.square(halved).sum(1) + 1e-3).all(), "no worse than 7 bits for all"


@pytest.mark.parametrize("shape", [(1,), (6,), (6, 3)])
def test_every_granularity_and_an_odd_number_of_inputs(shape):
    integers = np.full((6, 9), 127, dtype=np.int8)
    integers[3] = 1
    found, scales = fitted(integers, np.full(shape, 0.5, dtype=np.float32))
    assert (found.shape, scales.shape) == (integers.shape, shape)
    assert not overflowing(found).any()
    assert (np.abs(found.astype(int)[:, 0] + found[:, 1]) <= MOST).all()
