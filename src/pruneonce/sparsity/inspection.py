"""Inspection of a model folder, and verification of its zeros against a parent model.

An inspection holds the sparsity of each layer, the hash of the zero pattern, the provenance and the size in bytes.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pruneonce.errors import UserError
from pruneonce.models.architectures import (
    ARCHITECTURES,
    BERT_LIKE,
    empty_encoder,
    prunable_names,
    prunable_weights,
)
from pruneonce.models.given_roles import given_in
from pruneonce.models.lineage import is_from_elsewhere
from pruneonce.models.provenance import is_as_written, read_provenance
from pruneonce.models.source import Stored, local_files, read_config, stored_weights, unread_type
from pruneonce.sparsity.digest import digest_of

if TYPE_CHECKING:
    from torch import nn


# Share of zeros of a weight below which they are no pattern, beside weights that have one.
SCATTERED = 0.1
# Files of tokenizers, of which each has one at least.
TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")


@dataclass(frozen=True)
class Layer:
    """One prunable weight: its name in the base model, shape and number of zeros."""

    name: str
    shape: list[int]
    zeros: int

    @property
    def size(self) -> int:
        """Number of weights."""
        size = 1
        for n in self.shape:
            size *= n
        return size

    @property
    def sparsity(self) -> float:
        """Share of zeros."""
        return self.zeros / self.size


@dataclass(frozen=True)
class Inspection:
    """Sparsity of a model.

    Attributes:
        layers: the prunable weights.
        encoder: share of zeros in the prunable weights.
        model: share of zeros in all parameters, with head and embeddings.
        parameters: number of all parameters.
        pattern: hash of the zero pattern.
        bytes: size of the weights' files; 0 for a model in memory or on the hub.
        provenance: record beside the weights; None if there is none.
        tokenizer: whether the files of a tokenizer are beside the weights; None for a model in memory or on the hub.
    """

    layers: list[Layer]
    encoder: float
    model: float
    parameters: int
    pattern: str
    bytes: int = 0
    provenance: dict[str, Any] | None = None
    tokenizer: bool | None = None

    @property
    def scattered(self) -> list[str]:
        """Names of the weights with zeros that are too few for a pattern."""
        return [layer.name for layer in self.layers if 0 < layer.sparsity < SCATTERED]

    def to_json(self) -> dict[str, Any]:
        """All attributes as values for JSON, with the sparsity of each layer."""
        layers = [{**asdict(layer), "sparsity": layer.sparsity} for layer in self.layers]
        return {**asdict(self), "layers": layers}


@dataclass(frozen=True)
class LostZeros:
    """Zeros of a parent's weight, and the number of them that are not zero in the child.

    Attributes:
        name: of the weight in the base model.
        zeros: number of zeros in the parent.
        lost: number of these that are not zero in the child.
    """

    name: str
    zeros: int
    lost: int


@dataclass(frozen=True)
class Verification:
    """Comparison of a child's zeros with its parent's.

    Attributes:
        layers: the weights that both models have.
        missing: names of sparse weights of the parent that the child lacks, or has in another shape.
        wanted: those of `missing` that a child must have: all but the weight of a pooler that the child has not.
        scattered: names of weights left out, since zeros of a parent from elsewhere are too few for a pattern.
    """

    layers: list[LostZeros]
    missing: list[str]
    wanted: list[str] = field(default_factory=list)
    scattered: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True if no zero is lost; False for a child without all layers of the parent, or with others."""
        return bool(self.layers) and not self.wanted and not any(layer.lost for layer in self.layers)

    @property
    def zeros(self) -> int:
        """Number of the parent's zeros in the compared weights."""
        return sum(layer.zeros for layer in self.layers)


def inspect_module(model: nn.Module) -> Inspection:
    """Inspect a model in memory."""
    from pruneonce.sparsity.masks import locked_masks, pattern_hash, sparsity_of

    weights = prunable_weights(model)
    masks = locked_masks(weights)
    layers = [Layer(name, list(mask.shape), int((~mask).sum())) for name, mask in masks.items()]
    parameters = list(model.parameters())
    size = sum(p.numel() for p in parameters)
    zeros = sum(int((p == 0).sum()) for p in parameters)
    return Inspection(layers, sparsity_of(masks), zeros / size, size, pattern_hash(masks))


