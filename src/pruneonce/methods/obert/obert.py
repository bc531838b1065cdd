"""oBERT in a training run: when gradients are taken, and what is kept of them. The arithmetic is in fisher.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from pruneonce.config.pattern import Pattern
from pruneonce.errors import UserError
from pruneonce.methods.obert import Obert
from pruneonce.methods.obert.fisher import as_the_others, grouped, inverse_fisher, scores, update
from pruneonce.plugins.method import Method
from pruneonce.plugins.run import Run
from pruneonce.sparsity.patterns import Masks


class OptimalSurgeon(Method):
    """The Optimal BERT Surgeon, https://arxiv.org/abs/2203.07259.

    Inverses are made one group of weights at a time, as `memory` has it, and once more for the update of the weights;
    those of the last group are still there then, so where all weights are one group nothing is done twice.
    """

    moves_weights = True
    options: Obert

    def begin(self, run: Run) -> None:
        super().begin(run)
        if not hasattr(run.data, "__len__"):
            raise UserError("obert takes gradients of any part of the data, so the corpus cannot be streamed")
        sizes = {name: weight.numel() for name, weight in run.weights.items()}
        self.groups = grouped(sizes, self.options.block_size, self.options.memory * 2**30)
        self.inverses: dict[str, Tensor] = {}  # of one group
        self.judged: list[str] = []  # those that gradients reach

    def scores(self, step: int, weights: Mapping[str, Tensor], pattern: Pattern) -> dict[str, Tensor]:
        self.pattern = pattern
        self.judged = []
        found = {}
        for names in self.groups:
            self._make_inverses(step, names)
            for name in names:
                found[name] = scores(weights[name].detach(), self.inverses[name], pattern)
        return as_the_others({name: found[name] for name in weights}, self.judged)

    def on_mask_update(self, step: int, weights: Mapping[str, Tensor], masks: Masks) -> None:
        updates = {}
        for names in reversed(self.groups):
            if names != list(self.inverses):
                self._make_inverses(step, names)
            for name in names:
                weight, joint = weights[name].detach(), self.options.update == "joint"
                updates[name] = update(weight, self.inverses[name], masks[name], self.pattern, joint)
        self.inverses = {}
        with torch.no_grad():  # not before all gradients are taken: they are those of the weights as they were
            for name, moved in updates.items():
                weights[name].add_(moved)

    def _make_inverses(self, step: int, names: Sequence[str]) -> None:
        self.inverses = {}  # the last ones go before there are new ones
        like = [self.run.weights[name].detach() for name in names]
        gradients, options = self._gradients(step, names), self.options
        made = inverse_fisher(gradients, like, options.gradients, options.block_size, options.damping)
        self.inverses = dict(zip(names, made, strict=True))

    def _gradients(self, step: int, names: Sequence[str]) -> Iterator[list[Tensor]]:
        """Of batches from anywhere in the data, others for each mask update. What is pruned has none."""
        first = int(np.random.default_rng([self.run.seed, step]).integers(len(self.run.data)))
        kept = [self.run.weights[name].detach() != 0 for name in names]
        for found in self.run.gradients(names, self.options.gradients, first):
            new = (n for n, gradient in zip(names, found, strict=True) if n not in self.judged and gradient.any())
            self.judged += list(new)
            yield [gradient * mask for gradient, mask in zip(found, kept, strict=True)]
