"""The arithmetic of oBERT, the Optimal BERT Surgeon, https://arxiv.org/abs/2203.07259, section 3.

The empirical Fisher information stands for the Hessian of the loss: `F = lambda I + 1/m sum_i g_i g_i^T` of m gradients
g, cut to blocks of B consecutive weights along its diagonal. A weight is taken as flattened and padded with zeros at
its end, so that it has `ceil(size / B)` blocks; what is padded has no part in any result.

The paper gets `F^-1` by m updates of rank one, `v = F^-1 g; F^-1 -= v v^T / (m + g v)` from `I / lambda` (Woodbury).
Here the blocks of F are summed and then inverted at once, in double precision: that is the same matrix, of a quarter of
the products, and of matrix products that read and write the blocks once for many gradients.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from pruneonce.config.pattern import Pattern
from pruneonce.errors import UserError
from pruneonce.sparsity.patterns import group_means

CHUNK = 8  # gradients in one product: one at a time would read and write all blocks for each
SLICE = 1024  # blocks that are inverted, or whose groups are solved for, at a time, since they take copies


def in_blocks(values: Tensor, block_size: int) -> Tensor:
    """Any shape as `[blocks, B]`, the end padded with zeros."""
    flat = values.flatten()
    return F.pad(flat, (0, -len(flat) % block_size)).view(-1, block_size)


def inverse_fisher(
    gradients: Iterable[Sequence[Tensor]], like: Sequence[Tensor], count: int, block_size: int, damping: float
) -> list[Tensor]:
    """The diagonal blocks of the inverse Fisher information of each weight, `[blocks, B, B]` in fp32.

    Args:
        gradients: `count` times the gradients by all weights.
        like: tensors with the shapes and the devices of the weights.
        count: m; with 0 of them the inverse is `I / lambda`.
        damping: lambda, above 0.

    Raises:
        UserError: the damping is too small for gradients of this size, or these are not finite.
    """
    blocks = [torch.zeros(-(-one.numel() // block_size), block_size, block_size, device=one.device) for one in like]
    for chunk in _chunks(gradients):
        for block, found in zip(blocks, zip(*chunk, strict=True), strict=True):
            columns = torch.stack([in_blocks(gradient, block_size) for gradient in found]).permute(1, 2, 0)
            block.baddbmm_(columns, columns.mT, alpha=1 / count)  # [blocks, B, k] times [blocks, k, B]
    for block in blocks:
        _invert(block, damping)
    return blocks


def _chunks(gradients: Iterable[Sequence[Tensor]]) -> Iterator[list[Sequence[Tensor]]]:
    rest = iter(gradients)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk


def _invert(blocks: Tensor, damping: float) -> None:
    """`(blocks + damping I)^-1`, in place."""
    for part in blocks.split(SLICE):
        damped = part.double()
        damped.diagonal(dim1=1, dim2=2).add_(damping)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if failed.any():
            raise UserError(
                f"the Fisher information with `damping: {damping:g}` cannot be inverted: the gradients are too large "
                "for it, or not finite; raise `damping`"
            )
        part.copy_(torch.cholesky_inverse(factor))


def together(shape: Sequence[int], pattern: Pattern, block_size: int) -> int:
    """N where the groups of a weight `[outputs, inputs]` are 1 x N and none of them lies in two blocks; else 1."""
    n = pattern.columns
    return n if pattern.rows == 1 and n > 1 and block_size % n == 0 and shape[1] % n == 0 else 1


def solved(weight: Tensor, inverse: Tensor, n: int = 1) -> Tensor:
    """`([F^-1]_QQ)^-1 w_Q` for each group Q of n consecutive weights; shaped like the weight.

    Args:
        inverse: `[blocks, B, B]` of `inverse_fisher`; n divides B.
    """
    blocks = in_blocks(weight.float(), inverse.shape[-1])
    if n == 1:
        found = blocks / inverse.diagonal(dim1=1, dim2=2)
    else:
        found = torch.cat([_solved(*parts, n) for parts in zip(blocks.split(SLICE), inverse.split(SLICE), strict=True)])
    return found.flatten()[: weight.numel()].view_as(weight)


def _solved(blocks: Tensor, inverse: Tensor, n: int) -> Tensor:
    squares = inverse.unflatten(2, (-1, n)).unflatten(1, (-1, n)).diagonal(dim1=1, dim2=3)  # [blocks, n, n, B / n]
    return torch.linalg.solve(squares.permute(0, 3, 1, 2), blocks.unflatten(1, (-1, n))).flatten(1)


def scores(weight: Tensor, inverse: Tensor, pattern: Pattern) -> Tensor:
    """By how much the loss grows, per weight of each group, when the group is pruned: by groups, as
    `pruneonce.sparsity.patterns` has them.

    `w_i^2 / (2 [F^-1]_ii)` of a single weight, `w_Q^T ([F^-1]_QQ)^-1 w_Q / 2` of a group where `together` says that
    groups can be taken whole. In other blocks, rows and columns the weights are taken as if they did not interact:
    theirs is the mean of the scores of single weights.
    """
    n = together(weight.shape, pattern, inverse.shape[-1])
    return group_means(weight.float() * solved(weight, inverse, n) / 2, pattern)


def update(weight: Tensor, inverse: Tensor, mask: Tensor, pattern: Pattern, joint: bool = False) -> Tensor:
    """What to add to the weight, so that what is kept makes up for what the mask prunes.

    `- F^-1 E_Q ([F^-1]_QQ)^-1 w_Q`, summed over all groups Q that are pruned, as in the paper. Each term is the best
    one if no other group is pruned. After the sum what is pruned is not 0: apply the mask afterwards.

    Args:
        mask: False at what is pruned; what was zero before moves nothing.
        joint: the best for all that is pruned of a block together, Q being all of it.
    """
    block_size = inverse.shape[-1]
    if joint:
        given_up = _solved_jointly(weight, inverse, mask)
    else:
        given_up = solved(weight, inverse, together(weight.shape, pattern, block_size)).masked_fill(mask, 0.0)
    moved = torch.bmm(inverse, in_blocks(given_up, block_size)[..., None])
    return -moved.flatten()[: weight.numel()].view_as(weight)


def _solved_jointly(weight: Tensor, inverse: Tensor, mask: Tensor) -> Tensor:
    """`([F^-1]_PP)^-1 w_P` for P, all that the mask prunes of a block; 0 at what it keeps. In double precision."""
    blocks, pruned = (in_blocks(values, inverse.shape[-1]) for values in (weight.double(), (~mask).double()))
    found = []
    for values, part, gone in zip(blocks.split(SLICE), inverse.split(SLICE), pruned.split(SLICE), strict=True):
        squares = part * gone[:, :, None] * gone[:, None, :]
        squares.diagonal(dim1=1, dim2=2).add_(1 - gone)  # 1 for what is kept, so that all blocks are of one size
        found.append(torch.linalg.solve(squares, values * gone).float())
    return torch.cat(found).flatten()[: weight.numel()].view_as(weight)


def as_the_others(scores: Mapping[str, Tensor], judged: Collection[str]) -> dict[str, Tensor]:
    """Scores in which those of weights that no gradient reaches, and so their magnitudes, take the values that the
    judged ones have at the same ranks.

    By a threshold over all weights then as large a share of them goes as of the others. Otherwise they would all go:
    that is BERT's pooler, where the loss is that of masked words.
    """
    if not judged or len(judged) == len(scores):
        return dict(scores)
    others = torch.cat([scores[name].flatten() for name in judged]).sort().values

    def at_its_ranks(score: Tensor) -> Tensor:
        ranks = score.flatten().argsort(stable=True).argsort()
        return others[(2 * ranks + 1) * len(others) // (2 * len(ranks))].view_as(score)

    return {name: score if name in judged else at_its_ranks(score) for name, score in scores.items()}


def grouped(sizes: Mapping[str, int], block_size: int, limit: float) -> list[list[str]]:
    """Names in their order, in groups whose inverses and gradients take `limit` bytes at most.

    Raises:
        UserError: one weight alone takes more.
    """
    groups: list[list[str]] = []
    used = limit
    for name, size in sizes.items():
        taken = bytes_of(size, block_size)
        if taken > limit:
            raise UserError(
                f"`memory: {limit / 2**30:g}` (GiB) does not hold the inverse of {name}, which takes "
                f"{taken / 2**30:.3g}; raise it, or lower `block_size`"
            )
        if used + taken > limit:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += taken
    return groups


def bytes_of(size: int, block_size: int) -> int:
    """What a weight's inverse takes while it is made: its blocks and a chunk of gradients."""
    padded = -(-size // block_size) * block_size
    return 4 * padded * (block_size + CHUNK)