def inspect_model(folder: str | Path) -> Inspection:
    """Inspect a model folder (or hub id) by its files; PyTorch is loaded only for a model from elsewhere.

    Raises:
        UserError: there is no model in the folder, some of its weights are missing, or its architecture is not
            supported.
    """
    local, stored = _stored(folder)
    prunable = _prunable(local, stored)
    masks = {name: weight.read() != 0 for name, weight in prunable.items()}
    layers = [Layer(name, list(mask.shape), int((~mask).sum())) for name, mask in masks.items()]
    pruned, size = sum(layer.zeros for layer in layers), sum(layer.size for layer in layers)
    parameters = sum(int(np.prod(weight.shape)) for weight in stored.values())
    others = set(stored.values()) - set(prunable.values())
    zeros = pruned + sum(int((weight.read() == 0).sum()) for weight in others)
    return Inspection(
        layers,
        pruned / size,
        zeros / parameters,
        parameters,
        digest_of(masks),
        sum(file.stat().st_size for file in local.glob("*.safetensors")) if Path(folder).is_dir() else 0,
        read_provenance(local),
        any(file for pattern in TOKENIZERS for file in local.glob(pattern)) if Path(folder).is_dir() else None,
    )


def _stored(source: str | Path) -> tuple[Path, dict[str, Stored]]:
    """The folder of a model and its weights, checked to be all of the encoder's."""
    folder = local_files(source)
    stored = stored_weights(folder)
    _prunable(folder, stored)
    if not is_as_written(folder):
        from pruneonce.models.loading import check_weights

        check_weights(source)
    return folder, stored


def _prunable(folder: Path, stored: dict[str, Stored]) -> dict[str, Stored]:
    """The prunable weights of a folder, by their name in the base model.

    Raises:
        UserError: there are no prunable weights.
    """
    matrices = [name for name, weight in stored.items() if len(weight.shape) == 2]
    model_type = str(read_config(folder).get("model_type"))
    names = prunable_names(model_type, matrices) if model_type in ARCHITECTURES else _discovered_names(folder, matrices)
    if not names:
        raise unread_type(folder, ()) or UserError(f"{folder} has no weights of an encoder's layers")
    return {short: stored[name] for short, name in names.items()}


def _discovered_names(folder: Path, matrices: Collection[str]) -> dict[str, str]:
    """Names of the prunable weights in a file by those in the base model, of a type that is not in the table."""
    from pruneonce.models.loading import load_config

    encoder = empty_encoder(load_config(folder))
    full = {name.removeprefix(f"{encoder.base_model_prefix}."): name for name in matrices}
    return {name: full[name] for name in prunable_weights(encoder) if name in full}


def verify(child: str | Path, parent: str | Path) -> Verification:
    """Compare the parent's zeros with the child's weights.

    Raises:
        UserError: the parent has no zeros to verify against.
    """
    ours = _prunable(*_stored(child))
    folder, stored = _stored(parent)
    theirs = _prunable(folder, stored)
    pooler = _pooler(read_config(folder))
    patternless = _patternless(folder, theirs)
    layers: list[LostZeros] = []
    missing: list[str] = []
    wanted: list[str] = []
    for name, weight in theirs.items():
        if name in patternless:
            continue
        zero = weight.read() == 0
        zeros = int(zero.sum())
        if name not in ours or ours[name].shape != weight.shape:
            missing += [name] if zeros else []
            wanted += [name] if zeros and (name in ours or name != f"{pooler}.weight") else []
            continue
        layers.append(LostZeros(name, zeros, int((ours[name].read()[zero] != 0).sum())))
    if not missing and not any(layer.zeros for layer in layers):
        raise UserError(f"{parent} has no zeros to verify against; is it the sparse model?")
    return Verification(layers, missing, wanted, patternless)


def _pooler(config: dict[str, Any]) -> str | None:
    """Return the name of the pooler's Linear by config.json; types beside the table have that of BERT, or their own."""
    given = given_in(config) or {}
    return given.get("pooler") or ARCHITECTURES.get(str(config.get("model_type")), BERT_LIKE).pooler


def _patternless(folder: Path, stored: dict[str, Stored]) -> list[str]:
    """Return the names of weights from elsewhere with zeros that are too few for a pattern, which `take` unlocks."""
    if not is_from_elsewhere(read_provenance(folder)):
        return []
    shares = {name: float((weight.read() == 0).mean()) for name, weight in stored.items()}
    few = [name for name, share in shares.items() if 0 < share < SCATTERED]
    return few if max(shares.values(), default=0.0) >= SCATTERED else []
