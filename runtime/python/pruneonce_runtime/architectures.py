"""From a model's files to a `Network`: one table of what the architectures call their parts and what they compute.

Everything below this module is free of architecture names. The table says what transformers 5 computes for a model of
the same config.json; a configuration that asks for anything else is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pruneonce_runtime.configuration import Configuration
from pruneonce_runtime.errors import PruneonceError
from pruneonce_runtime.file import Member
from pruneonce_runtime.spec import (
    Activation,
    Embeddings,
    Encoder,
    Floats,
    Head,
    Layer,
    Linear,
    Network,
    Norm,
    RelativeBias,
    Rotary,
)
from pruneonce_runtime.weights import Weights

Int64s = npt.NDArray[np.int64]

# Keys of config.json that would make another model, with the values that do not.
UNSUPPORTED: Mapping[str, Any] = {
    "is_decoder": False,
    "position_embedding_type": "absolute",
    "quantization_config": None,
    "rope_scaling": None,
}

ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}


@dataclass(frozen=True)
class Names:
    """Tensors, without `.weight` and `.bias`, of the base model; those of a layer are relative to `layer`."""

    words: str = "embeddings.word_embeddings"
    positions: str | None = "embeddings.position_embeddings"
    types: str | None = "embeddings.token_type_embeddings"
    embeddings_norm: str = "embeddings.LayerNorm"
    projection: str | None = None
    layer: str = "encoder.layer.{}."
    inputs: tuple[str, ...] = ("attention.self.query", "attention.self.key", "attention.self.value")
    output: str = "attention.output.dense"
    attention_norm: str = "attention.output.LayerNorm"
    up: str = "intermediate.dense"
    down: str = "output.dense"
    feed_norm: str = "output.LayerNorm"
    relative_bias: str | None = None
    final_norm: str | None = None


@dataclass(frozen=True)
class Keys:
    """Keys of config.json."""

    hidden: str = "hidden_size"
    layers: str = "num_hidden_layers"
    heads: str = "num_attention_heads"
    inner: str = "intermediate_size"
    activation: str = "hidden_act"
    eps: str | None = "layer_norm_eps"  # None: it is fixed
    positions: str = "max_position_embeddings"
    width: str = "hidden_size"  # of the embedding tables


@dataclass(frozen=True)
class TaskHead:
    """A head's tensors, by their full names; `activation` is that after `dense`, or the key of config.json with it."""

    output: str
    dense: str | None = None
    activation: str = ""
    norm: str | None = None


@dataclass(frozen=True)
class Architecture:
    """What is particular to an architecture; functions take config.json.

    Attributes:
        classes: what its classes in transformers begin with.
        prefix: of the base model's tensors under a head.
        sequence: head of `...ForSequenceClassification`, on the first token unless `pool_key` says otherwise.
        tokens, answers: heads of `...ForTokenClassification` and `...ForQuestionAnswering`, on every token.
        eps: of norms where config.json does not say.
        pads: the id that takes no position of its own (see `Embeddings.pad_id`), one less than the position offset.
        biased: whether Linears of attention, of the feed-forward network, of heads' `dense`, and norms have biases.
    """

    classes: str
    prefix: str
    sequence: TaskHead
    tokens: TaskHead = TaskHead("classifier")
    answers: TaskHead = TaskHead("qa_outputs")
    names: Names = Names()
    keys: Keys = Keys()
    pads: Callable[[Configuration], int | None] = lambda config: None
    biased: Callable[[Configuration], tuple[bool, bool, bool, bool]] = lambda config: (True, True, True, True)
    pool_key: str | None = None
    eps: float = 1e-12
    rotary: bool = False
    gated: bool = False
    pre_norm: bool = False


PREDICTION = TaskHead("classifier", "head.dense", "classifier_activation", "head.norm")

