"""The one place that decides which modules are quantized: the Linears of the encoder's layers, pooler and task head.

Prune Once for All, https://arxiv.org/abs/2111.05754, section 4.3, quantizes every Linear and leaves embeddings in fp32.
Whatever shares its weight with an embedding stays, too.
"""

from __future__ import annotations

from torch import nn

from pruneonce.errors import UserError
from pruneonce.sparsity import base_of, prunable_weights


def quantizable(model: nn.Module, head: bool = True) -> dict[str, nn.Linear]:
    """Linears to quantize, by their name in the model.

    Args:
        head: the task head, too.

    Raises:
        UserError: the architecture is not supported.
    """
    encoder = {id(weight) for weight in prunable_weights(model).values()}
    base = base_of(model)
    in_base = {id(module) for module in base.modules()}
    tied = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and (id(module.weight) in encoder or (head and id(module) not in in_base and id(module.weight) not in tied))
    }


def check_groups(linears: dict[str, nn.Linear], group_size: int) -> None:
    """
    Raises:
        UserError: a weight whose rows do not divide into groups.
    """
    for name, linear in linears.items():
        if linear.in_features % group_size:
            raise UserError(f"`group_size` {group_size} does not divide the {linear.in_features} inputs of {name}")


def describe(model: nn.Module, linears: dict[str, nn.Linear], how: str) -> str:
    """What is quantized and what stays fp32, in two lines."""
    size = sum(linear.weight.numel() for linear in linears.values())
    weights = {id(linear.weight) for linear in linears.values()}
    kept = [
        name.removesuffix(".weight")
        for name, parameter in model.named_parameters()
        if parameter.dim() > 1 and id(parameter) not in weights
    ]
    return f"quantized: {len(linears)} Linears, {size / 1e6:.2f} M weights, {how}\nkept fp32: {', '.join(kept)}"
