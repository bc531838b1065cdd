"""Quant-Noise, https://arxiv.org/abs/2004.07320: each training step quantizes a random part of the weights.

In a model that learns on a grid, the noise is rounding to the grid. In other models it is the paper's proxy of product
quantization: a block is dropped.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruneonce.errors import UserError
from pruneonce.plugins.method import Method
from pruneonce.quantization import LearningEmbedding, LearningLinear, quantizable, tables
from pruneonce.quantization.embedding import LikeEmbedding
from pruneonce.quantization.linear import LikeLinear

# Probability and block size where none are given: the paper's for int8 and int4, and for product quantization.
ROUNDED, DROPPED = (0.5, 1), (0.1, 8)


def draw_blocks(shape: torch.Size, block_size: int, probability: float, device: torch.device) -> Tensor:
    """Random mask, True at the blocks to quantize; source: https://arxiv.org/abs/2004.07320, section 4.

    Each block is drawn independently.

    Args:
        shape: [rows, in].
        block_size: inputs in a block; the last block of a row may have fewer.
        probability: of each block, in [0, 1].
        device: of the mask; its random state in torch is used.
    """
    rows, inputs = shape
    mask = torch.rand(rows, -(-inputs // block_size), device=device) < probability
    return mask if block_size == 1 else mask.repeat_interleave(block_size, 1)[:, :inputs]


def partly_rounded(weight: Tensor, rounded: Tensor, probability: float, block_size: int = 1) -> Tensor:
    """Mix `rounded` at random blocks with the exact `weight` elsewhere.

    Source: https://arxiv.org/abs/2004.07320, section 4. Gradients of exact blocks are exact. Gradients of rounded
    blocks are those of `rounded`, straight through.

    Args:
        weight: [rows, in].
        rounded: the same weights on their grid.
        probability: in [0, 1]; 0 gives `weight`, 1 gives `rounded`, bit for bit.
        block_size: inputs in a block.
    """
    return torch.where(draw_blocks(weight.shape, block_size, probability, weight.device), rounded, weight)


def partly_dropped(weight: Tensor, probability: float, block_size: int = 8) -> Tensor:
    """Set random blocks to 0 and the others to `weight / (1 - probability)`: the proxy of product quantization.

    Source: https://arxiv.org/abs/2004.07320, section 4. The factor, also in the authors' code, keeps the expected
    weights exact. Gradients pass straight through dropped blocks, and are exact elsewhere.

    Args:
        weight: [rows, in].
        probability: in [0, 1); 0 gives `weight`, bit for bit.
        block_size: inputs in a block.
    """
    dropped = draw_blocks(weight.shape, block_size, probability, weight.device)
    return torch.where(dropped, weight - weight.detach(), weight / (1 - probability))


class NoisyLinear(LikeLinear):
    """Linear that drops random blocks of its weights in training."""

    def __init__(self, linear: nn.Linear, probability: float, block_size: int):
        super().__init__(linear)
        self.noise = partial(partly_dropped, probability=probability, block_size=block_size)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.noise(self.weight) if self.training else self.weight, self.bias)


class NoisyEmbedding(LikeEmbedding):
    """Embedding that drops random blocks of the rows it looks up in training."""

    def __init__(self, table: nn.Embedding, probability: float, block_size: int):
        super().__init__(table)
        self.noise = partial(partly_dropped, probability=probability, block_size=block_size)

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        ids, where = input.unique(return_inverse=True)  # a row is the same at every place of the batch
        return F.embedding(where, self.noise(super().forward(ids)))


class QuantizationNoise(Method):
    """Method that puts noise on the Linears and embedding tables to quantize, during training only."""

    @contextmanager
    def parametrized(self, model: nn.Module) -> Generator[None, None, None]:
        learning = [module for module in model.modules() if isinstance(module, (LearningLinear, LearningEmbedding))]
        usual = ROUNDED if learning else DROPPED
        probability, block_size = self.options.probability or usual[0], self.options.block_size or usual[1]
        with _rounding(learning, probability, block_size) if learning else _dropping(model, probability, block_size):
            yield


@contextmanager
def _rounding(
    modules: list[LearningLinear | LearningEmbedding], probability: float, block_size: int
) -> Generator[None, None, None]:
    if probability < 1:  # at 1, plain training on the grid, with unchanged random numbers for dropout
        for module in modules:
            module.noise = partial(partly_rounded, probability=probability, block_size=block_size)
    try:
        yield
    finally:
        for module in modules:
            module.noise = None


@contextmanager
def _dropping(model: nn.Module, probability: float, block_size: int) -> Generator[None, None, None]:
    if probability == 1:
        raise UserError("`probability: 1` of quant-noise would drop every weight here; 0.05 to 0.2 are usual")
    plain: dict[str, nn.Module] = {**quantizable(model, head=False), **tables(model)}
    for name, module in plain.items():
        kind = NoisyLinear if isinstance(module, nn.Linear) else NoisyEmbedding
        model.set_submodule(name, kind(module, probability, block_size))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name, module in plain.items():
            model.set_submodule(name, module.train(model.training))
