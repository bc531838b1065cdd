"""oBERT in a training run: the gradients at each mask update and the memory of inverses; arithmetic in fisher.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from pruneonce.config.pattern import Pattern
from pruneonce.errors import UserError
from pruneonce.methods.obert import Obert
from pruneonce.methods.obert.fisher import inverse_fisher, match_ranks, memory_groups, scores, update
from pruneonce.plugins.method import Method
from pruneonce.plugins.run import Run
from pruneonce.sparsity.patterns import Masks


class OptimalSurgeon(Method):
    """The Optimal BERT Surgeon, https://arxiv.org/abs/2203.07259.

    Inverses are computed for one group of weights at a time, within `memory`: once for the scores, and again for the
    update of the weights. The inverses of the latest group are kept, so a single group is computed only once.
    """

    moves_weights = True
    options: Obert

    def begin(self, run: Run) -> None:
        super().begin(run)
        if not hasattr(run.data, "__len__"):
            raise UserError("obert takes gradients of any part of the data, so the corpus cannot be streamed")
        sizes = {name: weight.numel() for name, weight in run.weights.items()}
        self.groups = memory_groups(sizes, self.options.block_size, self.options.memory * 2**30)
        self.inverses: dict[str, Tensor] = {}  # of one group
        self.judged: list[str] = []  # names of weights that gradients reach

    def scores(self, step: int, weights: Mapping[str, Tensor], pattern: Pattern) -> dict[str, Tensor]:
        self.pattern = pattern
        self.judged = []
        scores_by_name = {}
        for names in self.groups:
            self._compute_inverses(step, names)
            for name in names:
                scores_by_name[name] = scores(weights[name].detach(), self.inverses[name], pattern)
        return match_ranks({name: scores_by_name[name] for name in weights}, self.judged)

    def on_mask_update(self, step: int, weights: Mapping[str, Tensor], masks: Masks) -> None:
        updates = {}
        for names in reversed(self.groups):
            if names != list(self.inverses):
                self._compute_inverses(step, names)
            for name in names:
                weight, joint = weights[name].detach(), self.options.update == "joint"
                updates[name] = update(weight, self.inverses[name], masks[name], self.pattern, joint)
        self.inverses = {}
        with torch.no_grad():  # after all gradients are computed at the old weights
            for name, moved in updates.items():
                weights[name].add_(moved)

    def _compute_inverses(self, step: int, names: Sequence[str]) -> None:
        self.inverses = {}  # frees the old inverses before the new are computed
        like = [self.run.weights[name].detach() for name in names]
        gradients, options = self._gradients(step, names), self.options
        inverses = inverse_fisher(gradients, like, options.gradients, options.block_size, options.damping)
        self.inverses = dict(zip(names, inverses, strict=True))

    def _gradients(self, step: int, names: Sequence[str]) -> Iterator[list[Tensor]]:
        """Gradients of batches drawn anew for each mask update; 0 at pruned weights."""
        first = int(np.random.default_rng([self.run.seed, step]).integers(len(self.run.data)))
        kept = [self.run.weights[name].detach() != 0 for name in names]
        for gradients in self.run.gradients(names, self.options.gradients, first):
            new = (n for n, gradient in zip(names, gradients, strict=True) if n not in self.judged and gradient.any())
            self.judged += list(new)
            yield [gradient * mask for gradient, mask in zip(gradients, kept, strict=True)]
