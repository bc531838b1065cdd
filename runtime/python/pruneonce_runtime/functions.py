"""The operations of a network, each a pure function in numpy: what every engine's kernels are measured against.

Numbers are float32 between operations. Inside one, sums and transcendental functions are in float64 and rounded once
at the end, so that an engine may sum in any order and differ by no more than its own rounding. The exceptions are
`quantize`, `integer_sums` and `scaled`, which are exact: an engine gives the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from pruneonce_runtime.file import dequantized
from pruneonce_runtime.spec import Activation, Bytes, Floats, Int8s, Int32s, Linear, Norm, RelativeBias, Table

Doubles = npt.NDArray[np.float64]


def quantize(x: Floats, scale: np.float32, zero: int) -> Bytes:
    """`clamp(rint(x * (1 / s)) + z, 0, 255)`: the inverse and the product in float32, ties to even; nan gives 0.

    This is the order of `torch.fake_quantize_per_tensor_affine`. Division by the scale, as ONNX's QuantizeLinear has
    it, would round some inputs to the neighbour.
    """
    with np.errstate(over="ignore"):
        steps = np.rint(x * (np.float32(1) / scale)) + np.float32(zero)
    q: Bytes = np.fmin(np.fmax(steps, np.float32(0)), np.float32(255)).astype(np.uint8)
    return q


def integer_sums(q: Bytes, zero: int, weight: Int8s) -> Int32s:
    """`sum_i w[o, i] (q[r, i] - z)`, exact.

    float64 holds every integer below 2^53, so that its sums are exact in any order, and numpy multiplies no integer
    matrices fast. The zero point may be taken out instead: `sum w q - z sum w`.

    Args:
        q: [rows, in].
        weight: [out, in]; at most `MAX_INPUTS` in.

    Returns:
        int32 [rows, out].
    """
    return ((q.astype(np.float64) - zero) @ weight.astype(np.float64).T).astype(np.int32)


def scaled(sums: Int32s, scale: Floats, input_scale: np.float32, bias: Floats | None) -> Floats:
    """`sum * (s_w * s_x) + b`: the sum rounded to float32, both products and the addition in float32, not fused.

    Args:
        sums: int32 [rows, out].
        scale: [1] or [out].
    """
    y = sums.astype(np.float32) * (scale * input_scale)
    return y if bias is None else y + bias


def linear(layer: Linear, x: Floats) -> Floats:
    """x [rows, in] to [rows, out]; see `Linear` for its three forms."""
    if layer.input_scale is not None and layer.scale is not None:
        q = quantize(x, layer.input_scale, layer.input_zero)
        sums = integer_sums(q, layer.input_zero, layer.weight)  # type: ignore[arg-type]
        return scaled(sums, layer.scale, layer.input_scale, layer.bias)
    weight = layer.weight if layer.scale is None else dequantized(layer.weight, layer.scale)
    y = x.astype(np.float64) @ weight.astype(np.float64).T
    return rounded(y if layer.bias is None else y + layer.bias)


def lookup(table: Table, rows: Int32s) -> Floats:
    """Rows of a table, `q * scale` in float32 where it is quantized: [n, width]."""
    values = table.values[rows].astype(np.float32)
    return values if table.scale is None else values * table.scale[rows, None]


def layer_norm(norm: Norm, x: Floats) -> Floats:
    """`(x - mean) / sqrt(mean((x - mean)^2) + eps) * weight + bias` over the last axis."""
    wide = x.astype(np.float64)
    centred = wide - wide.mean(-1, keepdims=True)
    y = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + norm.eps) * norm.weight
    return rounded(y if norm.bias is None else y + norm.bias)


def softmax(scores: Floats) -> Floats:
    """`e^(x - max) / sum` over the last axis; -inf gives 0."""
    powers = np.exp(scores.astype(np.float64) - scores.max(-1, keepdims=True))
    return rounded(powers / powers.sum(-1, keepdims=True))


def erf(x: Doubles) -> Doubles:
    """The error function, to about 1e-14: `2 / sqrt(pi) e^(-x^2) sum_n 2^n x^(2n+1) / (1 3 5 ... (2n+1))`.

    All terms of the series have the sign of x, so nothing cancels (Abramowitz and Stegun, 7.1.6). Beyond 6 the result
    is 1 to the last bit of float64.
    """
    bounded = np.clip(x, -6.0, 6.0)
    square = bounded * bounded
    term = bounded.copy()
    total = bounded.copy()
    n = 0
    while term.size and np.abs(term).max() > 1e-17 * max(1.0, np.abs(total).max()):
        n += 1
        term *= 2 * square / (2 * n + 1)
        total += term
    return np.asarray(2 / math.sqrt(math.pi) * np.exp(-square) * total)


def gelu(x: Doubles) -> Doubles:
    """`x / 2 (1 + erf(x / sqrt(2)))`, https://arxiv.org/abs/1606.08415."""
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


