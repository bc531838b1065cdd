"""The arithmetic of oBERT, the Optimal BERT Surgeon, https://arxiv.org/abs/2203.07259, section 3.

The empirical Fisher information approximates the Hessian of the loss: `F = lambda I + 1/m sum_i g_i g_i^T` over m
gradients g, cut to blocks of B consecutive weights along its diagonal. A weight tensor is flattened and padded with
zeros at its end to `ceil(size / B)` blocks. The padding has no part in any result.

The paper computes `F^-1` by m updates of rank one, `v = F^-1 g; F^-1 -= v v^T / (m + g v)` from `I / lambda`
(Woodbury). Here the blocks of F are summed and then inverted at once, in double precision. The matrix is the same, at a
quarter of the products, and matrix products read and write the blocks once for many gradients.
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

CHUNK = 8  # gradients in one product, which reads and writes all blocks
SLICE = 1024  # blocks inverted or solved at a time, since these operations make copies


def in_blocks(values: Tensor, block_size: int) -> Tensor:
    """Reshape a tensor of any shape to `[blocks, B]`, with zeros at the end as padding."""
    flat = values.flatten()
    return F.pad(flat, (0, -len(flat) % block_size)).view(-1, block_size)


def inverse_fisher(
    gradients: Iterable[Sequence[Tensor]], like: Sequence[Tensor], count: int, block_size: int, damping: float
) -> list[Tensor]:
    """The diagonal blocks of the inverse Fisher information of each weight, `[blocks, B, B]` in fp32.

    Args:
        gradients: `count` lists of the gradients by all weights.
        like: tensors with the shapes and the devices of the weights.
        count: m; with m = 0 the inverse is `I / lambda`.
        block_size: B.
        damping: lambda, above 0.

    Raises:
        UserError: the damping is too small for gradients of this size, or the gradients are not finite.
    """
    blocks = [torch.zeros(-(-one.numel() // block_size), block_size, block_size, device=one.device) for one in like]
    for chunk in _chunks(gradients):
        for block, weight_gradients in zip(blocks, zip(*chunk, strict=True), strict=True):
            columns = torch.stack([in_blocks(gradient, block_size) for gradient in weight_gradients]).permute(1, 2, 0)
            block.baddbmm_(columns, columns.mT, alpha=1 / count)  # [blocks, B, k] times [blocks, k, B]
    for block in blocks:
        _invert(block, damping)
    return blocks


def _chunks(gradients: Iterable[Sequence[Tensor]]) -> Iterator[list[Sequence[Tensor]]]:
    rest = iter(gradients)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk


def _invert(blocks: Tensor, damping: float) -> None:
    """Replace the blocks by `(blocks + damping I)^-1`, in place."""
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


def group_width(shape: Sequence[int], pattern: Pattern, block_size: int) -> int:
    """N if the groups of a weight `[outputs, inputs]` are 1 x N and each lies inside one block; else 1."""
    n = pattern.columns
    return n if pattern.rows == 1 and n > 1 and block_size % n == 0 and shape[1] % n == 0 else 1


def solve_groups(weight: Tensor, inverse: Tensor, n: int = 1) -> Tensor:
    """Solve `([F^-1]_QQ)^-1 w_Q` for each group Q of n consecutive weights; the result has the weight's shape.

    Args:
        weight: `[outputs, inputs]`.
        inverse: `[blocks, B, B]` from `inverse_fisher`.
        n: size of a group, which divides B.
    """
    blocks = in_blocks(weight.float(), inverse.shape[-1])
    if n == 1:
        solutions = blocks / inverse.diagonal(dim1=1, dim2=2)
    else:
        solutions = torch.cat(
            [_solve_slice(*parts, n) for parts in zip(blocks.split(SLICE), inverse.split(SLICE), strict=True)]
        )
    return solutions.flatten()[: weight.numel()].view_as(weight)


def _solve_slice(blocks: Tensor, inverse: Tensor, n: int) -> Tensor:
    squares = inverse.unflatten(2, (-1, n)).unflatten(1, (-1, n)).diagonal(dim1=1, dim2=3)  # [blocks, n, n, B / n]
    return torch.linalg.solve(squares.permute(0, 3, 1, 2), blocks.unflatten(1, (-1, n))).flatten(1)


def scores(weight: Tensor, inverse: Tensor, pattern: Pattern) -> Tensor:
    """Saliency of each group: the growth of the loss, per weight of the group, if the group is pruned.

    A single weight scores `w_i^2 / (2 [F^-1]_ii)`. A group scores `w_Q^T ([F^-1]_QQ)^-1 w_Q / 2` if `group_width` is
    above 1. The weights of other blocks, rows and columns are treated as if they did not interact: the score is the
    mean over single weights. Groups are ordered as in `pruneonce.sparsity.patterns`.
    """
    n = group_width(weight.shape, pattern, inverse.shape[-1])
    return group_means(weight.float() * solve_groups(weight, inverse, n) / 2, pattern)


def update(weight: Tensor, inverse: Tensor, mask: Tensor, pattern: Pattern, joint: bool = False) -> Tensor:
    """The change of the weights by which the kept weights make up for the pruned weights.

    `- F^-1 E_Q ([F^-1]_QQ)^-1 w_Q`, summed over all pruned groups Q, as in the paper. Each term is optimal if no other
    group is pruned. The sum leaves pruned weights unequal to 0: apply the mask afterwards.

    Args:
        weight: `[outputs, inputs]`.
        inverse: `[blocks, B, B]` from `inverse_fisher`.
        mask: False at pruned weights; weights that were zero before change nothing.
        pattern: shape of the groups.
        joint: optimal for all pruned weights of a block together, with Q the set of them.
    """
    block_size = inverse.shape[-1]
    if joint:
        solutions = _solve_jointly(weight, inverse, mask)
    else:
        solutions = solve_groups(weight, inverse, group_width(weight.shape, pattern, block_size)).masked_fill(mask, 0.0)
    moved = torch.bmm(inverse, in_blocks(solutions, block_size)[..., None])
    return -moved.flatten()[: weight.numel()].view_as(weight)


def _solve_jointly(weight: Tensor, inverse: Tensor, mask: Tensor) -> Tensor:
    """Solve `([F^-1]_PP)^-1 w_P` for P, the pruned weights of a block, in double precision; 0 at kept weights."""
    blocks, pruned = (in_blocks(values, inverse.shape[-1]) for values in (weight.double(), (~mask).double()))
    solutions = []
    for values, part, pruned_part in zip(blocks.split(SLICE), inverse.split(SLICE), pruned.split(SLICE), strict=True):
        squares = part * pruned_part[:, :, None] * pruned_part[:, None, :]
        squares.diagonal(dim1=1, dim2=2).add_(1 - pruned_part)  # 1 for kept weights, so that all blocks have one size
        solutions.append(torch.linalg.solve(squares, values * pruned_part).float())
    return torch.cat(solutions).flatten()[: weight.numel()].view_as(weight)


def match_ranks(scores: Mapping[str, Tensor], judged: Collection[str]) -> dict[str, Tensor]:
    """Replace scores without a gradient by the scores of `judged` weights at the same ranks.

    The scores of weights without a gradient are their magnitudes. After the replacement, a threshold over all weights
    prunes the same share of them as of the judged weights. Without it, all of them would be pruned, such as BERT's
    pooler with the loss of masked words.
    """
    if not judged or len(judged) == len(scores):
        return dict(scores)
    others = torch.cat([scores[name].flatten() for name in judged]).sort().values

    def at_its_ranks(score: Tensor) -> Tensor:
        ranks = score.flatten().argsort(stable=True).argsort()
        return others[(2 * ranks + 1) * len(others) // (2 * len(ranks))].view_as(score)

    return {name: score if name in judged else at_its_ranks(score) for name, score in scores.items()}


def memory_groups(sizes: Mapping[str, int], block_size: int, limit: float) -> list[list[str]]:
    """Divide names, in order, into groups whose inverses and gradients take `limit` bytes at most.

    Raises:
        UserError: one weight alone takes more than `limit`.
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
    """Bytes of memory for computing a weight's inverse: its blocks and a chunk of gradients."""
    padded = -(-size // block_size) * block_size
    return 4 * padded * (block_size + CHUNK)
