"""The grid in NumPy, which is written and packed, and the grid in PyTorch, which is trained on, are one grid."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pruneonce.models import grid
from pruneonce.quantization import quantize_weight, symmetric_scale

ROWS, GROUPS, GROUP = 3, 2, 4
LARGEST = float(np.float32(3.3e38))  # a scale that is rounded up from more would be infinite
FLOATS = st.floats(-LARGEST, LARGEST, width=32)
NEAR = st.floats(-4, 4, width=32)  # where rounding decides, and where numbers of models are
WEIGHTS = arrays(np.float32, (ROWS, GROUPS * GROUP), elements=st.one_of(NEAR, FLOATS, st.just(np.float32(0))))
BITS = st.sampled_from(list(grid.BITS))


def bits_of(values):
    return np.asarray(values, dtype=np.float32).view(np.uint32).tolist()


@settings(max_examples=300, deadline=None)
@given(WEIGHTS, BITS, st.sampled_from(["channel", "group", "tensor"]))
def test_scales_and_integers_are_equal_bit_for_bit(weight, bits, granularity):
    tensor = torch.from_numpy(weight)
    scale = symmetric_scale(tensor, bits, granularity, GROUP)
    if granularity == "tensor":
        fitted = grid.fit(weight.reshape(1, -1), bits)
    else:
        fitted = grid.fit(weight, bits, GROUPS if granularity == "group" else 1)
    assert bits_of(fitted.scale) == bits_of(scale)
    of_scale = grid.Grid(bits, scale.numpy())
    integers = of_scale.quantize(weight)
    assert integers.tolist() == quantize_weight(tensor, scale, bits).tolist()
    assert abs(integers.astype(int)).max() <= grid.largest_integer(bits), "a grid that is made here is symmetric"


@pytest.mark.parametrize("bits", list(grid.BITS))
def test_the_lowest_integer_is_read_and_never_made(bits):
    """A model of another maker may use -2^(b-1), and is packed without loss; what is made here leaves it out."""
    most = grid.largest_integer(bits)
    scale = np.full(1, 0.5, np.float32)
    lowest = np.full((1, 2), -(most + 1) * 0.5, np.float32)
    on_grid = grid.Grid(bits, scale)
    integers = on_grid.quantize(lowest)
    assert integers.tolist() == [[-(most + 1)] * 2]
    assert on_grid.dequantize(integers).tolist() == lowest.tolist()
    assert quantize_weight(torch.from_numpy(lowest), torch.from_numpy(scale), bits).tolist() == [[-most] * 2]
