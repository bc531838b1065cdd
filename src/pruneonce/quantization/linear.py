"""The Linear layers of a quantized model: one that learns its ranges, one whose scales are fixed.

Both hold the Linear's own parameters under its names, so that a state dict of either loads into the plain model.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruneonce.quantization.functions import (
    ACTIVATION_MAX,
    affine_parameters,
    fake_quantize_weight,
    moving_average,
    symmetric_scale,
)
from pruneonce.recipe import Granularity


class _LikeLinear(nn.Linear):
    """A Linear with the parameters, not copies of them, of the one that it takes the place of."""

    def __init__(self, linear: nn.Linear):
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight = linear.weight
        self.bias = linear.bias
        self.train(linear.training)


class LearningLinear(_LikeLinear):
    """Fake-quantized Linear during training or calibration.

    The weights' scale follows from the weights at every forward pass, so it shrinks with them. The range of the inputs
    is a moving average of the batches' extremes; it moves in training mode only, and its two buffers are part of a
    training checkpoint.
    """

    input_low: Tensor
    input_high: Tensor

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
        self.register_buffer("input_low", torch.tensor(torch.inf, device=self.weight.device))
        self.register_buffer("input_high", torch.tensor(-torch.inf, device=self.weight.device))

    def weight_scale(self) -> Tensor:
        return symmetric_scale(self.weight, self.bits, self.granularity, self.group_size)

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()  # autocast may hand over bf16, which has no more digits than the grid
        if self.training:
            low, high = torch.aminmax(x.detach())
            self.input_low.copy_(moving_average(self.input_low, low, self.averaging))
            self.input_high.copy_(moving_average(self.input_high, high, self.averaging))
        scale, zero_point = affine_parameters(self.input_low, self.input_high)
        x = torch.fake_quantize_per_tensor_affine(x, scale, zero_point, 0, ACTIVATION_MAX)
        return F.linear(x, fake_quantize_weight(self.weight, self.weight_scale(), self.bits), self.bias)


class QuantizedLinear(_LikeLinear):
    """Linear whose weights lie on the grid, on inputs that are put on theirs; for inference and export."""

    weight_scale: Tensor

    def __init__(self, linear: nn.Linear, bits: int, weight_scale: Tensor, input_scale: float, input_zero_point: int):
        super().__init__(linear)
        self.bits = bits
        self.register_buffer("weight_scale", weight_scale, persistent=False)
        self.input_scale = input_scale
        self.input_zero_point = input_zero_point

    @classmethod
    @torch.no_grad()
    def of(cls, learned: LearningLinear) -> QuantizedLinear:
        """The same function with everything fixed; the weights are put on the grid, in place."""
        scale, zero_point = affine_parameters(learned.input_low, learned.input_high)
        weight_scale = learned.weight_scale()
        learned.weight.copy_(fake_quantize_weight(learned.weight, weight_scale, learned.bits))
        return cls(learned, learned.bits, weight_scale, scale.item(), int(zero_point))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.fake_quantize_per_tensor_affine(x.float(), self.input_scale, self.input_zero_point, 0, ACTIVATION_MAX)
        return F.linear(x, self.weight, self.bias)
