"""Capture of the vectors whose relations are distilled: queries, keys and values of every layer."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from pruneonce.models.architectures import attention_inputs


@contextmanager
def captured(model: nn.Module, enabled: bool = True) -> Generator[list[Tensor]]:
    """Context in which a forward pass fills the list with the model's queries, keys and values, layer by layer.

    Each tensor is [batch, heads, tokens, width of a head], before any rotation by position.
    """
    captured_vectors: list[Tensor] = []
    config: Any = model.config.get_text_config()  # type: ignore[union-attr,operator]
    hooks = []

    def keep(module: nn.Module, args: Any, output: Tensor) -> None:
        for vectors in output.split(config.hidden_size, dim=-1):
            captured_vectors.append(vectors.unflatten(-1, (config.num_attention_heads, -1)).transpose(1, 2))

    try:
        if enabled:
            hooks = [module.register_forward_hook(keep) for module in attention_inputs(model)]
        yield captured_vectors
    finally:
        for hook in hooks:
            hook.remove()
