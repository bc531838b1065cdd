"""Masks: which weights are zero and stay zero. Held outside the model, by parameter name; True keeps a weight.

Names are relative to the base model (`encoder.layer.0.attention.self.query.weight`), so that one pattern fits a
model with any head.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

Masks = dict[str, Tensor]


def exact_k_mask(scores: Tensor, k: int) -> Tensor:
    """A bool mask shaped like `scores` that is False at exactly `k` of the lowest scores.

    By selection, not a full sort. Ties at the threshold go in order of position: a strict threshold would prune all or
    none of them (a constant tensor at 50 % would come out empty).
    """
    flat = scores.flatten()
    if not 0 <= k <= flat.numel():
        raise ValueError(f"k = {k} is outside 0..{flat.numel()}")
    if k == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    threshold = flat.kthvalue(k).values
    keep = flat >= threshold
    ties = (flat == threshold).nonzero().flatten()
    missing = k - int((~keep).sum())
    keep[ties[:missing]] = False
    return keep.view_as(scores)


def count(sparsity: float, size: int) -> int:
    """How many of `size` weights to prune: rounded, since `int(0.29 * 100)` is 28."""
    return round(sparsity * size)


@torch.no_grad()
def magnitude_masks(
    weights: Mapping[str, Tensor],
    sparsity: float,
    allocation: Literal["uniform", "global"] = "uniform",
    within: Masks | None = None,
) -> Masks:
    """Masks that prune the smallest magnitudes, exactly `round(sparsity * n)` of them (more where `within` does).

    Args:
        weights: parameters by name, any shape.
        sparsity: share of zeros, in [0, 1).
        allocation: "uniform" prunes this share of every tensor by itself; "global" finds one threshold over all.
        within: weights pruned here are pruned first and so stay pruned (nested masks).
    """
    within = within or {}

    def scores(name: str) -> Tensor:
        found = weights[name].detach().abs().float()
        if name in within:
            found.masked_fill_(~within[name], -1.0)  # below any magnitude, a kept weight of exactly 0 included
        return found

    if allocation == "uniform":
        masks = {name: exact_k_mask(scores(name), count(sparsity, weight.numel())) for name, weight in weights.items()}
    else:
        together = torch.cat([scores(name).flatten() for name in weights])
        keep = exact_k_mask(together, count(sparsity, together.numel()))
        parts = keep.split([weight.numel() for weight in weights.values()])
        masks = {name: part.view_as(weights[name]) for name, part in zip(weights, parts, strict=True)}
    # Where `within` prunes more than `sparsity` asks for, as a model that was sparse before does, it stands.
    return {name: mask & within[name] if name in within else mask for name, mask in masks.items()}


@torch.no_grad()
def apply_masks(weights: Mapping[str, Tensor], masks: Masks) -> None:
    """Zero what the masks prune, in place."""
    zero(weights, {name: ~mask for name, mask in masks.items()})


@torch.no_grad()
def zero(weights: Mapping[str, Tensor], pruned: Mapping[str, Tensor]) -> None:
    """Zero the weights where `pruned` is True, in place. Not by multiplication: it would leave -0.0 and keep a NaN."""
    for name, where in pruned.items():
        weights[name].masked_fill_(where, 0.0)


def locked_masks(weights: Mapping[str, Tensor]) -> Masks:
    """`weight != 0`: the pattern that a sparse model already has."""
    return {name: weight.detach() != 0 for name, weight in weights.items()}


def sparsity_of(masks: Masks) -> float:
    """Share of pruned weights over all masks."""
    size = sum(mask.numel() for mask in masks.values())
    return sum(int((~mask).sum()) for mask in masks.values()) / size if size else 0.0


def pattern_hash(masks: Masks) -> str:
    """sha256 of names, shapes and packed bits, in the order of names: equal if and only if the patterns are."""
    digest = hashlib.sha256()
    for name in sorted(masks):
        digest.update(f"{name}{tuple(masks[name].shape)}".encode())
        digest.update(np.packbits(masks[name].cpu().numpy()).tobytes())
    return digest.hexdigest()


def save_masks(masks: Masks, path: Path) -> None:
    """Write masks as packed bits."""
    packed = {name: torch.from_numpy(np.packbits(mask.cpu().numpy())) for name, mask in masks.items()}
    save_file(packed, path, {name: ",".join(map(str, mask.shape)) for name, mask in masks.items()})


def load_masks(path: Path) -> Masks:
    """What `save_masks` wrote."""
    masks = {}
    with safe_open(path, framework="numpy") as file:
        for name, shape in (file.metadata() or {}).items():
            size = [int(n) for n in shape.split(",")]
            bits = np.unpackbits(file.get_tensor(name), count=int(np.prod(size)))
            masks[name] = torch.from_numpy(bits.astype(bool)).view(size)
    return masks