ARCHITECTURES: Mapping[str, Architecture] = {
    "bert": Architecture("Bert", "bert.", TaskHead("classifier", "bert.pooler.dense", "tanh")),
    "distilbert": Architecture(
        "DistilBert",
        "distilbert.",
        TaskHead("classifier", "pre_classifier", "relu"),
        names=Names(
            types=None,
            layer="transformer.layer.{}.",
            inputs=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
            output="attention.out_lin",
            attention_norm="sa_layer_norm",
            up="ffn.lin1",
            down="ffn.lin2",
            feed_norm="output_layer_norm",
        ),
        keys=Keys("dim", "n_layers", "n_heads", "hidden_dim", "activation", None, width="dim"),
    ),
    "electra": Architecture(
        "Electra",
        "electra.",
        TaskHead("classifier.out_proj", "classifier.dense", "gelu"),
        names=Names(projection="embeddings_project"),
        keys=Keys(width="embedding_size"),
    ),
    "modernbert": Architecture(
        "ModernBert",
        "model.",
        PREDICTION,
        PREDICTION,
        PREDICTION,
        names=Names(
            words="embeddings.tok_embeddings",
            positions=None,
            types=None,
            embeddings_norm="embeddings.norm",
            layer="layers.{}.",
            inputs=("attn.Wqkv",),
            output="attn.Wo",
            attention_norm="attn_norm",
            up="mlp.Wi",
            down="mlp.Wo",
            feed_norm="mlp_norm",
            final_norm="final_norm",
        ),
        keys=Keys(activation="hidden_activation", eps="norm_eps"),
        biased=lambda config: (
            config.flag("attention_bias"),
            config.flag("mlp_bias"),
            config.flag("classifier_bias"),
            config.flag("norm_bias"),
        ),
        pool_key="classifier_pooling",
        eps=1e-5,
        rotary=True,
        gated=True,
        pre_norm=True,
    ),
    "mpnet": Architecture(
        "MPNet",
        "mpnet.",
        TaskHead("classifier.out_proj", "classifier.dense", "tanh"),
        names=Names(
            types=None,
            inputs=("attention.attn.q", "attention.attn.k", "attention.attn.v"),
            output="attention.attn.o",
            attention_norm="attention.LayerNorm",
            relative_bias="encoder.relative_attention_bias",
        ),
        pads=lambda config: 1,  # its code has a padding token of its own, whatever config.json says
    ),
    "roberta": Architecture(
        "Roberta",
        "roberta.",
        TaskHead("classifier.out_proj", "classifier.dense", "tanh"),
        pads=lambda config: config.integer("pad_token_id", 0, default=1),
    ),
}


def build(member: Member, config: Configuration) -> Network:
    """The network of a member, its weights decoded and its shapes those that config.json asks for.

    Raises:
        PruneonceError: the architecture is not supported, a tensor is missing or of another shape, or the configuration
            asks for what is not known here.
    """
    architecture = ARCHITECTURES.get(config.model_type)
    if architecture is None:
        raise PruneonceError(
            f"architecture {config.model_type!r} is not supported; these are: {', '.join(ARCHITECTURES)}"
        )
    if config.class_name and not config.class_name.startswith(architecture.classes):
        raise config.damaged("architectures")
    for key, usual in UNSUPPORTED.items():
        if config.get(key, usual) != usual:
            raise PruneonceError(f"{config.path}: config.json sets `{key}`, which is not supported")
    return _Builder(architecture, config, Weights(member, architecture.prefix)).network()


