"""A network as arrays and numbers, free of architecture names: all that an engine needs to run it.

`architectures.py` builds a `Network` out of a model's files; `reference.py` says what each part computes. Arrays are
read-only, C-contiguous and little-endian, and may be shared with other networks of a family.

A batch is ragged: the tokens of all texts are laid end to end, with no padding. What runs it is an `Engine`.

    ids      int32 [total]    token ids, each below `embeddings.words.rows`
    offsets  int32 [texts+1]  text t has the tokens offsets[t]:offsets[t+1]; offsets[0] is 0, offsets[texts] is total
    types    int32 [total]    token types, each below `embeddings.types.rows`; None: all are 0

No text is empty and none is longer than `encoder.max_tokens`; `check_batch` refuses others. There may be no text.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from pruneonce_runtime.errors import PruneonceError

Floats = npt.NDArray[np.float32]
Int8s = npt.NDArray[np.int8]
Int32s = npt.NDArray[np.int32]
Bytes = npt.NDArray[np.uint8]

Activation = Literal["gelu", "gelu_tanh", "relu", "silu", "tanh"]
MAX_INPUTS = 1 << 16  # of a Linear with quantized inputs: 2^16 * 128 * 255 is below 2^31, so that sums fit into int32


@dataclass(frozen=True, eq=False)
class Pattern:
    """Which weights of a matrix are kept; one object for all members of a family that store it once.

    Attributes:
        bits: uint8 [ceil(size / 8)], a bit for each weight in row-major order, 1 if kept; the first in the highest bit.
        size: number of weights.
        kept: number of kept weights.
    """

    bits: Bytes
    size: int
    kept: int

    def mask(self) -> npt.NDArray[np.bool_]:
        """[size], True where a weight is kept; made anew at each call."""
        return np.unpackbits(self.bits, count=self.size).view(np.bool_)


@dataclass(frozen=True, eq=False)
class Matrix:
    """The numbers of a weight, without its scale.

    Attributes:
        shape: (rows, columns).
        values: int8 or float32. Without a pattern [rows, columns]; with one [kept], the kept weights in row-major
            order, all others being 0. A kept weight may be 0 as well.
    """

    shape: tuple[int, int]
    values: Int8s | Floats
    pattern: Pattern | None = None

    @property
    def rows(self) -> int:
        return self.shape[0]

    @property
    def columns(self) -> int:
        return self.shape[1]

    def dense(self) -> Int8s | Floats:
        """[rows, columns]. Without a pattern `values` themselves, else an array that is made anew at each call."""
        if self.pattern is None:
            return self.values
        full = np.zeros(prod(self.shape), self.values.dtype)
        full[self.pattern.mask()] = self.values
        return full.reshape(self.shape)


@dataclass(frozen=True, eq=False)
class Linear:
    """`y = x W^T + b` for x [rows, in], in one of three forms:

    - dense: float32 weights, no scale, float32 inputs;
    - weights on a grid: int8 weights with scales, float32 inputs; the weight is `q * scale` in float32;
    - integer: int8 weights and uint8 inputs (`input_scale` is set); scales are [1] or [out], never grouped.

    Attributes:
        matrix: int8 or float32 [out, in].
        bits: 2 to 8 of an int8 matrix: integers are in -2^(bits-1) .. 2^(bits-1) - 1. 32 of a float32 one.
        scale: float32 [1], [out] or [out, groups] (`in / groups` neighbouring inputs of an output share one), positive;
            None with a float32 matrix.
        bias: float32 [out]; None: no bias.
        input_scale: float32 number, positive: inputs are put on uint8, `x ~ input_scale * (q - input_zero)`; None:
            inputs stay float32.
        input_zero: 0 to 255.
    """

    matrix: Matrix
    bits: int = 32
    scale: Floats | None = None
    bias: Floats | None = None
    input_scale: np.float32 | None = None
    input_zero: int = 0

    @property
    def weight(self) -> Int8s | Floats:
        """int8 or float32 [out, in]; see `Matrix.dense`."""
        return self.matrix.dense()

    @property
    def outputs(self) -> int:
        return self.matrix.rows

    @property
    def inputs(self) -> int:
        return self.matrix.columns


@dataclass(frozen=True, eq=False)
class Norm:
    """LayerNorm over the last axis: `(x - mean) / sqrt(variance + eps) * weight + bias`, weight and bias float32
    [width]; no bias: None."""

    weight: Floats
    bias: Floats | None
    eps: float


@dataclass(frozen=True, eq=False)
class Table:
    """An embedding table. Row r is `values[r]`, or of int8 values `values[r] * scale[r]` in float32.

    Attributes:
        values: int8 or float32 [rows, width].
        scale: float32 [rows]; None with float32 values.
    """

    values: Int8s | Floats
    scale: Floats | None = None

    @property
    def rows(self) -> int:
        return int(self.values.shape[0])

    @property
    def width(self) -> int:
        return int(self.values.shape[1])


@dataclass(frozen=True, eq=False)
class Embeddings:
    """The input of the first layer: `projection(norm(words[id] + types[type] + positions[position]))`.

    Sums are in this order. Without a table, its term is absent. Without a projection, the norm is the input.

    Attributes:
        words: [vocabulary, width].
        positions: [positions, width]; the first token of a text has the position `position_offset`, the next one more.
        types: [types, width].
        norm: of width.
        projection: [hidden, width], where tables are of another width than the layers.
        position_offset: rows at the start of `positions` that no token takes.
        pad_id: a token with this id takes the position `position_offset - 1` and is not counted, wherever it stands in
            a text; None: all tokens are counted.
    """

    words: Table
    positions: Table | None
    types: Table | None
    norm: Norm
    projection: Linear | None = None
    position_offset: int = 0
    pad_id: int | None = None


@dataclass(frozen=True, eq=False)
class Rotary:
    """Rotary positions: queries and keys of each head are turned by their position in the text, counted from 0.

    For a vector (a, b) of two halves and the angles `position * frequencies` it is
    (a cos - b sin, b cos + a sin).

    Attributes:
        frequencies: float32 [head_dim / 2].
    """

    frequencies: Floats


@dataclass(frozen=True, eq=False)
class RelativeBias:
    """A number for each head and distance, added to the scaled products of queries and keys in every layer.

    Attributes:
        table: float32 [heads, 2 R + 1]; a query at i has for a key at j `table[:, clip(j - i, -R, R) + R]`.
    """

    table: Floats

    @property
    def reach(self) -> int:
        """R."""
        return int(self.table.shape[1]) // 2


@dataclass(frozen=True, eq=False)
class Layer:
    """Attention and feed-forward network of one layer.

    With `attend(x) = output(attention(inputs(x)))` and `feed(x) = down(f(up(x)))`, x -> y is

    - post-norm: `h = attention_norm(x + attend(x))`, `y = feed_norm(h + feed(h))`;
    - pre-norm: `h = x + attend(attention_norm(x))`, `y = h + feed(feed_norm(h))`.

    Attributes:
        inputs: one Linear [3 hidden, hidden], or three [hidden, hidden], each with an input grid of its own. Its
            outputs, or theirs side by side, are queries, keys and values; each is [heads, head_dim] in row-major order.
        output: [hidden, hidden].
        up: [inner, hidden]; of a gated layer [2 inner, hidden].
        down: [hidden, inner].
        activation: f. Of a gated layer `f(u) = activation(u[:inner]) * u[inner:]`.
        attention_norm: None (only with pre-norm): the identity.
        window: a query at i sees the keys at j with `|i - j| <= window`; None: all of its text.
    """

    inputs: tuple[Linear, ...]
    output: Linear
    attention_norm: Norm | None
    up: Linear
    down: Linear
    feed_norm: Norm
    activation: Activation
    gated: bool = False
    pre_norm: bool = False
    rotary: Rotary | None = None
    window: int | None = None


@dataclass(frozen=True, eq=False)
class Encoder:
    """Token ids to last hidden states.

    Attributes:
        heads: attention heads of every layer; products of queries and keys are multiplied by `head_dim^-0.5`.
        final_norm: after the last layer; None: the identity.
        max_tokens: of a text.
    """

    embeddings: Embeddings
    layers: tuple[Layer, ...]
    heads: int
    hidden: int
    max_tokens: int
    relative_bias: RelativeBias | None = None
    final_norm: Norm | None = None

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads


@dataclass(frozen=True, eq=False)
class Head:
    """Hidden states to logits: `output(norm(activation(dense(pool(hidden)))))`; parts that are None are the identity.

    Attributes:
        pool: "first" token or "mean" over the tokens of a text: logits are [texts, labels]; None: every token, logits
            are [tokens, labels].
    """

    pool: Literal["first", "mean"] | None
    output: Linear
    dense: Linear | None = None
    activation: Activation | None = None
    norm: Norm | None = None


@dataclass(frozen=True, eq=False)
class Network:
    """An encoder and, but for a bare encoder, the head of a task."""

    encoder: Encoder
    head: Head | None = None

    @cached_property
    def nbytes(self) -> int:
        """Bytes of all arrays, each counted once."""
        return sum(array.nbytes for array in arrays_of(self).values())


class Engine(Protocol):
    """Runs one network; the module's text describes a batch."""

    def forward(self, ids: Int32s, offsets: Int32s, types: Int32s | None = None) -> Floats:
        """The last hidden states of a batch, float32 [total, hidden].

        Raises:
            PruneonceError: as `check_batch`.
        """

    def linear(self, linear: Linear, x: Floats) -> Floats:
        """One of the network's Linears, for heads: x float32 [rows, in] to [rows, out]."""


