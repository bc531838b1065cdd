"""Roles of a model's parameters. Pruned are the Linear weights of the encoder's layers, and its pooler.

`ARCHITECTURES` names the stack of layers and the pooler of each architecture. Everything else stays dense: embeddings
(and tensors that share their storage), LayerNorm, biases, vocabulary and task heads. The module also names the
embedding tables, for quantization, and the inputs of attention, for the distillation of relations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruneonce.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Roles:
    """Paths of an architecture's modules.

    Attributes:
        layers: stack of layers, inside the base model.
        pooler: the pooler's Linear, inside the base model.
        attention: Linears for queries, keys and values, inside a layer; one Linear if it makes all three side by side.
        position_offset: number of positions that no token takes. MPNet's code has a padding token of its own, whatever
            its configuration says.
    """

    layers: str
    pooler: str | None = None
    attention: tuple[str, ...] = ("attention.self.query", "attention.self.key", "attention.self.value")
    position_offset: Callable[[Any], int] = lambda config: 0


ARCHITECTURES = {
    "bert": Roles("encoder.layer", "pooler.dense"),
    "distilbert": Roles("transformer.layer", attention=("attention.q_lin", "attention.k_lin", "attention.v_lin")),
    "electra": Roles("encoder.layer"),
    "modernbert": Roles("layers", attention=("attn.Wqkv",)),
    "mpnet": Roles(
        "encoder.layer", "pooler.dense", ("attention.attn.q", "attention.attn.k", "attention.attn.v"), lambda config: 2
    ),
    "roberta": Roles("encoder.layer", "pooler.dense", position_offset=lambda config: (config.pad_token_id or 0) + 1),
}


def roles_of(model_type: str) -> Roles:
    """Roles of an architecture by its `model_type`.

    Raises:
        UserError: the architecture is not supported.
    """
    if model_type not in ARCHITECTURES:
        raise UserError(f"architecture {model_type!r} is not supported; these are: {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[model_type]


def base_of(model: nn.Module) -> nn.Module:
    """The encoder under any head (`model` itself if it has no head)."""
    return getattr(model, str(model.base_model_prefix), model)


def attention_inputs(model: nn.Module) -> list[nn.Module]:
    """The Linear modules for queries, keys and values, layer by layer.

    Raises:
        UserError: the architecture is not supported.
    """
    base = base_of(model)
    roles = roles_of(base.config.model_type)  # type: ignore[union-attr, arg-type]
    layers = base.get_submodule(roles.layers).children()
    return [layer.get_submodule(name) for layer in layers for name in roles.attention]


def prunable_names(model_type: str, matrices: Collection[str]) -> dict[str, str]:
    """Names of the weights to prune, in the order of `prunable_weights`, without building the model.

    Args:
        model_type: the architecture.
        matrices: names of the two-dimensional tensors of a model's safetensors files.

    Returns:
        Names in the file by names in the base model.

    Raises:
        UserError: the architecture is not supported.
    """
    roles = roles_of(model_type)
    inner = re.compile(rf"(?:\w+\.)?({re.escape(roles.layers)}\.(\d+)\.(.+)\.weight)")
    ranked = []
    for name in matrices:
        if match := inner.fullmatch(name):
            short, layer, module = match.groups()
            order = roles.attention.index(module) if module in roles.attention else len(roles.attention)
            ranked.append(((int(layer), order, module), short, name))
    names = {short: name for _, short, name in sorted(ranked)}
    if roles.pooler:
        pooler = f"{roles.pooler}.weight"
        for name in matrices:
            if re.fullmatch(rf"(?:\w+\.)?{re.escape(pooler)}", name):
                names[pooler] = name
    return names


def prunable_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights to prune, by their name in the base model.

    Raises:
        UserError: the architecture is not supported.
    """
    from torch import nn

    base = base_of(model)
    roles = roles_of(base.config.model_type)  # type: ignore[union-attr, arg-type]
    weights = {
        f"{roles.layers}.{name}.weight": module.weight
        for name, module in base.get_submodule(roles.layers).named_modules()
        if isinstance(module, nn.Linear)
    }
    if roles.pooler and getattr(base, roles.pooler.split(".")[0], None) is not None:
        weights[f"{roles.pooler}.weight"] = base.get_submodule(roles.pooler).weight  # type: ignore[assignment]
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    return {name: weight for name, weight in weights.items() if id(weight) not in embeddings}


def embedding_tables(model: nn.Module) -> dict[str, nn.Embedding]:
    """The embedding tables of words, positions and token types, by their name in the base model.

    MPNet's relative attention bias, a few numbers of its layers, does not count as one.

    Raises:
        UserError: the architecture is not supported.
    """
    from torch import nn

    base = base_of(model)
    roles_of(base.config.model_type)  # type: ignore[union-attr, arg-type]
    return {
        f"embeddings.{name}": module
        for name, module in base.get_submodule("embeddings").named_modules()
        if isinstance(module, nn.Embedding)
    }


def describe(model: nn.Module) -> str:
    """Describe in two lines which weights are pruned and which stay dense."""
    weights = prunable_weights(model)
    pruned = sum(weight.numel() for weight in weights.values())
    ids = {id(weight) for weight in weights.values()}
    kept: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if id(parameter) not in ids:
            kind = _kind(name)
            kept[kind] = kept.get(kind, 0) + parameter.numel()
    dense = ", ".join(f"{kind} {size / 1e6:.2f} M" for kind, size in kept.items())
    return f"pruned: {len(weights)} Linear weights of the encoder, {pruned / 1e6:.2f} M\nkept dense: {dense}"


def _kind(name: str) -> str:
    if "embeddings" in name:
        return "embeddings"
    if name.endswith(".bias") or "norm" in name.lower():
        return "biases and norms"
    return "heads and others"


def check_length(length: int, model: str | Path, key: str) -> None:
    """Refuse an input length that exceeds the model's number of positions.

    Args:
        length: tokens of the longest input.
        model: model folder or hub id.
        key: the recipe's name for `length`.

    Raises:
        UserError: `length` is above the number of positions.
    """
    from pruneonce.models.loading import load_config

    config = load_config(model)
    roles = ARCHITECTURES.get(config.model_type, Roles(""))  # models that cannot be pruned may still be measured
    longest = config.max_position_embeddings - roles.position_offset(config)
    if length > longest:
        raise UserError(f"`{key}` is {length}, but {model} takes at most {longest} tokens")
