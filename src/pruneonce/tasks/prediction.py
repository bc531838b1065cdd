"""Predictions of a task model on examples, in PyTorch or in another engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruneonce.errors import UserError
from pruneonce.tasks import Batch, Collate, Kind
from pruneonce.tasks.kind import Array


@torch.no_grad()
def predict(model: nn.Module, kind: Kind[Any], examples: Any, collate: Collate, batch_size: int = 32) -> list[Array]:
    """Return the output for each of `examples`, of a model in PyTorch, which need not be in evaluation mode."""
    device = next(model.parameters()).device

    def run(batch: Batch) -> Tensor:
        batch = {name: value.to(device) for name, value in batch.items()}
        return kind.output(model(**batch), batch["attention_mask"]).float().cpu()

    was_training = model.training
    model.eval()
    outputs = in_batches(run, examples, collate, batch_size)
    model.train(was_training)
    return outputs


def in_batches(run: Callable[[Batch], Tensor], examples: Any, collate: Collate, batch_size: int = 32) -> list[Array]:
    """Return the outputs of `run` for `examples`, in their order. Batches are formed by length: little is padding.

    Args:
        run: returns one row for each of the batch's, padded as the batch is; the batch has no labels.
        examples: model input.
        collate: makes a batch of some.
        batch_size: examples in a batch.

    Raises:
        UserError: an output is nan.
    """
    lengths = [len(ids) for ids in examples["input_ids"]]
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    outputs: dict[int, Array] = {}
    for first in range(0, len(order), batch_size):
        chosen = order[first : first + batch_size]
        batch = collate([examples[i] for i in chosen])
        batch.pop("labels", None)
        values = run(batch).numpy()
        if np.isnan(values).any():
            raise UserError(
                "the model gives nan, which is no number, for some examples, so there is nothing to measure; its "
                "weights, or its numbers in this engine, went out of range"
            )
        outputs.update(zip(chosen, values, strict=True))
    return [outputs[index] for index in range(len(order))]