def gelu_tanh(x: Doubles) -> Doubles:
    """`x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`, the approximation there."""
    share: Doubles = 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    return x * share


def silu(x: Doubles) -> Doubles:
    """`x / (1 + e^-x)`."""
    return x * sigmoid(x)


def sigmoid(x: Doubles) -> Doubles:
    """`1 / (1 + e^-x)`, by way of tanh, which does not overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def relu(x: Doubles) -> Doubles:
    """`max(x, 0)`."""
    return np.where(x > 0, x, 0.0)


FUNCTIONS: dict[Activation, Callable[[Doubles], Doubles]] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "relu": relu,
    "silu": silu,
    "tanh": np.tanh,
}


def activate(activation: Activation, x: Floats) -> Floats:
    return rounded(FUNCTIONS[activation](x.astype(np.float64)))


def rotate(x: Floats, frequencies: Floats) -> Floats:
    """Rotary positions, https://arxiv.org/abs/2104.09864: halves (a, b) of each vector to (a c - b s, b c + a s).

    The angle is `position * frequency` rounded to float32; c and s are its cosine and sine rounded to float32.

    Args:
        x: [tokens, heads, head_dim] of one text, whose first token is at position 0.
        frequencies: [head_dim / 2].
    """
    angles = np.arange(len(x), dtype=np.float32)[:, None] * frequencies
    cosine, sine = rounded(np.cos(angles.astype(np.float64))), rounded(np.sin(angles.astype(np.float64)))
    a, b = np.split(x, 2, axis=-1)
    cosine, sine = cosine[:, None, :], sine[:, None, :]
    return np.concatenate([a * cosine - b * sine, b * cosine + a * sine], axis=-1)


def attention(
    queries: Floats, keys: Floats, values: Floats, bias: RelativeBias | None, window: int | None, rows: int = 256
) -> Floats:
    """Attention within one text: `softmax(q k^T head_dim^-0.5 + bias) v`, by head.

    The product is rounded to float32, multiplied by the float32 `head_dim^-0.5`, then the bias is added, in float32.

    Args:
        queries, keys, values: [tokens, heads, head_dim].
        bias: by distance, see `RelativeBias`.
        window: see `Layer`.
        rows: queries at a time; they bound the memory, not the result.

    Returns:
        [tokens, heads * head_dim].
    """
    tokens, heads, width = queries.shape
    factor = np.float32(width**-0.5)
    places = np.arange(tokens)
    found = np.empty((tokens, heads, width), np.float32)
    for start in range(0, tokens, rows):
        chosen = slice(start, start + rows)
        distances = places[None, :] - places[chosen, None]  # [queries, keys], j - i
        for head in range(heads):
            scores = rounded(queries[chosen, head].astype(np.float64) @ keys[:, head].astype(np.float64).T) * factor
            if bias is not None:
                scores = scores + bias.table[head, np.clip(distances, -bias.reach, bias.reach) + bias.reach]
            if window is not None:
                scores = np.where(np.abs(distances) <= window, scores, np.float32(-np.inf))
            shares = softmax(scores).astype(np.float64)
            found[chosen, head] = shares @ values[:, head].astype(np.float64)
    return found.reshape(tokens, heads * width)


def rounded(x: Any) -> Floats:
    """float64 to float32."""
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(x, dtype=np.float32)
