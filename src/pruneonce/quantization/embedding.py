"""The embedding tables of a quantized model: int8, a scale for each row. One learns on its grid, one lies on it.

Both hold the Embedding's own table under its name, so that a state dict of either loads into the plain model.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruneonce.quantization.functions import Noise, fake_quantize_weight, symmetric_scale

BITS = 8  # whatever the Linears have: a table is looked up, and 4 bits would save no arithmetic


class LikeEmbedding(nn.Embedding):
    """An Embedding with the table, not a copy of it, of the one that it takes the place of."""

    def __init__(self, table: nn.Embedding):
        super().__init__(table.num_embeddings, table.embedding_dim, table.padding_idx, device="meta")
        self.weight = table.weight
        self.train(table.training)


class LearningEmbedding(LikeEmbedding):
    """Fake-quantized Embedding during training or calibration.

    A row's scale follows from that row alone, so only the rows that are looked up are rounded: a batch's few hundred,
    not the vocabulary's thirty thousand.
    """

    noise: Noise | None = None  # as that of a LearningLinear

    def forward(self, input: Tensor) -> Tensor:
        if self.training and self.noise is not None:
            ids, where = input.unique(return_inverse=True)  # a row is the same wherever it is looked up
            rows = super().forward(ids)
            return F.embedding(where, self.noise(rows, self._rounded(rows)))
        rows = super().forward(input)
        return self._rounded(rows.reshape(-1, self.embedding_dim)).view_as(rows)

    @staticmethod
    def _rounded(rows: Tensor) -> Tensor:
        return fake_quantize_weight(rows, symmetric_scale(rows, BITS), BITS)

    @torch.no_grad()
    def frozen(self) -> QuantizedEmbedding:
        """The same function with the scales fixed; the table is put on the grid, in place."""
        scale = symmetric_scale(self.weight, BITS)
        self.weight.copy_(fake_quantize_weight(self.weight, scale, BITS))
        return QuantizedEmbedding(self, scale)


class QuantizedEmbedding(LikeEmbedding):
    """Embedding whose table lies on the grid; for inference and export.

    Args:
        weight_scale: float32, one for each row.
    """

    weight_scale: Tensor

    def __init__(self, table: nn.Embedding, weight_scale: Tensor, bits: int = BITS):
        super().__init__(table)
        self.bits = bits
        self.register_buffer("weight_scale", weight_scale, persistent=False)

    def plain(self) -> nn.Embedding:
        """An Embedding with the same table."""
        made = nn.Embedding(self.num_embeddings, self.embedding_dim, self.padding_idx, device="meta")
        made.weight = self.weight
        return made.train(self.training)
