"""Quantized Linear layers: one class learns the ranges of inputs, the other has fixed scales.

Both hold the Linear's own parameters under its names, so that the state dict of either loads into the plain model.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruneonce.quantization.functions import (
    ACTIVATION_MAX,
    Noise,
    affine_parameters,
    fake_quantize_weight,
    moving_average,
    symmetric_scale,
)
from pruneonce.recipe import Granularity


class LikeLinear(nn.Linear):
    """Linear that replaces another and shares its parameters."""

    def __init__(self, linear: nn.Linear):
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight = linear.weight
        self.bias = linear.bias
        self.train(linear.training)


class LearningLinear(LikeLinear):
    """Fake-quantized Linear during training or calibration.

    The scale of the weights is recomputed at every forward pass. The range of the inputs is a moving average of the
    batches' extremes. It moves in training mode only, and its two buffers are part of a training checkpoint. Inputs of
    4-bit weights are not quantized.
    """

    noise: Noise | None = None  # mixes exact and rounded weights in training; None: rounded weights

    input_low: Tensor | None
    input_high: Tensor | None

    def __init__(
        self,
        linear: nn.Linear,
        bits: int = 8,
        granularity: Granularity = "channel",
        group_size: int = 64,
        averaging: float = 0.01,
    ):
        super().__init__(linear)
        self.bits = bits
        self.granularity = granularity
        self.group_size = group_size
        self.averaging = averaging
        for name, start in (("input_low", torch.inf), ("input_high", -torch.inf)):
            self.register_buffer(name, torch.tensor(start, device=self.weight.device) if bits == 8 else None)

    def weight_scale(self) -> Tensor:
        """Scales of the current weights, see `symmetric_scale`."""
        return symmetric_scale(self.weight, self.bits, self.granularity, self.group_size)

    def input_grid(self) -> tuple[Tensor, Tensor] | None:
        """Scale and zero point of the inputs; None if the inputs are not quantized."""
        if self.input_low is None or self.input_high is None:
            return None
        return affine_parameters(self.input_low, self.input_high)

    @torch.no_grad()
    def frozen(self) -> QuantizedLinear:
        """Fix the scales and round the weights to the grid, in place; return the fixed module."""
        grid = self.input_grid()
        scale = self.weight_scale()
        self.weight.copy_(fake_quantize_weight(self.weight, scale, self.bits))
        return QuantizedLinear(self, self.bits, scale, grid and (grid[0].item(), int(grid[1])))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.input_low is not None and self.input_high is not None:
            low, high = torch.aminmax(x.detach().float())
            self.input_low.copy_(moving_average(self.input_low, low, self.averaging))
            self.input_high.copy_(moving_average(self.input_high, high, self.averaging))
        if (grid := self.input_grid()) is not None:  # in fp32, since autocast may pass bf16
            x = torch.fake_quantize_per_tensor_affine(x.float(), *grid, 0, ACTIVATION_MAX)
        weight = fake_quantize_weight(self.weight, self.weight_scale(), self.bits)
        if self.training and self.noise is not None:
            weight = self.noise(self.weight, weight)
        return F.linear(x, weight, self.bias)


class QuantizedLinear(LikeLinear):
    """Linear whose weights lie on a grid, and whose inputs are rounded to a grid; for inference and export.

    Args:
        linear: the Linear to replace.
        bits: of the weights' integers.
        weight_scale: float32, see `symmetric_scale`.
        input_grid: scale and zero point of the inputs; None: inputs are not quantized.
    """

    weight_scale: Tensor

    def __init__(self, linear: nn.Linear, bits: int, weight_scale: Tensor, input_grid: tuple[float, int] | None):
        super().__init__(linear)
        self.bits = bits
        self.register_buffer("weight_scale", weight_scale, persistent=False)
        self.input_grid = input_grid

    def plain(self) -> nn.Linear:
        """Plain Linear with the same parameters."""
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        linear.weight, linear.bias = self.weight, self.bias
        return linear.train(self.training)

    def forward(self, x: Tensor) -> Tensor:
        if self.input_grid is not None:
            x = torch.fake_quantize_per_tensor_affine(x.float(), *self.input_grid, 0, ACTIVATION_MAX)
        return F.linear(x, self.weight, self.bias)
