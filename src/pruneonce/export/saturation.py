"""int8 weights whose products cannot overflow on x86 processors without VNNI.

On these processors engines multiply with `vpmaddubsw`, which sums two neighbouring products of uint8 and int8 in 16
bits and cuts off sums beyond int16. Assumption: neighbours are the inputs 2j and 2j + 1 of an output, as in kernels
that take four inputs at a time from the first one on. Inputs are 0 to 255, so no sum of a pair w, v can overflow if and
only if

    255 (max(w, 0) + max(v, 0)) <= 32767   and   255 (min(w, 0) + min(v, 0)) >= -32768,

that is, if w and v differ in sign or `|w| + |v| <= 128`.

https://www.felixcloutier.com/x86/pmaddubsw
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from pruneonce.quantization import QuantizedLinear, quantize_weight

Array = np.ndarray[Any, Any]

MOST = 128  # of |w| + |v|, for neighbours of one sign: 255 * 128 = 32640
STEPS = 16  # scales that `fitted` tries, from 1 to 2 times the old one


def overflowing(integers: Array) -> Array:
    """Return the pairs that can overflow.

    Args:
        integers: [out, in], of 8 bits.

    Returns:
        bool [out, ceil(in / 2)].
    """
    return _excess(_pairs(integers.astype(np.int32))) > 0


def counts(model: nn.Module) -> dict[str, int]:
    """Count the Linears with int8 weights and inputs (`layers`), and those with pairs that can overflow."""
    found = [bool(overflowing(integers).any()) for _, integers in _layers(model)]
    return {"layers": len(found), "overflowing": sum(found)}


def fit(model: nn.Module) -> None:
    """Change the int8 weights of a fake-quantized model so that no pair can overflow, in place; see `fitted`."""
    for linear, integers in _layers(model):
        fitting, scale = fitted(integers, linear.weight_scale.numpy())
        linear.weight_scale = torch.from_numpy(scale)
        rows = torch.from_numpy(fitting).float().reshape(scale.size, -1) * linear.weight_scale.reshape(-1, 1)
        linear.weight = nn.Parameter(rows.view_as(linear.weight))


def fitted(integers: Array, scale: Array) -> tuple[Array, Array]:
    """Return integers and scales near the given ones with no pair that can overflow; zeros stay zeros.

    For each scale f s, f = 1, 1 + 1/16, ... 2, the weights s q are rounded to `round(q / f)`, and the larger and the
    smaller of a pair that can still overflow give up half of the excess over 128 each. The f of the least squared error
    is taken, the smallest f of several. Weights without such a pair under their scale keep integers and scale.

    Args:
        integers: int8 [out, in].
        scale: float32, of any granularity: the weights in order, divided evenly.

    Returns:
        int8 [out, in], and float32 of the shape of `scale`.
    """
    given = integers.astype(np.float32)
    best, least = given, np.full(scale.size, np.inf)
    factors = np.ones(scale.size, dtype=np.float32)
    for factor in 1 + np.arange(STEPS + 1, dtype=np.float32) / STEPS:
        tried = _clipped(np.rint(given / factor))
        errors = np.square(tried * factor - given).reshape(scale.size, -1).sum(1)
        better = errors < least
        least, factors = np.where(better, errors, least), np.where(better, factor, factors)
        rows = np.where(better[:, None], tried.reshape(scale.size, -1), best.reshape(scale.size, -1))
        best = rows.reshape(given.shape)
        if not least.any():
            break
    # A pair may lie across the weights of two scales.
    return _clipped(best).astype(np.int8), (scale * factors.reshape(scale.shape)).astype(np.float32)


def _layers(model: nn.Module) -> Iterator[tuple[QuantizedLinear, Array]]:
    """Yield each Linear with int8 weights and uint8 inputs, and its integers [out, in]."""
    for module in model.modules():
        if isinstance(module, QuantizedLinear) and module.bits == 8 and module.input_grid is not None:
            yield module, quantize_weight(module.weight, module.weight_scale).numpy()


def _pairs(integers: Array) -> Array:
    """Return [out, in] as [out, ceil(in / 2), 2], with a zero beside the last of an odd number of inputs."""
    rows = np.pad(integers, ((0, 0), (0, integers.shape[1] % 2)))
    return rows.reshape(len(rows), -1, 2)


def _excess(pairs: Array) -> Array:
    """Return |w| + |v| - 128 of pairs of one sign, and 0 of those that cannot overflow."""
    size = np.abs(pairs.sum(-1))  # |w| + |v| where signs are equal; at most 127 elsewhere
    return np.maximum(size - MOST, 0)


def _clipped(integers: Array) -> Array:
    pairs = _pairs(integers)
    excess = _excess(pairs)
    sizes = np.abs(pairs)
    larger = sizes[..., :1] >= sizes[..., 1:]
    halves = np.stack([np.ceil(excess / 2), np.floor(excess / 2)], -1)
    less = np.where(larger, halves, halves[..., ::-1])
    return (np.sign(pairs) * (sizes - less)).reshape(len(pairs), -1)[:, : integers.shape[1]]
