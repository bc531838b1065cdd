"""View of a run that a method gets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pruneonce.models.architectures import trains_in_bf16
from pruneonce.system.machine import autocast

Batch = dict[str, Tensor]
# Returns `loss`, which is minimised, and its weighted parts for the log. May take the labels out of the batch.
Objective = Callable[[nn.Module, Batch], dict[str, Tensor]]


@dataclass(frozen=True)
class Run:
    """One training run, or one pass over a finished model.

    Args:
        model: the model at work.
        weights: the prunable ones, parameters of `model`, by their name in the base model.
        steps: optimizer steps in all.
        seed: of everything random.
        likelihood: a loss whose gradients tell the importance of a weight: that of the labels. A teacher's loss has
            gradients of 0 while the model still equals the teacher.
        data: the run's examples in their order.
        collate: makes a batch of some.
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
        """Yield gradients of the likelihood by the weights `names`, in fp32: one a batch, for `count` batches.

        They are taken without dropout and without touching any `grad` or the random state. They are those of the mean
        over a batch, from the batch `first` on; after the end of the data comes its beginning. Weights that are frozen
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
                with torch.random.fork_rng(), autocast(device, trains_in_bf16(self.model)):
                    torch.manual_seed(self.seed + number)
                    loss = self.likelihood(self.model, batch)["loss"]
                gradients = iter(torch.autograd.grad(loss, learning, allow_unused=True, materialize_grads=True))
                yield [
                    next(gradients).float() if weight.requires_grad else torch.zeros_like(weight)
                    for weight in map(self.weights.__getitem__, names)
                ]
        finally:
            self.model.train(training)
