"""Streams of the packed file come back as they were, in the room that they need; grids; the arithmetic of the limit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import save_file

from pruneonce.errors import UserError
from pruneonce.models import grid
from pruneonce.models.grid import Grid
from pruneonce.storage import coding, sizes
from pruneonce.storage.coding import DamagedError

few = settings(max_examples=60, deadline=None, derandomize=True, database=None)


# -- coding -----------------------------------------------------------------------------------------------------


@given(st.integers(0, 2000), st.sampled_from([0, 0.002, 0.1, 0.5, 1]), st.integers(0, 9))
@few
def test_pattern_comes_back(size, density, seed):
    kept = np.random.default_rng(seed).random(size) < density
    name, data = coding.encode_pattern(kept)
    assert np.array_equal(coding.decode_pattern(name, data, size), kept)


def test_a_gap_that_needs_escapes():
    """254, 255 and 256 zeros before a kept weight: the last value of a byte, the escape, and the first after it."""
    kept = np.zeros(3000, bool)
    kept[np.cumsum([255, 256, 257, 1, 700])] = True
    assert coding._gaps(kept).tolist() == [255, 0, 255, 0, 255, 1, 0, 255, 255, 189]
    assert np.array_equal(coding.decode_pattern("gaps", coding.compress(coding._gaps(kept).tobytes()), 3000), kept)


@pytest.mark.parametrize("bits", [2, 4, 5, 8])
@pytest.mark.parametrize("size", [0, 1, 2, 1001])
def test_values_come_back(bits, size):
    values = np.random.default_rng(size).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), size).astype(np.int8)
    name, data = coding.encode_values(values, bits)
    assert name == ("nibbles" if bits <= 4 and size > 1 else "bytes")
    assert np.array_equal(coding.decode_values(name, data, size), values)


@given(arrays(st.sampled_from(["<f4", "<f2", "<f8", "<i8", "u1", "?"]), st.integers(0, 300)))
@few
def test_planes_come_back(numbers):
    back = coding.decode_planes(coding.encode_planes(numbers), numbers.dtype, numbers.size)
    assert back.dtype == numbers.dtype
    assert back.tobytes() == numbers.tobytes()  # NaN and -0.0 included


@pytest.mark.parametrize("density", [0.01, 0.05, 0.1, 0.15, 0.3, 0.5, 0.7])
def test_patterns_are_near_their_entropy(density):
    kept = np.random.default_rng(0).random(1 << 18) < density
    limit = sizes.pattern_limit(int(kept.sum()), kept.size) / 8
    assert len(coding.encode_pattern(kept)[1]) < 1.04 * limit


@pytest.mark.parametrize(("bits", "spread"), [(8, 30), (8, 5), (4, 2.5)])
def test_values_are_near_their_entropy(bits, spread):
    top = 2 ** (bits - 1) - 1
    values = np.clip(np.rint(np.random.default_rng(0).normal(0, spread, 1 << 16)), -top, top).astype(np.int8)
    assert len(coding.encode_values(values, bits)[1]) < 1.03 * sizes.values_limit(values) / 8


def test_streams_of_another_size_are_refused():
    data = coding.compress(bytes(100))
    for wrong in (99, 101, 1 << 50):
        with pytest.raises(DamagedError):
            coding.decompress(data, wrong)
    for broken in (b"", b"no frame", data[:-1], data + b"x"):
        with pytest.raises(DamagedError):
            coding.decompress(broken, 100)
    for gaps in (bytes(11), bytes([5, 5]), bytes([255])):  # more weights, or further on, than there are
        with pytest.raises(DamagedError):
            coding.decode_pattern("gaps", coding.compress(gaps), 10)


# -- the limit, against numbers from a pocket calculator --------------------------------------------------------


def test_entropy_by_hand():
    assert sizes.pattern_limit(2, 8) == pytest.approx(6.490225)  # 8 H(1/4) = 8 (2 - 0.75 log2 3)
    assert sizes.pattern_limit(0, 8) == sizes.pattern_limit(8, 8) == 0
    assert sizes.pattern_limit(1, 10) / 10 == pytest.approx(0.468996)  # H(0.1)
    assert sizes.values_limit(np.array([1, -1, 2, -2] * 4, np.int8)) == pytest.approx(32)  # four alike: 2 bits each
    assert sizes.values_limit(np.array([], np.int8)) == 0
    # float32 1.0 and 2.0 are 00 00 80 3f and 00 00 00 40: two bytes of four differ, 1 bit each
    assert sizes.planes_limit(np.array([1, 2], np.float32)) == pytest.approx(4)


# -- grids ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "groups"), [(8, 1), (4, 1), (4, 4)])
def test_fit_rounds_to_the_nearest_within_its_channel(bits, groups):
    weight = np.random.default_rng(0).normal(size=(6, 32)).astype(np.float32)
    weight[:, ::3] = 0
    weight[2] = 0
    fitted = grid.fit(weight, bits, groups)
    assert fitted.scale.shape == ((6,) if groups == 1 else (6, groups))
    step = np.repeat(fitted.scale.reshape(6, groups), 32 // groups, axis=1)
    back = fitted.dequantize(fitted.quantize(weight))
    assert (np.abs(back - weight) <= step * 0.500001).all()
    assert (back[weight == 0] == 0).all()
    exact = np.abs(weight.reshape(6, groups, -1)).max(2) / fitted.highest
    has_any = exact > 0
    ratio = fitted.scale.reshape(6, groups)[has_any] / exact[has_any]
    assert ((ratio >= 1 - 1e-7) & (ratio < 1 + 2**-7)).all()
    assert (fitted.scale.view(np.uint32) % 2**16 == 0).all()  # what makes them cheap to store
    assert np.array_equal(fitted.dequantize(fitted.quantize(back)), back)


@pytest.mark.parametrize(
    ("shape", "fits"), [((1,), True), ((6,), True), ((6, 4), True), ((5,), False), ((6, 5), False)]
)
def test_shapes_of_scales(shape, fits):
    assert Grid(8, np.ones(shape, np.float32)).fits((6, 32)) is fits


def test_recorded_grids_come_back(tmp_path):
    assert grid.load(tmp_path) == {}
    grids = {"a": Grid(8, np.array([0.5], np.float32)), "b": Grid(4, np.ones((2, 3), np.float32))}
    grid.save(tmp_path, grids)
    back = grid.load(tmp_path)
    assert {name: (one.bits, one.scale.tolist()) for name, one in back.items()} == {
        name: (one.bits, one.scale.tolist()) for name, one in grids.items()
    }


@pytest.mark.parametrize(
    ("scale", "metadata"),
    [
        (1.0, None),
        (1.0, {"format": "pruneonce-quantization", "bits": "{}"}),
        (1.0, {"format": "pruneonce-quantization", "bits": '{"a": 9}'}),
        (1.0, {"format": "pruneonce-quantization", "bits": '["a"]'}),
        (-1.0, {"format": "pruneonce-quantization", "bits": '{"a": 8}'}),
        (np.nan, {"format": "pruneonce-quantization", "bits": '{"a": 8}'}),
    ],
)
def test_what_is_not_a_record_of_grids(scale, metadata, tmp_path):
    save_file({"a.scale": np.array([scale], np.float32)}, tmp_path / grid.FILE, metadata=metadata)
    with pytest.raises(UserError, match="does not record quantization grids"):
        grid.load(tmp_path)
