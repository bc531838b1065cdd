"""The reference engine: a network run in plain numpy. Slow, and the definition of what a faster engine computes.

Memory beside the network: for a batch, float64 copies of [tokens, largest inner width] and of one weight at a time; in
attention, 256 rows of [longest text] for each of a few arrays.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from pruneonce_runtime import functions
from pruneonce_runtime.spec import Embeddings, Engine, Floats, Int32s, Layer, Linear, Network, check_batch


class ReferenceEngine:
    """See `spec.Engine`."""

    def __init__(self, network: Network) -> None:
        self.network = network

    def linear(self, linear: Linear, x: Floats) -> Floats:
        """x [rows, in] to [rows, out]."""
        return functions.linear(linear, x)

    def forward(self, ids: Int32s, offsets: Int32s, types: Int32s | None = None) -> Floats:
        """The last hidden states of a ragged batch, [total, hidden].

        Raises:
            PruneonceError: the arrays are no batch of this network.
        """
        encoder = self.network.encoder
        check_batch(encoder, ids, offsets, types)
        x = self._embed(encoder.embeddings, ids, offsets, types)
        for layer in encoder.layers:
            x = self._layer(layer, x, offsets)
        return x if encoder.final_norm is None else functions.layer_norm(encoder.final_norm, x)

    def _embed(self, embeddings: Embeddings, ids: Int32s, offsets: Int32s, types: Int32s | None) -> Floats:
        x = functions.lookup(embeddings.words, ids)
        if embeddings.types is not None:
            x = x + functions.lookup(embeddings.types, np.zeros_like(ids) if types is None else types)
        if embeddings.positions is not None:
            x = x + functions.lookup(embeddings.positions, positions(embeddings, ids, offsets))
        x = functions.layer_norm(embeddings.norm, x)
        return x if embeddings.projection is None else self.linear(embeddings.projection, x)

    def _layer(self, layer: Layer, x: Floats, offsets: Int32s) -> Floats:
        normed = x
        if layer.pre_norm and layer.attention_norm is not None:
            normed = functions.layer_norm(layer.attention_norm, x)
        x = x + self.linear(layer.output, self._attend(layer, normed, offsets))
        if not layer.pre_norm and layer.attention_norm is not None:
            x = functions.layer_norm(layer.attention_norm, x)
        if layer.pre_norm:
            return x + self._feed(layer, functions.layer_norm(layer.feed_norm, x))
        return functions.layer_norm(layer.feed_norm, x + self._feed(layer, x))

    def _attend(self, layer: Layer, x: Floats, offsets: Int32s) -> Floats:
        encoder = self.network.encoder
        joined = np.concatenate([self.linear(linear, x) for linear in layer.inputs], axis=1)
        joined = joined.reshape(len(x), 3, encoder.heads, encoder.head_dim)
        found = np.empty((len(x), encoder.hidden), np.float32)
        for start, end in pairwise(offsets):
            queries, keys, values = joined[start:end].transpose(1, 0, 2, 3)
            if layer.rotary is not None:
                queries, keys = (functions.rotate(part, layer.rotary.frequencies) for part in (queries, keys))
            found[start:end] = functions.attention(queries, keys, values, encoder.relative_bias, layer.window)
        return found

    def _feed(self, layer: Layer, x: Floats) -> Floats:
        inner = self.linear(layer.up, x)
        if layer.gated:
            first, gate = np.split(inner, 2, axis=1)
            return self.linear(layer.down, functions.activate(layer.activation, first) * gate)
        return self.linear(layer.down, functions.activate(layer.activation, inner))


def positions(embeddings: Embeddings, ids: Int32s, offsets: Int32s) -> Int32s:
    """The row of the position table for each token; see `Embeddings`."""
    found = np.empty_like(ids)
    for start, end in pairwise(offsets):
        if embeddings.pad_id is None:
            found[start:end] = np.arange(end - start) + embeddings.position_offset
        else:
            counted = ids[start:end] != embeddings.pad_id
            found[start:end] = np.cumsum(counted) * counted + embeddings.position_offset - 1
    return found


def logits(network: Network, engine: Engine, hidden: Floats, offsets: Int32s) -> Floats:
    """A head on hidden states: [texts, labels], or [tokens, labels] of a head on every token.

    `mean` is over the tokens of a text, in float64 and rounded once.
    """
    head = network.head
    assert head is not None, "a bare encoder has no logits"
    x = hidden
    if head.pool == "first":
        x = hidden[offsets[:-1]]
    elif head.pool == "mean":
        x = means(hidden, offsets)
    if head.dense is not None:
        x = engine.linear(head.dense, x)
    if head.activation is not None:
        x = functions.activate(head.activation, x)
    if head.norm is not None:
        x = functions.layer_norm(head.norm, x)
    return engine.linear(head.output, x)


def means(hidden: Floats, offsets: Int32s) -> Floats:
    """The mean hidden state of each text: [texts, hidden]."""
    sums = [hidden[start:end].mean(0, dtype=np.float64) for start, end in pairwise(offsets)]
    return functions.rounded(np.array(sums).reshape(len(sums), hidden.shape[1]))
