"""Roles of a model's parameters. Pruned are the Linear weights of the encoder's layers, and its pooler.

`ARCHITECTURES` names the stack of layers and the pooler of each architecture; of others, the module tree shows them.
Everything else stays dense: embeddings
(and tensors that share their storage), LayerNorm, biases, vocabulary and task heads. The module also names the
embedding tables, for quantization, and the inputs of attention, for the distillation of relations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruneonce.errors import UserError
from pruneonce.models.given_roles import KEY, Given, given_in

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Roles:
    """Paths of an architecture's modules.

    Attributes:
        layers: stack of layers, inside the base model.
        beside: stacks with further parts of the same layers, inside the base model.
        pooler: the pooler's Linear, inside the base model.
        attention: Linears for queries, keys and values, inside a layer; one Linear if it makes all three side by side;
            empty if there are none whose relations could be distilled.
        position_offset: number of positions that no token takes. MPNet's code has a padding token of its own, whatever
            its configuration says.
        bf16: the code of transformers trains under autocast to bf16.
        head_bias: the module that adds the vocabulary head's bias where its Linear has none, inside the model.
        wide_head: the vocabulary head, inside the model, where its Linear `decoder` makes a part of the product and the
            transposed Linear `dense` the rest.
    """

    layers: str
    pooler: str | None = None
    attention: tuple[str, ...] = ("attention.self.query", "attention.self.key", "attention.self.value")
    position_offset: Callable[[Any], int] = lambda config: 0
    bf16: bool = True
    head_bias: str | None = None
    wide_head: str | None = None
    beside: tuple[str, ...] = ()


def _after_padding(config: Any) -> int:
    """Number of positions before the first token's where these are counted from the padding token on."""
    return (config.pad_token_id or 0) + 1


PROJECTIONS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
BERT_LIKE = Roles("encoder.layer", "pooler.dense")
ROBERTA_LIKE = Roles("encoder.layer", "pooler.dense", position_offset=_after_padding)
ARCHITECTURES = {
    "bert": BERT_LIKE,
    "camembert": ROBERTA_LIKE,
    "convbert": Roles("encoder.layer", attention=()),  # its keys are made by a convolution too, and heads are fewer
    "data2vec-text": ROBERTA_LIKE,
    "deberta": Roles("encoder.layer", attention=(), bf16=False),  # one Linear, queries, keys and values head by head
    "deberta-v2": Roles(
        "encoder.layer",
        attention=("attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj"),
    ),
    "distilbert": Roles("transformer.layer", attention=("attention.q_lin", "attention.k_lin", "attention.v_lin")),
    "electra": Roles("encoder.layer"),
    "ernie": BERT_LIKE,
    "esm": Roles("encoder.layer", "pooler.dense", position_offset=_after_padding, head_bias="lm_head"),
    "eurobert": Roles("layers", attention=PROJECTIONS),
    "gte": Roles("layers", "pooler.dense", PROJECTIONS),
    "jina_embeddings_v3": Roles("layers", "pooler.dense", PROJECTIONS),
    "megatron-bert": BERT_LIKE,
    "mobilebert": Roles("encoder.layer", "pooler.dense", wide_head="cls.predictions"),
    "modernbert": Roles("layers", attention=("attn.Wqkv",)),
    "mpnet": Roles(
        "encoder.layer", "pooler.dense", ("attention.attn.q", "attention.attn.k", "attention.attn.v"), lambda config: 2
    ),
    "nomic_bert": Roles("layers", "pooler.dense", PROJECTIONS),
    "rembert": BERT_LIKE,
    "roberta": ROBERTA_LIKE,
    "roberta-prelayernorm": ROBERTA_LIKE,
    "roformer": Roles("encoder.layer"),
    "xlm-roberta": ROBERTA_LIKE,
}
# Types of transformers' masked-language mapping that have a reason against them which no module tree shows.
REFUSED = {
    "albert": "all its layers are one, with one set of weights",
    "funnel": "its layers shorten the text from block to block",
    "mra": "its attention needs kernels of its own for GPUs, and is zero in transformers without them",
    "reformer": "its layers are reversible, and its attention is a hash of the tokens",
    "xmod": "its layers have adapters of their own for each language, and need the language of each text",
}


def roles_of(model: nn.Module) -> Roles:
    """Roles of a model's architecture: those of the table, those that a user gives, or those that its tree shows.

    Raises:
        UserError: the architecture is not supported, or has not what the user says.
    """
    base = base_of(model)
    config: Any = base.config
    if known := ARCHITECTURES.get(config.model_type):
        return known
    given = _given(config)
    return _checked(base, config.model_type, given) if given else _discovered(base, config.model_type)


def _given(config: Any) -> Given | None:
    return given_in({"model_type": config.model_type, KEY: getattr(config, KEY, None)})


def check_given(config: Any) -> None:
    """Refuse roles that a user gives of a type in the table.

    Raises:
        UserError: the type is in the table.
    """
    if config.model_type in ARCHITECTURES:
        raise UserError(
            f"the layers of architecture {config.model_type!r} are known, so `roles` change nothing; drop it"
        )