def arrays_of(part: Any) -> dict[int, npt.NDArray[Any]]:
    """Every array in a part of a network, by the address of its memory: a shared one once."""
    if isinstance(part, np.ndarray):
        return {part.__array_interface__["data"][0]: part}
    if isinstance(part, tuple):
        return {key: array for each in part for key, array in arrays_of(each).items()}
    if hasattr(part, "__dataclass_fields__"):
        return arrays_of(tuple(getattr(part, name) for name in part.__dataclass_fields__))
    return {}


def check_batch(encoder: Encoder, ids: Int32s, offsets: Int32s, types: Int32s | None) -> None:
    """Refuse a batch that reaches outside the tables; an engine calls this before it reads anything by an id.

    Raises:
        PruneonceError: the arrays are no batch of this encoder.
    """
    integers = [array for array in (ids, offsets, types) if array is not None]
    if any(array.dtype != np.int32 or array.ndim != 1 for array in integers):
        raise PruneonceError("ids, offsets and types have to be int32 in one dimension")
    lengths = np.diff(offsets.astype(np.int64))
    if not offsets.size or offsets[0] != 0 or offsets[-1] != ids.size or (lengths < 1).any():
        raise PruneonceError("offsets have to begin with 0, rise, and end with the number of tokens")
    if lengths.size and lengths.max() > encoder.max_tokens:
        raise PruneonceError(f"a text of {lengths.max()} tokens; the model takes {encoder.max_tokens} at most")
    rows = encoder.embeddings.words.rows
    if ids.size and not 0 <= ids.min() <= ids.max() < rows:
        raise PruneonceError(f"a token id is not one of the model's {rows}; the tokenizer is of another model")
    if types is not None:
        kinds = encoder.embeddings.types.rows if encoder.embeddings.types else 1
        if types.size != ids.size or (types.size and not 0 <= types.min() <= types.max() < kinds):
            raise PruneonceError(f"token types have to be one for each token, each below {kinds}")
