"""What is in a model folder: sparsity by layer, the zero pattern, provenance, bytes; and what became of its zeros."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from pruneonce.errors import UserError
from pruneonce.models import load_encoder, read_provenance
from pruneonce.models.architectures import prunable_weights
from pruneonce.sparsity.masks import locked_masks, pattern_hash, sparsity_of


@dataclass(frozen=True)
class Layer:
    """One prunable weight."""

    name: str
    shape: list[int]
    zeros: int

    @property
    def size(self) -> int:
        size = 1
        for n in self.shape:
            size *= n
        return size

    @property
    def sparsity(self) -> float:
        return self.zeros / self.size


@dataclass(frozen=True)
class Inspection:
    """Sparsity of a model. `encoder` counts the prunable weights, `model` all parameters (head and embeddings too)."""

    layers: list[Layer]
    encoder: float
    model: float
    parameters: int
    pattern: str
    bytes: int = 0
    provenance: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        layers = [{**asdict(layer), "sparsity": layer.sparsity} for layer in self.layers]
        return {**asdict(self), "layers": layers}


@dataclass(frozen=True)
class LostZeros:
    """Zeros of a parent's weight that are not zero in the child."""

    name: str
    zeros: int
    lost: int


@dataclass(frozen=True)
class Verification:
    layers: list[LostZeros]
    missing: list[str]

    @property
    def ok(self) -> bool:
        """No zero lost, and something was compared: two models without a layer in common do not match."""
        return bool(self.layers) and not any(layer.lost for layer in self.layers)

    @property
    def zeros(self) -> int:
        return sum(layer.zeros for layer in self.layers)


def inspect_module(model: nn.Module) -> Inspection:
    """Sparsity of a model in memory."""
    weights = prunable_weights(model)
    masks = locked_masks(weights)
    layers = [Layer(name, list(mask.shape), int((~mask).sum())) for name, mask in masks.items()]
    parameters = list(model.parameters())
    size = sum(p.numel() for p in parameters)
    zeros = sum(int((p == 0).sum()) for p in parameters)
    return Inspection(layers, sparsity_of(masks), zeros / size, size, pattern_hash(masks))


def inspect_model(folder: str | Path) -> Inspection:
    """Sparsity, provenance and size of a model folder (or hub id).

    Raises:
        UserError: there is no model in the folder, or its architecture is not supported.
    """
    found = inspect_module(load_encoder(folder))
    path = Path(folder)
    size = sum(file.stat().st_size for file in path.glob("*.safetensors")) if path.is_dir() else 0
    return Inspection(**{**vars(found), "bytes": size, "provenance": read_provenance(folder)})


def verify(child: str | Path, parent: str | Path) -> Verification:
    """Are the parent's zeros all zeros in the child? Layers of the parent that the child has not are in `missing`.

    Raises:
        UserError: the parent has no zeros, so that there is nothing to verify.
    """
    ours, theirs = (prunable_weights(load_encoder(folder)) for folder in (child, parent))
    layers = []
    missing = []
    for name, weight in theirs.items():
        zero = weight == 0
        zeros = int(zero.sum())
        if name not in ours or ours[name].shape != weight.shape:
            missing += [name] if zeros else []
            continue
        layers.append(LostZeros(name, zeros, int((ours[name][zero] != 0).sum())))
    if not missing and not any(layer.zeros for layer in layers):
        raise UserError(f"{parent} has no zeros to verify against; is it the sparse model?")
    return Verification(layers, missing)
