"""CrAM: steps along the gradient at compressed weights, for weights that bear one-shot compression after training.

Source: CrAM: A Compression-Aware Minimizer, https://arxiv.org/abs/2207.14200. The objective is
`max over |d| <= rho of L(C(theta + d))`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from pruneonce.config.pattern import Pattern
from pruneonce.errors import UserError
from pruneonce.plugins import Method
from pruneonce.plugins.run import Run
from pruneonce.sparsity import Masks, magnitude_masks
from pruneonce.sparsity.masks import zero


def cram_gradients(
    forward_backward: Callable[[], Tensor],
    parameters: Iterable[Tensor],
    weights: Mapping[str, Tensor],
    compress: Callable[[Mapping[str, Tensor]], Masks],
    rho: float,
    *,
    plus: bool = True,
) -> Tensor:
    """Add the direction of a step to each `grad`, keep the parameters, and return the loss at the parameters.

    CrAM adds `g = grad L(C(theta + rho grad L(theta)))`, CrAM+ adds `grad L(theta) + M g`. The gradient of the ascent
    is not normalised. It comes from this batch alone, whatever `grad` holds already.

    Args:
        forward_backward: adds the gradients at the current parameters, and returns the loss.
        parameters: the parameters of the model; the ascent is along all that learn.
        weights: the weights that `C` prunes, by name.
        compress: maps these weights, at the end of the ascent, to their masks M; other parameters have M = 1.
        rho: length of the ascent, as a factor of its gradient.
        plus: CrAM+ instead of CrAM.
    """
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    earlier = [parameter.grad for parameter in learning]  # of earlier batches of the same step
    for parameter in learning:
        parameter.grad = None
    loss = forward_backward()
    moved = list({id(each): each for each in (*learning, *weights.values())}.values())
    values = [each.detach().clone() for each in moved]
    hooks = []
    try:
        with torch.no_grad():
            for parameter in learning:
                if parameter.grad is not None:
                    parameter.add_(parameter.grad, alpha=rho)
            pruned = {name: ~mask for name, mask in compress(weights).items()}
            zero(weights, pruned)
            for parameter, before in zip(learning, earlier, strict=True):
                if not plus or parameter.grad is None:
                    parameter.grad = before
                elif before is not None:
                    parameter.grad.add_(before)
        if plus:  # M applies to the second gradient only, not to the first gradient and those of earlier batches
            for name, where in pruned.items():
                if weights[name].requires_grad:
                    hooks.append(weights[name].register_hook(lambda grad, where=where: grad.masked_fill(where, 0.0)))
        forward_backward()
    finally:
        for hook in hooks:
            hook.remove()
        with torch.no_grad():
            for each, value in zip(moved, values, strict=True):
                each.copy_(value)  # copied, not subtracted: equal to the original, bit for bit
    return loss


class CompressionAware(Method):
    """Method that takes every step by CrAM, with a compression drawn by the seed and the step."""

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.compressions = [
            [(pattern, pattern.least_sparsity)]
            if pattern.of > 1
            else [(pattern, sparsity) for sparsity in self.options.sparsities]
            for pattern in map(Pattern.parse, self.options.patterns)
        ]
        if not any(self._prunes(pattern, sparsity) for each in self.compressions for pattern, sparsity in each):
            raise UserError(
                "`method: cram` would compress nothing, since the model has as many zeros as any of its `sparsities` "
                "and `patterns` asks for; give a sparsity above the model's"
            )

    def gradients(self, step: int, forward_backward: Callable[[], Tensor]) -> Tensor:
        pattern, sparsity = self._draw(step)
        return cram_gradients(
            forward_backward,
            self.run.model.parameters(),
            self.run.weights,
            lambda weights: magnitude_masks(weights, sparsity, pattern=pattern),
            # With several batches in a step, each `grad` is a share of their mean.
            self.options.rho * self.run.settings.accumulate,
            plus=self.options.plus,
        )

    def _draw(self, step: int) -> tuple[Pattern, float]:
        """Draw the compression of a step: a pattern at even odds, then one of its sparsities at even odds."""
        draw = np.random.default_rng([self.run.seed, step])
        chosen = self.compressions[draw.integers(len(self.compressions))]
        return chosen[draw.integers(len(chosen))]

    def _prunes(self, pattern: Pattern, sparsity: float) -> bool:
        """Return whether the compression prunes a weight that is not zero already."""
        masks = magnitude_masks(self.run.weights, sparsity, pattern=pattern)
        return any(bool((self.run.weights[name] != 0)[~mask].any()) for name, mask in masks.items())
