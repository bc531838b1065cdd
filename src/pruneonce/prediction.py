"""Running a task model over examples, be it in PyTorch or in another engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Batch = dict[str, Tensor]
Collate = Callable[[list[Any]], Batch]


@torch.no_grad()
def predict(model: nn.Module, examples: Any, collate: Collate, batch_size: int = 32) -> Tensor:
    """Logits [n, classes] in the order of `examples`, of a model in PyTorch, which need not be in evaluation mode."""
    device = next(model.parameters()).device

    def run(batch: Batch) -> Tensor:
        logits: Tensor = model(**{name: value.to(device) for name, value in batch.items()}).logits
        return logits.float().cpu()

    was_training = model.training
    model.eval()
    logits = in_batches(run, examples, collate, batch_size)
    model.train(was_training)
    return logits


def in_batches(run: Callable[[Batch], Tensor], examples: Any, collate: Collate, batch_size: int = 32) -> Tensor:
    """What `run` gives for batches of `examples`, in their order. Batches are formed by length: little is padding.

    Args:
        run: gives one row for each of the batch's; the batch has no labels.
    """
    lengths = [len(ids) for ids in examples["input_ids"]]
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    found: list[Tensor] = []
    for first in range(0, len(order), batch_size):
        batch = collate([examples[i] for i in order[first : first + batch_size]])
        batch.pop("labels", None)
        found.append(run(batch))
    return torch.cat(found)[torch.tensor(order).argsort()]
