"""Quant-Noise, https://arxiv.org/abs/2004.07320: each forward pass in training quantizes other blocks of the weights.

Where a model learns on a grid the noise is that of rounding to it. Elsewhere it is the paper's proxy of product
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


def drawn(shape: torch.Size, block_size: int, probability: float, device: torch.device) -> Tensor:
    """True at the blocks that are quantized, each drawn by itself, https://arxiv.org/abs/2004.07320, section 4.

    Args:
        shape: [rows, in].
        block_size: inputs in a block; the last block of a row may have fewer.
        probability: in [0, 1]; drawn from torch's random state of the device.
    """
    rows, inputs = shape
    chosen = torch.rand(rows, -(-inputs // block_size), device=device) < probability
    return chosen if block_size == 1 else chosen.repeat_interleave(block_size, 1)[:, :inputs]


def partly_rounded(weight: Tensor, rounded: Tensor, probability: float, block_size: int = 1) -> Tensor:
    """`rounded` at random blocks, the exact `weight` at the others, https://arxiv.org/abs/2004.07320, section 4.

    Gradients are exact where the weight is, elsewhere they are those of `rounded`: straight through.

    Args:
        weight: [rows, in].
        rounded: the same weights on their grid.
        probability: in [0, 1]; 0 gives `weight`, 1 gives `rounded`, bit for bit.
    """
    return torch.where(drawn(weight.shape, block_size, probability, weight.device), rounded, weight)


def partly_dropped(weight: Tensor, probability: float, block_size: int = 8) -> Tensor:
    """0 at random blocks, `weight / (1 - probability)` at the others: the proxy of product quantization,
    https://arxiv.org/abs/2004.07320, section 4.

    The factor, which the authors' code has too, keeps the expected weights exact. Gradients pass straight through what
    is dropped, and are exact elsewhere.

    Args:
        weight: [rows, in].
        probability: in [0, 1); 0 gives `weight`, bit for bit.
    """
    dropped = drawn(weight.shape, block_size, probability, weight.device)
    return torch.where(dropped, weight - weight.detach(), weight / (1 - probability))


class NoisyLinear(LikeLinear):
    """A Linear that drops blocks of its weights in training."""

    def __init__(self, linear: nn.Linear, probability: float, block_size: int):
        super().__init__(linear)
        self.noise = partial(partly_dropped, probability=probability, block_size=block_size)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.noise(self.weight) if self.training else self.weight, self.bias)


class NoisyEmbedding(LikeEmbedding):
    """An Embedding that does so; of the rows that are looked up, which are the only ones that matter."""

    def __init__(self, table: nn.Embedding, probability: float, block_size: int):
        super().__init__(table)
        self.noise = partial(partly_dropped, probability=probability, block_size=block_size)

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        ids, where = input.unique(return_inverse=True)  # a row is the same wherever it is looked up
        return F.embedding(where, self.noise(super().forward(ids)))


class QuantizationNoise(Method):
    """Noise in the Linears and embedding tables that are to be quantized, for the time of training."""

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
    if probability < 1:  # else it is training on the grid as it is, with the same random numbers for dropout
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
