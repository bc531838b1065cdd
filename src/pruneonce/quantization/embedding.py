"""Quantized embedding tables: int8 with a scale for each row. One class learns on the grid, the other lies on it.

Both hold the Embedding's own table under its name, so that the state dict of either loads into the plain model.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruneonce.quantization.functions import Noise, fake_quantize_weight, symmetric_scale

BITS = 8  # regardless of the Linears: a table is looked up, and 4 bits would save no arithmetic


class LikeEmbedding(nn.Embedding):
    """Embedding that replaces another and shares its table."""

    def __init__(self, table: nn.Embedding):
        super().__init__(table.num_embeddings, table.embedding_dim, table.padding_idx, device="meta")
        self.weight = table.weight
        self.train(table.training)


class LearningEmbedding(LikeEmbedding):
    """Fake-quantized Embedding during training or calibration.

    A row's scale depends on that row alone, so only the rows that are looked up are rounded: the few hundred of a
    batch, not the thirty thousand of the vocabulary.
    """

    noise: Noise | None = None  # as in a LearningLinear

    def forward(self, input: Tensor) -> Tensor:
        if self.training and self.noise is not None:
            ids, where = input.unique(return_inverse=True)  # a row is the same at every place of the batch
            rows = super().forward(ids)
            return F.embedding(where, self.noise(rows, self._rounded(rows)))
        rows = super().forward(input)
        return self._rounded(rows.reshape(-1, self.embedding_dim)).view_as(rows)

    @staticmethod
    def _rounded(rows: Tensor) -> Tensor:
        return fake_quantize_weight(rows, symmetric_scale(rows, BITS), BITS)

    @torch.no_grad()
    def frozen(self) -> QuantizedEmbedding:
        """Fix the scales and round the table to the grid, in place; return the fixed module."""
        scale = symmetric_scale(self.weight, BITS)
        self.weight.copy_(fake_quantize_weight(self.weight, scale, BITS))
        return QuantizedEmbedding(self, scale)


class QuantizedEmbedding(LikeEmbedding):
    """Embedding whose table lies on the grid; for inference and export.

    Args:
        table: the Embedding to replace.
        weight_scale: float32, one for each row.
        bits: of the integers.
    """

    weight_scale: Tensor

    def __init__(self, table: nn.Embedding, weight_scale: Tensor, bits: int = BITS):
        super().__init__(table)
        self.bits = bits
        self.register_buffer("weight_scale", weight_scale, persistent=False)

    def plain(self) -> nn.Embedding:
        """Plain Embedding with the same table."""
        embedding = nn.Embedding(self.num_embeddings, self.embedding_dim, self.padding_idx, device="meta")
        embedding.weight = self.weight
        return embedding.train(self.training)
