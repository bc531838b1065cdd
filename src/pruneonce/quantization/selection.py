"""Selection of the modules to quantize: the Linears of encoder, pooler and task head, and the embedding tables.

Prune Once for All, https://arxiv.org/abs/2111.05754, section 4.3, quantizes every Linear and leaves embeddings, half of
a small model, in fp32. A Linear that shares its weight with a table (a vocabulary head) is not quantized.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from pruneonce.errors import UserError
from pruneonce.models.architectures import base_of, embedding_tables, prunable_weights
from pruneonce.recipe import Quantization


def quantizable(model: nn.Module, head: bool = True) -> dict[str, nn.Linear]:
    """The Linears to quantize, by their name in the model.

    Args:
        model: a model of a supported architecture.
        head: include the task head.

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


def tables(model: nn.Module) -> dict[str, nn.Embedding]:
    """The embedding tables to quantize, by their name in the model.

    Raises:
        UserError: the architecture is not supported.
    """
    chosen = {id(table) for table in embedding_tables(model).values()}
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and id(module) in chosen
    }


def check_fits(model: nn.Module, settings: Quantization) -> None:
    """Refuse settings whose groups do not divide the rows of a weight.

    Raises:
        UserError: the architecture is not supported, or the rows of a weight do not divide into groups.
    """
    for name, linear in quantizable(model, settings.head).items():
        if settings.granularity == "group" and linear.in_features % settings.group_size:
            raise UserError(
                f"`group_size` {settings.group_size} does not divide the {linear.in_features} inputs of {name}"
            )


def describe(model: nn.Module, settings: Quantization) -> str:
    """Describe in two or three lines which weights are quantized and which stay fp32."""
    linears = quantizable(model, settings.head)
    embeddings = tables(model) if settings.embeddings else {}
    grid = f"int{settings.bits}, a scale per {settings.granularity}"
    grid += ", inputs uint8" if settings.quantizes_inputs else f" of {settings.group_size}, inputs fp32"
    lines = [f"quantized: {len(linears)} Linears, {_size(linears)}, {grid}"]
    if embeddings:
        names = ", ".join(name.rpartition(".")[2] for name in embeddings)
        lines.append(f"quantized: {names}, {_size(embeddings)}, int8, a scale per row")
    weights = {id(module.weight) for module in [*linears.values(), *embeddings.values()]}
    kept = [
        name.removesuffix(".weight")
        for name, parameter in model.named_parameters()
        if parameter.dim() > 1 and id(parameter) not in weights
    ]
    return "\n".join([*lines, f"kept fp32: {', '.join([*kept, 'norms', 'biases'])}"])


def _size(modules: Mapping[str, nn.Linear | nn.Embedding]) -> str:
    return f"{sum(module.weight.numel() for module in modules.values()) / 1e6:.2f} M weights"
