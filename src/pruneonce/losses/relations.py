"""The vectors whose relations to each other are distilled: queries, keys and values of every layer."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from pruneonce.models.architectures import attention_inputs


@contextmanager
def captured(model: nn.Module, enabled: bool = True) -> Generator[list[Tensor]]:
    """Within it, a forward pass of the model fills a list with its queries, keys and values, in the order of layers.

    Each is [batch, heads, tokens, width of a head]. They are those before any rotation by position.
    """
    found: list[Tensor] = []
    config: Any = model.config
    hooks = []

    def keep(module: nn.Module, args: Any, output: Tensor) -> None:
        for vectors in output.split(config.hidden_size, dim=-1):
            found.append(vectors.unflatten(-1, (config.num_attention_heads, -1)).transpose(1, 2))

    try:
        if enabled:
            hooks = [module.register_forward_hook(keep) for module in attention_inputs(model)]
        yield found
    finally:
        for hook in hooks:
            hook.remove()