def check_supported(config: Any) -> None:
    """Refuse a configuration whose architecture cannot be pruned, without memory for its weights.

    Raises:
        UserError: the architecture is not supported.
    """
    if config.model_type not in ARCHITECTURES:
        roles_of(empty_encoder(config))


def layers_found(model: nn.Module) -> str | None:
    """Say in a line which layers a type beside the table has, and their Linears; None for a type of the table."""
    from torch import nn

    base, roles = base_of(model), roles_of(model)
    config: Any = base.config
    if config.model_type in ARCHITECTURES:
        return None
    how = "as `roles` say" if _given(config) else "found in its module tree"
    parts = []
    for stack in (roles.layers, *roles.beside):
        blocks = list(base.get_submodule(stack).children())
        names = [name or "itself" for name, module in blocks[0].named_modules() if isinstance(module, nn.Linear)]
        parts.append(f"{len(blocks)} blocks {stack}, of each {', '.join(names)}")
    pooler = f"; {roles.pooler}" if roles.pooler else ""
    return f"{config.model_type} is not in the table of architectures; to prune, {how}: {'; '.join(parts)}{pooler}"


def empty_encoder(config: Any) -> nn.Module:
    """The bare encoder of a configuration on torch's meta device.

    Raises:
        UserError: transformers has no encoder of the type.
    """
    import torch
    from transformers import AutoModel

    _check_type(config.model_type)
    with torch.device("meta"):
        model: nn.Module = AutoModel.from_config(config)
    return model


def _check_type(model_type: str) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    if model_type in REFUSED:
        raise _unsupported(model_type, REFUSED[model_type])
    if model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        raise _unsupported(model_type, "transformers has no masked-language model of it")


def _check_inputs(base: nn.Module, model_type: str) -> None:
    """Refuse a model that is no encoder of tokens and their mask."""
    _check_type(model_type)
    if base.config.is_encoder_decoder:  # type: ignore[union-attr]
        raise _unsupported(model_type, "it has a decoder")
    for name in ("input_ids", "attention_mask"):
        if name not in signature(base.forward).parameters:
            raise _unsupported(model_type, f"it takes no `{name}`")


def _discovered(base: nn.Module, model_type: str) -> Roles:
    """Roles that a module tree shows: the layers are the one stack of alike blocks with Linears.

    Stacks side by side with as many blocks each are parts of the same layers, as the attentions and the feed-forward
    networks of XLM are.

    Raises:
        UserError: there is no such stack, or more than one; the model does not take tokens and their mask.
    """
    _check_inputs(base, model_type)
    stacks = _stacks(base)
    if not stacks:
        raise _unsupported(model_type, "it has no stack with Linears")
    for name in stacks:
        if not _are_alike(base, name):
            raise _unsupported(model_type, f"the blocks of {name} are not alike")
    places = {(name.rpartition(".")[0], len(base.get_submodule(name))) for name in stacks}  # type: ignore[arg-type]
    if len(places) > 1:
        likely = next((name for name in stacks if "text" in name), stacks[0])
        raise UserError(
            f"the Linears of architecture {model_type!r} are in several stacks: {', '.join(stacks)}; say which are the "
            f"layers to prune, such as `roles: {{layers: {likely}}}` in a recipe or `--roles layers={likely}`"
        )
    return Roles(stacks[0], _pooler(base), attention=(), beside=tuple(stacks[1:]))


def _stacks(base: nn.Module) -> list[str]:
    """Names of the lists of blocks with Linears, without those inside others."""
    from torch import nn

    stacks: list[str] = []
    for name, module in base.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in stacks)
        if isinstance(module, nn.ModuleList) and not inside and any(isinstance(m, nn.Linear) for m in module.modules()):
            stacks.append(name)
    return stacks


def _are_alike(base: nn.Module, stack: str) -> bool:
    from torch import nn

    shapes = [
        {name: tuple(m.weight.shape) for name, m in block.named_modules() if isinstance(m, nn.Linear)}
        for block in base.get_submodule(stack).children()
    ]
    return all(block == shapes[0] for block in shapes)


def _pooler(base: nn.Module) -> str | None:
    from torch import nn

    return "pooler.dense" if isinstance(getattr(getattr(base, "pooler", None), "dense", None), nn.Linear) else None


