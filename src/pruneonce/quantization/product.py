"""Product quantization: a weight is cut into blocks of neighbouring inputs, and each block becomes a centroid.

Pure functions of blocks, [n, b]. Source: Quant-Noise, https://arxiv.org/abs/2004.07320, section 3, after Stock et al.,
https://arxiv.org/abs/1907.05686.

A sparse weight stays sparse in two ways. Centroid 0 is the zero block, reserved for blocks of zeros. In other blocks,
a mask is applied after decoding, so a centroid's values at pruned weights count neither in assigning nor in learning
centroids.
"""

from __future__ import annotations

from itertools import repeat

import torch
from torch import Tensor

SAMPLE = 256  # blocks a centroid that k-means learns from; more change little
CHUNK = 2048  # blocks whose distances to all centroids are computed at once, within the CPU cache


def block_sums(values: Tensor, codes: Tensor, centroids: int) -> Tensor:
    """Sum of the blocks of each centroid, [centroids, b]; deterministic on any device.

    Args:
        values: [n, b].
        codes: int64 [n].
        centroids: number of centroids.
    """
    sums = values.new_zeros(centroids, values.shape[1])
    if values.is_cuda:  # `index_add_` adds in any order on CUDA, `index_put_` sorts
        return sums.index_put_((codes,), values, accumulate=True)
    return sums.index_add_(0, codes, values)


def block_counts(kept: Tensor | None, codes: Tensor, centroids: int) -> Tensor:
    """Count the uses of each number of a centroid, [centroids, b] or [centroids, 1]; at least 1, as a divisor.

    Args:
        kept: bool [n, b], False at masked weights; None: no weight is masked.
        codes: int64 [n].
        centroids: number of centroids.
    """
    used = codes.new_ones(len(codes), 1) if kept is None else kept
    counts = block_sums(used.float(), codes, centroids).clamp_min(1)
    counts[0] = torch.inf  # makes the mean of the zero block 0
    return counts


def block_means(values: Tensor, kept: Tensor | None, codes: Tensor, centroids: int) -> Tensor:
    """Mean over the kept weights of the blocks of each centroid, [centroids, b].

    The mean is 0 for the zero block and wherever no weight is kept.

    Args:
        values: [n, b], 0 at masked weights.
        kept: bool [n, b], False at masked weights; None: no weight is masked.
        codes: int64 [n].
        centroids: number of centroids.
    """
    return block_sums(values, codes, centroids) / block_counts(kept, codes, centroids)


def decode(codes: Tensor, centroids: Tensor, kept: Tensor | None) -> Tensor:
    """Decode codes to blocks, [n, b], with zeros at masked weights."""
    blocks = centroids.index_select(0, codes)
    return blocks if kept is None else blocks.masked_fill_(~kept, 0.0)


def nearest(blocks: Tensor, kept: Tensor | None, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """The code of each block's nearest centroid, and the distance `sum of m (x - c)^2` to it.

    The mask m is 1 at kept weights. Blocks of zeros, and no other blocks, have code 0.

    Args:
        blocks: [n, b], 0 at masked weights.
        kept: bool [n, b], False at masked weights; None: no weight is masked.
        centroids: [k, b], k > 1.
    """
    codes, distances = [], []
    squares = centroids[1:].square()
    masks = repeat(None) if kept is None else kept.split(CHUNK)
    for part, mask in zip(blocks.split(CHUNK), masks, strict=False):
        sizes = squares.sum(1).expand(len(part), -1) if mask is None else mask.to(part.dtype) @ squares.T
        minima = torch.addmm(sizes, part, centroids[1:].T, alpha=-2).min(1)
        filled = part.any(1)
        codes.append((minima.indices + 1) * filled)
        distances.append((minima.values + part.square().sum(1)).clamp_min(0) * filled)
    return torch.cat(codes), torch.cat(distances)


@torch.no_grad()
def learn(
    blocks: Tensor, kept: Tensor | None, centroids: int, generator: torch.Generator, iterations: int = 20
) -> tuple[Tensor, Tensor]:
    """Learn codes and centroids by k-means (Lloyd), with the distance of `nearest`.

    The first centroids are blocks drawn without replacement. A centroid without blocks moves to a block that is far
    from all centroids. For many blocks, centroids are learned from a random sample; then all blocks are assigned.

    Args:
        blocks: float32 [n, b], 0 at masked weights.
        kept: bool [n, b], False at masked weights; None: no weight is masked.
        centroids: number of centroids, with the zero block.
        generator: random generator on the CPU.
        iterations: of k-means.

    Returns:
        Codes, int64 [n], and centroids, float32 [centroids, b]; unused centroids are zero.
    """
    filled = blocks.any(1).nonzero().flatten()
    sample = filled[torch.randperm(len(filled), generator=generator).to(filled.device)][: SAMPLE * centroids]
    sample_blocks, sample_kept = blocks[sample], None if kept is None else kept[sample]
    table = blocks.new_zeros(centroids, blocks.shape[1])
    start = sample_blocks[: centroids - 1]
    table[1 : 1 + len(start)] = start
    for _ in range(iterations):
        codes, distances = nearest(sample_blocks, sample_kept, table)
        table = block_means(sample_blocks, sample_kept, codes, centroids)
        empty = (torch.bincount(codes, minlength=centroids)[1:] == 0).nonzero().flatten() + 1
        far = distances.argsort(descending=True, stable=True)[: len(empty)]
        far = far[distances[far] > 0]
        table[empty[: len(far)]] = sample_blocks[far]
    codes, _ = nearest(blocks, kept, table)
    return codes, block_means(blocks, kept, codes, centroids)


def coded_bytes(weights: int, centroids: int, block_size: int) -> int:
    """Bytes of a weight on a codebook, without the mask of a sparse weight: a byte for each block, and fp16 centroids.

    With 256 centroids, that is `log2(256) / block_size` bits a weight and `256 * block_size * 2` bytes.
    """
    return weights // block_size + 2 * centroids * block_size
