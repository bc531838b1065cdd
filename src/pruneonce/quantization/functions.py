"""Fake quantization: pure functions that round tensors to a grid of integers times a scale.

The grid of weights is that of `pruneonce.models.grid`, in PyTorch. It is symmetric: `w ~ s q`, `|q| <= 2^(b-1) - 1`.
Activations are affine on uint8: `x ~ s (q - z)`, with an integer zero point z, so that 0 lies exactly on either grid.
Gradients pass straight through the rounding.

Source: Jacob et al., https://arxiv.org/abs/1712.05877, section 2; used by Prune Once for All,
https://arxiv.org/abs/2111.05754, section 3.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pruneonce.models.grid import SCALE_CARRY, SCALE_MASK, largest_integer
from pruneonce.recipe import Granularity

ACTIVATION_MAX = 255  # uint8
Noise = Callable[[Tensor, Tensor], Tensor]  # maps exact and rounded weights, [rows, in], to those of training


@torch.no_grad()
def symmetric_scale(
    weight: Tensor, bits: int = 8, granularity: Granularity = "channel", group_size: int = 64
) -> Tensor:
    """Scale `max |w| / (2^(b-1) - 1)`, rounded up to 8 significant bits; 1 if all weights are zero.

    With the significant bits of bfloat16, a scale takes some 10 bits in a packed file instead of 26, and is at most
    1/128 larger.

    Args:
        weight: [out, in].
        bits: b, of the integers.
        granularity: one scale for each output channel, for the tensor, or for each `group_size` inputs of a channel.
        group_size: inputs in a group, which divides `in`.

    Returns:
        float32 scales: [out], [1] or [out, in / group_size].
    """
    size = weight.detach().abs().float()
    if granularity == "tensor":
        largest = size.amax().view(1)
    elif granularity == "channel":
        largest = size.amax(1)
    else:
        largest = size.unflatten(1, (-1, group_size)).amax(2)
    scale = (largest / largest_integer(bits)).clamp_min(torch.finfo(torch.float32).tiny)
    scale = ((scale.view(torch.int32) + SCALE_CARRY) & (SCALE_MASK - 2**32)).view(torch.float32)  # as int32
    return torch.where(largest > 0, scale, torch.ones_like(scale))


def fake_quantize_weight(weight: Tensor, scale: Tensor, bits: int = 8) -> Tensor:
    """Round weights to the grid: `s clamp(round(w / s), -n, n)`, `n = 2^(b-1) - 1`.

    Args:
        weight: [out, in], float32.
        scale: of any granularity, given by its shape.
        bits: b, of the integers.
    """
    most = largest_integer(bits)
    zero = torch.zeros(scale.numel(), dtype=torch.int32, device=weight.device)
    rows = weight.reshape(scale.numel(), -1)  # the weights of one scale
    return torch.fake_quantize_per_channel_affine(rows, scale.flatten(), zero, 0, -most, most).view_as(weight)


@torch.no_grad()
def quantize_weight(weight: Tensor, scale: Tensor, bits: int = 8) -> Tensor:
    """Round weights to the integers of `fake_quantize_weight`, int8 [out, in]."""
    most = largest_integer(bits)
    rows = weight.reshape(scale.numel(), -1) / scale.reshape(-1, 1)
    return rows.round().clamp(-most, most).to(torch.int8).view_as(weight)


@torch.no_grad()
def affine_parameters(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Scale (float32) and zero point (int32, 0..255) of uint8 activations in [low, high], both scalar.

    The range is widened to hold 0 and the zero point is rounded, so that 0 is a point of the grid.
    """
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    scale = (high - low) / ACTIVATION_MAX
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return scale, (-low / scale).round().clamp(0, ACTIVATION_MAX).to(torch.int32)


@torch.no_grad()
def moving_average(average: Tensor, value: Tensor, constant: float) -> Tensor:
    """Moving average `a + c (v - a)`; the value v itself for the first time (`a` is infinite)."""
    return torch.where(torch.isfinite(average), average + constant * (value - average), value)
