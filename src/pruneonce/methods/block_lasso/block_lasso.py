"""Reweighted group lasso: a penalty that drives groups of weights to zero before they are pruned.

Source: Efficient Transformer-based Large Scale Language Representations using Hardware-friendly Block Structured
Pruning, https://arxiv.org/abs/2009.08065. Reweighting: Candes, Wakin and Boyd, https://arxiv.org/abs/0711.1612.
Groups are the blocks of a pattern, see `pruneonce.sparsity.patterns`: the paper's segment of a row inside a block is
`1xN`, its segment of a column is `Nx1`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pruneonce.config.pattern import Pattern
from pruneonce.errors import UserError
from pruneonce.plugins import Method
from pruneonce.plugins.run import Run
from pruneonce.recipe import Sparsification
from pruneonce.sparsity import PruningSchedule
from pruneonce.sparsity.patterns import blocks, group_sizes

FILE = "betas.safetensors"


def group_norms(weight: Tensor, pattern: Pattern) -> Tensor:
    """Norm `|W_g|_2` of every group, [outputs / rows, inputs / columns], with gradient 0 for a group of zeros.

    Args:
        weight: [outputs, inputs]; a ragged group at the edge has fewer weights.
        pattern: shape of the groups.
    """
    if pattern.rows == pattern.columns == 1:
        return weight.abs()
    return torch.linalg.vector_norm(blocks(weight, pattern), dim=(2, 3))


@torch.no_grad()
def betas_of(weights: Mapping[str, Tensor], pattern: Pattern, epsilon: float) -> dict[str, Tensor]:
    """Penalty weights `beta_g = 1 / (|W_g|_2 + epsilon)`: the smaller a group, the stronger its penalty.

    For the weights they are computed from, each `beta_g |W_g|_2` is between 0 and 1, so the penalty is about the number
    of groups that are not zero yet.
    """
    return {name: 1 / (group_norms(weight.float(), pattern) + epsilon) for name, weight in weights.items()}


def penalty(weights: Mapping[str, Tensor], betas: Mapping[str, Tensor], pattern: Pattern) -> Tensor:
    """Group-lasso penalty `sum_l sum_g beta_g |W_g|_2`, a scalar; `betas` are constants.

    The gradient by W_g is `beta_g W_g / |W_g|_2`, and 0 if W_g is 0.
    """
    return torch.stack([(betas[name] * group_norms(weights[name].float(), pattern)).sum() for name in betas]).sum()


class ReweightedLasso(Method):
    """Method with a group-lasso penalty up to the schedule's `end`, where all pruning takes place."""

    moves_weights = True  # pruned groups were driven to zero and keep no value to restore: masks are final at `end`

    def begin(self, run: Run) -> None:
        super().begin(run)
        settings = run.settings
        assert isinstance(settings, Sparsification)
        if settings.initial_sparsity:
            raise UserError("`method: block-lasso` prunes nothing before `end`; leave out `initial_sparsity`")
        self.pattern: Pattern = Pattern.parse(settings.pattern)
        self.betas: dict[str, Tensor] = {}  # empty before `start` and from `end` on

    def sparsity(self, step: int, schedule: PruningSchedule) -> float:
        """Return 0 before `end`, where each mask update reweights the penalty instead; from `end` on, the target."""
        if step < schedule.end:
            self.betas = betas_of(self.run.weights, self.pattern, self.options.epsilon)
            return 0.0
        self.betas = {}
        return schedule.final

    def scores(self, step: int, weights: Mapping[str, Tensor], pattern: Pattern) -> dict[str, Tensor]:
        """Norm of each group, divided by the root of its size so that ragged groups compare."""
        with torch.no_grad():
            norms = {name: group_norms(weight.float(), pattern) for name, weight in weights.items()}
        return {name: norm / group_sizes(weights[name].shape, pattern).to(norm).sqrt() for name, norm in norms.items()}

    def extra_loss(self, step: int) -> Tensor | None:
        if not self.betas:
            return None
        loss: Tensor = self.options.weight * penalty(self.run.weights, self.betas, self.pattern)
        return loss

    def save(self, folder: Path) -> None:
        if self.betas:
            save_file(self.betas, folder / FILE)

    def load(self, folder: Path) -> None:
        if (folder / FILE).is_file():
            loaded = load_file(folder / FILE)
            self.betas = {name: loaded[name].to(weight.device) for name, weight in self.run.weights.items()}