def _checked(base: nn.Module, model_type: str, given: Given) -> Roles:
    """Roles that a user gives, and of those that he leaves out what the module tree shows.

    Raises:
        UserError: the architecture is not supported, or has no such modules.
    """
    from torch import nn

    _check_inputs(base, model_type)
    modules = dict(base.named_modules())
    layers: Any = given.get("layers")
    beside: tuple[str, ...] = ()
    if layers is None:
        found = _discovered(base, model_type)
        layers, beside = found.layers, found.beside
    elif not isinstance(modules.get(layers), nn.ModuleList):
        raise UserError(
            f"`roles.layers` is {layers}, which is no list of blocks of architecture {model_type!r}; its stacks with "
            f"Linears are {', '.join(_stacks(base))}"
        )
    blocks = [f"{layers}.{name}" for name, _ in modules[layers].named_children()]
    if not any(isinstance(module, nn.Linear) for module in modules[layers].modules()):
        raise UserError(f"`roles.layers` is {layers}, which has no Linear to prune")
    attention = tuple(given.get("attention", ()))
    named = {"attention": [f"{block}.{name}" for block in blocks for name in attention]}
    pooler = given.get("pooler")
    if pooler is not None and getattr(base, pooler.partition(".")[0], base) is not None:  # a model may lack it
        named["pooler"] = [pooler]
    for key, names in named.items():
        for name in names:
            if not isinstance(modules.get(name), nn.Linear):
                raise UserError(f"`roles.{key}` names {name}, which is no Linear of architecture {model_type!r}")
    return Roles(layers, pooler or _pooler(base), attention, beside=beside)


def _unsupported(model_type: str, reason: str) -> UserError:
    return UserError(
        f"architecture {model_type!r} is not supported: {reason}; these are: {', '.join(ARCHITECTURES)}, and other "
        "encoders of transformers with one stack of alike layers"
    )


def base_of(model: nn.Module) -> nn.Module:
    """The encoder under any head (`model` itself if it has no head)."""
    return getattr(model, str(model.base_model_prefix), model)


def trains_in_bf16(model: nn.Module) -> bool:
    """Return whether the code of a model trains under autocast to bf16."""
    config: Any = model.config
    return ARCHITECTURES.get(config.model_type, BERT_LIKE).bf16


def attention_inputs(model: nn.Module) -> list[nn.Module]:
    """The Linear modules for queries, keys and values, layer by layer.

    Raises:
        UserError: the architecture is not supported, or its queries, keys and values are not known or not alike.
    """
    base = base_of(model)
    whole: Any = base.config
    config: Any = whole.get_text_config()  # of a model of texts and images
    roles = roles_of(model)
    if not roles.attention:
        raise UserError(
            f"the queries, keys and values of architecture {config.model_type!r} are not known, so there are no "
            "relations to distil; leave `relation_weight` out"
        )
    if getattr(config, "num_key_value_heads", None) not in (None, config.num_attention_heads):
        raise UserError(
            f"this {config.model_type} has {config.num_attention_heads} heads of queries and "
            f"{config.num_key_value_heads} of keys, so there are no relations to distil; leave `relation_weight` out"
        )
    layers = base.get_submodule(roles.layers).children()
    return [layer.get_submodule(name) for layer in layers for name in roles.attention]


def prunable_names(model_type: str, matrices: Collection[str]) -> dict[str, str]:
    """Names of the weights to prune, in the order of `prunable_weights`, without building the model.

    Args:
        model_type: an architecture of the table.
        matrices: names of the two-dimensional tensors of a model's safetensors files.

    Returns:
        Names in the file by names in the base model.
    """
    roles = ARCHITECTURES[model_type]
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
    roles = roles_of(model)
    weights = {
        f"{stack}.{name}.weight": module.weight
        for stack in (roles.layers, *roles.beside)
        for name, module in base.get_submodule(stack).named_modules()
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

    roles_of(model)
    return {
        f"{name}.{inner}" if inner else name: module
        for name, part in _embeddings(model).items()
        for inner, module in part.named_modules()
        if isinstance(module, nn.Embedding)
    }


def freeze_embeddings(model: nn.Module) -> None:
    """Stop the training of the embeddings, with their norms."""
    for part in _embeddings(model).values():
        part.requires_grad_(False)


def _embeddings(model: nn.Module) -> dict[str, nn.Module]:
    """The embeddings' modules by their name in the base model: `embeddings`, or the tables beside the layers.

    flaubert and eurobert, among others, have tables and no module around them.
    """
    from torch import nn

    base = base_of(model)
    parts = dict(base.named_children())
    if "embeddings" in parts and not isinstance(parts["embeddings"], nn.Embedding):
        return {"embeddings": parts["embeddings"]}
    return {
        name: part for name, part in parts.items() if isinstance(part, nn.Embedding) or name.startswith("embed_tokens")
    }


def describe(model: nn.Module) -> str:
    """Describe which weights are pruned and which stay dense; first, of a type beside the table, its layers."""
    weights = prunable_weights(model)
    pruned = sum(weight.numel() for weight in weights.values())
    ids = {id(weight) for weight in weights.values()}
    kept: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if id(parameter) not in ids:
            kind = _kind(name)
            kept[kind] = kept.get(kind, 0) + parameter.numel()
    dense = ", ".join(f"{kind} {size / 1e6:.2f} M" for kind, size in kept.items())
    found = layers_found(model)
    return "\n".join(
        [
            *([found] if found else []),
            f"pruned: {len(weights)} Linear weights of the encoder, {pruned / 1e6:.2f} M",
            f"kept dense: {dense}",
        ]
    )


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
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if positions is None:  # positions that are relative, or of any number
        return
    longest = positions - roles.position_offset(config)
    if length > longest:
        raise UserError(f"`{key}` is {length}, but {model} takes at most {longest} tokens")