class _Builder:
    def __init__(self, architecture: Architecture, config: Configuration, weights: Weights) -> None:
        self.architecture, self.config, self.weights = architecture, config, weights
        keys = architecture.keys
        self.names = architecture.names
        self.hidden = config.integer(keys.hidden, 1)
        self.heads = config.integer(keys.heads, 1)
        self.inner = config.integer(keys.inner, 1)
        self.eps = (
            1e-12 if keys.eps is None else config.number(keys.eps, default=1e-5 if architecture.rotary else 1e-12)
        )
        self.biased_attention, self.biased_feed, self.biased_head, self.biased_norm = architecture.biased(config)
        if self.hidden % self.heads:
            raise config.damaged(keys.heads)

    def network(self) -> Network:
        keys, names, config = self.architecture.keys, self.names, self.config
        count = config.integer(keys.layers, 1)
        if count > len(self.weights.member.tensors):  # before a list of that length is made
            raise config.damaged(keys.layers)
        embeddings = self.embeddings()
        positions = embeddings.positions
        most = positions.rows - embeddings.position_offset if positions else config.integer(keys.positions, 1)
        if most < 1:
            raise config.damaged(keys.positions)
        encoder = Encoder(
            embeddings,
            tuple(self.layer(number, kind) for number, kind in enumerate(self.layer_kinds(count))),
            self.heads,
            self.hidden,
            most,
            self.relative_bias(),
            self.norm(names.final_norm) if names.final_norm else None,
        )
        return Network(encoder, self.head())

    def embeddings(self) -> Embeddings:
        names, config, weights = self.names, self.config, self.weights
        width = config.integer(self.architecture.keys.width, 1)
        pad = self.architecture.pads(config)
        types, projection = None, None
        if names.types:
            types = weights.table(names.types, config.integer("type_vocab_size", 1, default=2), width)
        if names.projection and width != self.hidden:
            projection = weights.linear(names.projection, self.hidden, width)
        positions = None
        if names.positions:
            rows = config.integer(self.architecture.keys.positions, 1, default=512)
            positions = weights.table(names.positions, rows, width)
        return Embeddings(
            weights.table(names.words, config.integer("vocab_size", 1), width),
            positions,
            types,
            weights.norm(names.embeddings_norm, width, self.eps, self.biased_norm),
            projection,
            0 if pad is None else pad + 1,
            pad,
        )

    def layer_kinds(self, count: int) -> list[str]:
        """`full_attention` or `sliding_attention` of each layer."""
        if not self.architecture.rotary:
            return ["full_attention"] * count
        every = self.config.integer("global_attn_every_n_layers", 1, default=3)
        usual = ["sliding_attention" if number % every else "full_attention" for number in range(count)]
        kinds = self.config.get("layer_types", usual)
        if not isinstance(kinds, list) or len(kinds) != count or not {*map(str, kinds)} <= {*DEFAULT_THETAS}:
            raise self.config.damaged("layer_types")
        return kinds

    def layer(self, number: int, kind: str) -> Layer:
        names, hidden, inner = self.names, self.hidden, self.inner
        gated, is_local = self.architecture.gated, kind == "sliding_attention"
        at = names.layer.format(number)
        outputs = 3 * hidden // len(names.inputs)
        has_norm = not self.architecture.pre_norm or number > 0  # the first one's would follow that of the embeddings
        return Layer(
            inputs=tuple(
                self.weights.linear(at + name, outputs, hidden, self.biased_attention) for name in names.inputs
            ),
            output=self.weights.linear(at + names.output, hidden, hidden, self.biased_attention),
            attention_norm=self.norm(at + names.attention_norm) if has_norm else None,
            up=self.weights.linear(at + names.up, 2 * inner if gated else inner, hidden, self.biased_feed),
            down=self.weights.linear(at + names.down, hidden, inner, self.biased_feed),
            feed_norm=self.norm(at + names.feed_norm),
            activation=self.activation(self.architecture.keys.activation),
            gated=gated,
            pre_norm=self.architecture.pre_norm,
            rotary=self.rotary(kind) if self.architecture.rotary else None,
            window=self.config.integer("local_attention", 0, default=128) // 2 if is_local else None,
        )

    def norm(self, name: str) -> Norm:
        return self.weights.norm(name, self.hidden, self.eps, self.biased_norm)

    def activation(self, key: str) -> Activation:
        name = self.config.get(key, "gelu")
        if not isinstance(name, str) or name not in ACTIVATIONS:
            raise PruneonceError(f"activation {name!s:.40} is not supported; these are: {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[name]

    def rotary(self, kind: str) -> Rotary:
        """Frequencies `1 / theta^(2 i / head_dim)`: exponents in float32, the power rounded to it, then its inverse."""
        old_key, usual = DEFAULT_THETAS[kind]
        named = self.config.get("rope_parameters", {})
        parameters = named.get(kind) or {} if isinstance(named, dict) else None
        if not isinstance(parameters, dict):
            raise self.config.damaged("rope_parameters")
        if parameters.get("rope_type", "default") != "default":
            raise PruneonceError("the model scales its rotary positions, which is not supported")
        theta = parameters.get("rope_theta", self.config.get(old_key, usual))
        width = self.hidden // self.heads
        if isinstance(theta, bool) or not isinstance(theta, int | float) or not 1 <= theta < 1e12 or width % 2:
            raise self.config.damaged("rope_parameters")
        exponents = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
        powers = (float(theta) ** exponents.astype(np.float64)).astype(np.float32)
        return Rotary(read_only(np.float32(1) / powers))

    def relative_bias(self) -> RelativeBias | None:
        if self.names.relative_bias is None:
            return None
        buckets = self.config.integer("relative_attention_num_buckets", BUCKETS, default=BUCKETS)
        stored = self.weights.floats(f"{self.names.relative_bias}.weight", (buckets, self.heads))
        distances = np.arange(-MAX_DISTANCE, MAX_DISTANCE + 1)
        return RelativeBias(read_only(np.ascontiguousarray(stored[bucket(distances)].T)))

    def head(self) -> Head | None:
        """
        Raises:
            PruneonceError: the model has a head that is not one of a task here.
        """
        architecture, config = self.architecture, self.config
        heads = {"sequence": architecture.sequence, "tokens": architecture.tokens, "answers": architecture.answers}
        if config.head is None:
            return None
        task = heads[config.head]
        pool: Any = None
        if config.head == "sequence":
            key = architecture.pool_key
            pooling = config.get(key, "cls") if key else "cls"
            if pooling not in ("cls", "mean"):
                raise config.damaged(str(key))
            pool = "first" if pooling == "cls" else "mean"
        dense, activation = None, None
        if task.dense:
            dense = self.weights.linear(task.dense, self.hidden, self.hidden, self.biased_head)
            key = task.activation
            activation = self.activation(key) if key not in ACTIVATIONS else ACTIVATIONS[key]
        output: Linear = self.weights.linear(task.output, len(config.labels), self.hidden)
        return Head(pool, output, dense, activation, self.norm(task.norm) if task.norm else None)


# -- rotary and relative positions -------------------------------------------------------------------------------

# By the kind of a layer: the key of older configurations, and the default.
DEFAULT_THETAS = {"full_attention": ("global_rope_theta", 160_000.0), "sliding_attention": ("local_rope_theta", 1e4)}
BUCKETS = 32  # of distances, whatever the size of the table
MAX_DISTANCE = 128  # from which on all distances are of one bucket


def bucket(distances: Int64s) -> Int64s:
    """The bucket of each distance from a query to a key: half of them for keys behind, half for keys ahead.

    Distances below 8 have one each, further ones share logarithmically wider ones, as in T5
    (https://arxiv.org/abs/1910.10683). Logarithms are in float32: where one is rounded to a whole
    number, a bucket begins.
    """
    half = BUCKETS // 2
    exact = half // 2
    steps = np.abs(distances)
    ratio = np.log(np.maximum(steps, 1).astype(np.float32) / np.float32(exact))
    far = exact + (ratio / np.float32(math.log(MAX_DISTANCE / exact)) * np.float32(half - exact)).astype(np.int64)
    ahead = np.where(distances > 0, half, 0)
    return ahead + np.where(steps < exact, steps, np.minimum(far, half - 1)).astype(np.int64)


def read_only(array: Floats) -> Floats:
    array.flags.writeable = False
    return array
