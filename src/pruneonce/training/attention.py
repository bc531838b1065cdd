"""Attention that trains fast on a CPU.

PyTorch's fused attention saves the memory of the scores [batch, heads, tokens, tokens], but its backward pass on a CPU
costs more than all products of the layer. Up to some hundred tokens, it is faster to keep the attention weights once,
in the precision of the products. transformers' "eager" attention keeps them two or three times, in fp32. So does
PyTorch's attention with dropout, which its fused kernel lacks on a CPU: with dropout, one copy is faster at any length.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from pruneonce.models import dropouts

NAME = "pruneonce_kept"
LONGEST = 256  # tokens, without dropout; from measurements, see benchmarks/results/attention.md


def kept_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Attention `softmax(scaling Q K^T) V` that keeps its weights once, in the precision of the products.

    Args:
        module: in training mode, dropout is applied.
        query: [batch, heads, tokens, width of a head].
        key: [batch, heads, tokens, width of a head], or a divisor of these heads.
        value: likewise.
        attention_mask: True where a query sees a key, broadcast to [batch, heads, tokens, tokens]; None: everywhere.
        scaling: default 1 / sqrt(width of a head).
        dropout: probability of dropping an attention weight.
        **_: ignored options of transformers.

    Returns:
        The output [batch, tokens, heads, width of a head], and the weights.
    """
    if query.shape[1] != key.shape[1]:  # several heads of queries share one of keys and values
        shared = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    with torch.autocast(query.device.type, enabled=False):  # autocast keeps fp32 copies; softmax sums in fp32
        query, key = query.to(value.dtype), key.to(value.dtype)  # rotated by positions in fp32, they come as fp32
        scores = (query * scaling) @ key.transpose(-1, -2)
        if attention_mask is not None:
            scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
        weights = F.dropout(torch.softmax(scores, dim=-1), dropout, module.training)
        return (weights @ value).transpose(1, 2).contiguous(), weights


AttentionInterface.register(NAME, kept_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


@contextmanager
def fast_attention(model: Any, length: int) -> Generator[None, None, None]:
    """Context in which `model` has the fastest attention for training on up to `length` tokens on its device."""
    usual = model.config._attn_implementation
    can_change = usual == "sdpa" and model._supports_attention_backend
    on_cpu = next(model.parameters()).device.type == "cpu"
    if not (can_change and on_cpu and keeps_weights(model.config, length)):
        yield
        return
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(usual)


def keeps_weights(config: Any, length: int) -> bool:
    """Return whether `kept_attention` is the fastest for inputs of up to `length` tokens."""
    of_attention = [name for name in dropouts(config) if "attention" in name]
    return length <= LONGEST or any(getattr(config, name) for name in of_attention)
