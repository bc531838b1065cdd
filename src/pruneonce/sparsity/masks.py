"""Masks: boolean tensors by parameter name, held outside the model; True keeps a weight, False prunes it.

Names are relative to the base model (`encoder.layer.0.attention.self.query.weight`), so that one pattern fits a model
with any head.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pruneonce.config.pattern import UNSTRUCTURED, Pattern
from pruneonce.sparsity.digest import digest_of
from pruneonce.sparsity.patterns import Allocation, Masks, group_means, masks_of


def magnitude_scores(weights: Mapping[str, Tensor], pattern: Pattern = UNSTRUCTURED) -> dict[str, Tensor]:
    """Mean magnitude of each group of weights."""
    return {name: group_means(weight.detach().abs().float(), pattern) for name, weight in weights.items()}


def magnitude_masks(
    weights: Mapping[str, Tensor],
    sparsity: float,
    allocation: Allocation = "uniform",
    within: Masks | None = None,
    pattern: Pattern = UNSTRUCTURED,
) -> Masks:
    """Masks that prune the smallest magnitudes, by `masks_of`; of single weights exactly `round(sparsity * n)`.

    Args:
        weights: parameters by name, matrices unless the pattern is of single weights.
        sparsity: share of zeros, in [0, 1).
        allocation: as for `masks_of`.
        within: as for `masks_of`.
        pattern: as for `masks_of`.
    """
    shapes = {name: weight.shape for name, weight in weights.items()}
    return masks_of(magnitude_scores(weights, pattern), shapes, pattern, sparsity, allocation, within)


@torch.no_grad()
def apply_masks(weights: Mapping[str, Tensor], masks: Masks) -> None:
    """Zero the weights that the masks prune, in place."""
    zero(weights, {name: ~mask for name, mask in masks.items()})


@torch.no_grad()
def zero(weights: Mapping[str, Tensor], pruned: Mapping[str, Tensor]) -> None:
    """Zero the weights where `pruned` is True, in place.

    A product with the mask would leave -0.0, and keep a NaN.
    """
    for name, where in pruned.items():
        weights[name].masked_fill_(where, 0.0)


def locked_masks(weights: Mapping[str, Tensor]) -> Masks:
    """Masks `weight != 0`: the zero pattern of a sparse model."""
    return {name: weight.detach() != 0 for name, weight in weights.items()}


def sparsity_of(masks: Masks) -> float:
    """Share of pruned weights over all masks."""
    size = sum(mask.numel() for mask in masks.values())
    return sum(int((~mask).sum()) for mask in masks.values()) / size if size else 0.0


def pattern_hash(masks: Masks) -> str:
    """Hash of the masks, see `digest_of`."""
    return digest_of({name: mask.cpu().numpy() for name, mask in masks.items()})


def save_masks(masks: Masks, path: Path) -> None:
    """Write masks as packed bits to a safetensors file."""
    packed = {name: torch.from_numpy(np.packbits(mask.cpu().numpy())) for name, mask in masks.items()}
    save_file(packed, path, {name: ",".join(map(str, mask.shape)) for name, mask in masks.items()})


def load_masks(path: Path) -> Masks:
    """Read masks that `save_masks` wrote."""
    masks = {}
    with safe_open(path, framework="numpy") as file:
        for name, shape in (file.metadata() or {}).items():
            size = [int(n) for n in shape.split(",")]
            bits = np.unpackbits(file.get_tensor(name), count=int(np.prod(size)))
            masks[name] = torch.from_numpy(bits.astype(bool)).view(size)
    return masks
