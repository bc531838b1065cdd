"""Masks from scores, in a pattern: an exact number of single weights, whole blocks, or N of every M weights.

Each group has one score: `[outputs / rows, inputs / columns]`, and the weight's own shape for patterns of single
weights. A ragged block at the edge of a weight is a smaller block.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pruneonce.config.pattern import Pattern
from pruneonce.errors import UserError

Masks = dict[str, Tensor]
Allocation = Literal["uniform", "global"]


def exact_k_mask(scores: Tensor, k: int) -> Tensor:
    """Bool mask, shaped like `scores`, that is False at exactly `k` of the lowest scores.

    Ties at the threshold are pruned in order of position. A plain threshold would prune all or none of them: at 50 %, a
    constant tensor would lose all its weights.
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
    """Number of weights to prune out of `size`, rounded, since `int(0.29 * 100)` is 28."""
    return round(sparsity * size)


def block_of(pattern: Pattern, shape: torch.Size) -> tuple[int, int]:
    """Rows and columns of a block in a weight of shape `[out, in]`."""
    return pattern.rows or shape[0], pattern.columns or shape[1]


def blocks(values: Tensor, pattern: Pattern) -> Tensor:
    """Reshape `[out, in]` to `[out / rows, in / columns, rows, columns]`, with the edges padded with zeros."""
    rows, columns = block_of(pattern, values.shape)
    padded = F.pad(values, (0, -values.shape[1] % columns, 0, -values.shape[0] % rows))
    return padded.unflatten(0, (-1, rows)).unflatten(2, (-1, columns)).transpose(1, 2)


def group_sizes(shape: torch.Size, pattern: Pattern) -> Tensor:
    """Number of weights in each group; fewer at ragged edges."""
    rows, columns = block_of(pattern, shape)
    high = torch.full((math.ceil(shape[0] / rows),), rows)
    wide = torch.full((math.ceil(shape[1] / columns),), columns)
    high[-1], wide[-1] = shape[0] - rows * (len(high) - 1), shape[1] - columns * (len(wide) - 1)
    return high[:, None] * wide


def group_means(scores: Tensor, pattern: Pattern) -> Tensor:
    """Score of each group: the mean over its weights, so that groups of different sizes compare."""
    if pattern.rows == pattern.columns == 1:
        return scores
    return blocks(scores, pattern).sum((2, 3)) / group_sizes(scores.shape, pattern).to(scores)


def expand(groups: Tensor, pattern: Pattern, shape: torch.Size) -> Tensor:
    """Expand a value of each group to its weights, `[out, in]`."""
    if pattern.rows == pattern.columns == 1:
        return groups
    rows, columns = block_of(pattern, shape)
    return groups.repeat_interleave(rows, 0).repeat_interleave(columns, 1)[: shape[0], : shape[1]]


@torch.no_grad()
def masks_of(
    scores: Mapping[str, Tensor],
    shapes: Mapping[str, torch.Size],
    pattern: Pattern,
    sparsity: float,
    allocation: Allocation = "uniform",
    within: Masks | None = None,
) -> Masks:
    """Masks that prune the groups with the lowest scores: a share `sparsity` of the weights, to the nearest group.

    In an N:M pattern, the surplus of every group of M over N is pruned first. Up to a sparsity of `1 - N / M`, nothing
    else is pruned.

    Args:
        scores: a real number for each group, by name.
        shapes: of the weights, by name.
        pattern: the pattern.
        sparsity: share of zeros, in [0, 1).
        allocation: "uniform" prunes this share of every tensor; "global" sets one threshold over all tensors.
        within: masks whose fully pruned groups are pruned first and so stay pruned (nested masks). Masks that prune
            more than `sparsity`, as those of a sparse model can, stay unchanged.

    Raises:
        UserError: M of N:M does not divide a weight's inputs.
    """
    within = within or {}
    ranked = {name: score.detach().float().clone() for name, score in scores.items()}
    for name, score in ranked.items():
        if name in within:
            score.masked_fill_(group_means(within[name].float(), pattern) == 0, -torch.inf)
    surplus = {name: _surplus(score, pattern) for name, score in ranked.items()}
    sizes = {name: _sizes(shapes[name], pattern, score.device) for name, score in ranked.items()}
    if allocation == "uniform":
        kept = {name: _keep_mask(score, surplus[name], sizes[name], sparsity) for name, score in ranked.items()}
    else:
        flat = _keep_mask(_concatenated(ranked), _concatenated(surplus), _concatenated(sizes), sparsity)
        parts = flat.split([score.numel() for score in ranked.values()])
        kept = {name: part.view_as(ranked[name]) for name, part in zip(ranked, parts, strict=True)}
    masks = {name: expand(keep, pattern, shapes[name]) for name, keep in kept.items()}
    return {name: mask & within[name] if name in within else mask for name, mask in masks.items()}


def _concatenated(parts: Mapping[str, Tensor | None]) -> Tensor | None:
    """Concatenate all parts that are not None, flattened; None if there are none."""
    tensors = [part.flatten() for part in parts.values() if part is not None]
    return torch.cat(tensors) if tensors else None


def _surplus(scores: Tensor, pattern: Pattern) -> Tensor | None:
    """Mask of the lowest scores beyond `keep` in every `of` inputs of an output; None for other patterns.

    Raises:
        UserError: `of` does not divide the inputs.
    """
    if pattern.of == 1:
        return None
    if scores.shape[1] % pattern.of:
        raise UserError(f"pattern {pattern.name} does not divide the {scores.shape[1]} inputs of a weight")
    groups = scores.unflatten(1, (-1, pattern.of))
    lowest = groups.argsort(dim=-1, stable=True)[..., : pattern.of - pattern.keep]
    return torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, lowest, True).flatten(1)


def _sizes(shape: torch.Size, pattern: Pattern, device: torch.device) -> Tensor | None:
    """Number of weights in each group; None for patterns of single weights."""
    return None if pattern.rows == pattern.columns == 1 else group_sizes(shape, pattern).to(device)


def _keep_mask(scores: Tensor | None, surplus: Tensor | None, sizes: Tensor | None, sparsity: float) -> Tensor:
    """Mask of the groups to keep; the surplus is pruned first."""
    assert scores is not None
    if sizes is not None:
        return _keep_blocks(scores, sizes, sparsity)
    k = count(sparsity, scores.numel())
    if surplus is None:
        return exact_k_mask(scores, k)
    first = min(k, int(surplus.sum()))
    keep = exact_k_mask(scores.masked_fill(~surplus, torch.inf), first)
    return keep if k == first else exact_k_mask(scores.masked_fill(~keep, -torch.inf), k)


def _keep_blocks(scores: Tensor, sizes: Tensor, sparsity: float) -> Tensor:
    """Mask that prunes the lowest blocks, in the number that comes nearest to the sparsity, counted in weights."""
    order = scores.flatten().argsort(stable=True)
    weights = sizes.flatten()[order]
    keep = torch.ones_like(scores, dtype=torch.bool).flatten()
    keep[order[weights.cumsum(0) - weights / 2 < sparsity * int(sizes.sum())]] = False
    return keep.view_as(scores)


def holds(mask: Tensor, pattern: Pattern) -> bool:
    """Return whether a mask fits the pattern: no block partly pruned, and at most N of every M kept."""
    if pattern.of > 1:
        return (
            mask.shape[1] % pattern.of == 0 and int(mask.unflatten(1, (-1, pattern.of)).sum(-1).max()) <= pattern.keep
        )
    means = group_means(mask.float(), pattern)
    return bool(((means == 0) | (means == 1)).all())
