"""What a method gets to know of the run that it is part of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pruneonce.system.machine import autocast

Batch = dict[str, Tensor]
# What is minimised: `loss`, and for the log its parts, already weighted. May take what it uses out of the batch.
Objective = Callable[[nn.Module, Batch], dict[str, Tensor]]


@dataclass(frozen=True)
class Run:
    """One training run, or one pass over a finished model.

    Args:
        weights: the prunable ones, parameters of `model`, by their name in the base model.
        steps: optimizer steps in all.
        likelihood: a loss whose gradients say how much a weight matters: that of the labels, not of a teacher whom the
            model still equals, since those gradients are 0.
        data, collate: the run's examples in their order, and what makes a batch of some.
        settings: the section of the recipe that the run is of; its `batch_size` is that of gradients too.
    """

    model: nn.Module
    weights: Mapping[str, Tensor]
    steps: int
    seed: int
    likelihood: Objective
    data: Any
    collate: Callable[[list[Any]], Batch]
    settings: Any

    def gradients(self, names: Sequence[str], count: int, first: int = 0) -> Iterator[list[Tensor]]:
        """Gradients of the likelihood by the weights `names`, in fp32: one a batch, for `count` batches.

        Taken without dropout and without touching any `grad` or the random state. They are those of the mean over a
        batch, of the `first` batch and those after it; behind the last comes the first again. Weights that are frozen
        or have no part in the loss get zeros.
        """
        device = next(self.model.parameters()).device
        learning = [self.weights[name] for name in names if self.weights[name].requires_grad]
        training, size = self.model.training, self.settings.batch_size
        self.model.eval()
        try:
            for number in range(first, first + count):
                start = number * size
                examples = [self.data[(start + i) % len(self.data)] for i in range(size)]
                batch = {name: value.to(device) for name, value in self.collate(examples).items()}
                with torch.random.fork_rng(), autocast(device):
                    torch.manual_seed(self.seed + number)
                    loss = self.likelihood(self.model, batch)["loss"]
                found = iter(torch.autograd.grad(loss, learning, allow_unused=True, materialize_grads=True))
                yield [
                    next(found).float() if weight.requires_grad else torch.zeros_like(weight)
                    for weight in map(self.weights.__getitem__, names)
                ]
        finally:
            self.model.train(training)
