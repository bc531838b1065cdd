"""Product quantization: a weight is cut into blocks of neighbouring inputs, and each block is one of a few centroids.

Pure functions of blocks, [n, b]. Source: Quant-Noise, https://arxiv.org/abs/2004.07320, section 3, after Stock et al.,
https://arxiv.org/abs/1907.05686.

A sparse weight stays sparse in two ways. Centroid 0 is the zero block, reserved for blocks that are all zero. In other
blocks a mask is applied after decoding, so what a centroid has in a pruned place counts neither when it is chosen nor
when it is learned.
"""

from __future__ import annotations

from itertools import repeat

import torch
from torch import Tensor

SAMPLE = 256  # blocks a centroid that k-means looks at; more change it little
CHUNK = 2048  # blocks whose distances to all centroids are in memory at once, which is the processor's own


def block_sums(values: Tensor, codes: Tensor, centroids: int) -> Tensor:
    """The sum of the blocks of each centroid, [centroids, b]; the same every time, on any device.

    Args:
        values: [n, b].
        codes: int64 [n].
    """
    sums = values.new_zeros(centroids, values.shape[1])
    if values.is_cuda:  # there `index_add_` adds in any order, and this one sorts
        return sums.index_put_((codes,), values, accumulate=True)
    return sums.index_add_(0, codes, values)


def block_counts(kept: Tensor | None, codes: Tensor, centroids: int) -> Tensor:
    """How often each number of a centroid is used, [centroids, b] or [centroids, 1]; at least 1, to divide by.

    Args:
        kept: bool [n, b]; None: all.
    """
    there = codes.new_ones(len(codes), 1) if kept is None else kept
    counts = block_sums(there.float(), codes, centroids).clamp_min(1)
    counts[0] = torch.inf  # the zero block is the mean of nothing
    return counts


def block_means(values: Tensor, kept: Tensor | None, codes: Tensor, centroids: int) -> Tensor:
    """The mean of the blocks of each centroid over what is kept of them, [centroids, b]; 0 for the zero block, and
    where nothing is.

    Args:
        values: [n, b], 0 where not kept.
        kept: bool [n, b]; None: all.
    """
    return block_sums(values, codes, centroids) / block_counts(kept, codes, centroids)


def decode(codes: Tensor, centroids: Tensor, kept: Tensor | None) -> Tensor:
    """The blocks that codes stand for, [n, b], with zeros where nothing is kept."""
    blocks = centroids.index_select(0, codes)
    return blocks if kept is None else blocks.masked_fill_(~kept, 0.0)


def nearest(blocks: Tensor, kept: Tensor | None, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """For each block the code of the centroid at the least distance `sum of m (x - c)^2`, m being 1 where it is kept;
    and that distance. All-zero blocks have code 0, and no others.

    Args:
        blocks: [n, b], 0 where not kept.
        kept: bool [n, b]; None: all.
        centroids: [k, b], k > 1.
    """
    codes, distances = [], []
    squares = centroids[1:].square()
    masks = repeat(None) if kept is None else kept.split(CHUNK)
    for part, mask in zip(blocks.split(CHUNK), masks, strict=False):
        sizes = squares.sum(1).expand(len(part), -1) if mask is None else mask.to(part.dtype) @ squares.T
        found = torch.addmm(sizes, part, centroids[1:].T, alpha=-2).min(1)
        filled = part.any(1)
        codes.append((found.indices + 1) * filled)
        distances.append((found.values + part.square().sum(1)).clamp_min(0) * filled)
    return torch.cat(codes), torch.cat(distances)


@torch.no_grad()
def learn(
    blocks: Tensor, kept: Tensor | None, centroids: int, generator: torch.Generator, iterations: int = 20
) -> tuple[Tensor, Tensor]:
    """Codes and centroids by k-means (Lloyd), the distance being that of `nearest`.

    It starts from blocks drawn without replacement. A centroid that no block is near to takes the place of a block that
    is far from all. Of many blocks it learns from a drawn sample, and then assigns all.

    Args:
        blocks: float32 [n, b], 0 where not kept.
        kept: bool [n, b]; None: all.
        centroids: how many, the zero block being one of them.
        generator: of the processor.

    Returns:
        Codes, int64 [n], and centroids, float32 [centroids, b]; those that nothing needs are zero.
    """
    filled = blocks.any(1).nonzero().flatten()
    drawn = filled[torch.randperm(len(filled), generator=generator).to(filled.device)][: SAMPLE * centroids]
    seen, seen_kept = blocks[drawn], None if kept is None else kept[drawn]
    table = blocks.new_zeros(centroids, blocks.shape[1])
    start = seen[: centroids - 1]
    table[1 : 1 + len(start)] = start
    for _ in range(iterations):
        codes, distances = nearest(seen, seen_kept, table)
        table = block_means(seen, seen_kept, codes, centroids)
        empty = (torch.bincount(codes, minlength=centroids)[1:] == 0).nonzero().flatten() + 1
        far = distances.argsort(descending=True, stable=True)[: len(empty)]
        far = far[distances[far] > 0]
        table[empty[: len(far)]] = seen[far]
    codes, _ = nearest(blocks, kept, table)
    return codes, block_means(blocks, kept, codes, centroids)


def coded_bytes(weights: int, centroids: int, block_size: int) -> int:
    """Bytes of a weight on a codebook: a byte for each block, and fp16 centroids. With 256 of them these are
    `log2(256) / block_size` bits a weight and `256 * block_size * 2` bytes. The mask of a sparse weight comes on top.
    """
    return weights // block_size + 2 * centroids * block_size
