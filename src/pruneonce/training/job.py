"""Training run as a stage builds it: model, examples, loss, masks and settings. `train` runs it, `plan` times it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from pruneonce.models.architectures import trains_in_bf16
from pruneonce.plugins import Method
from pruneonce.plugins.run import Batch, Objective
from pruneonce.recipe import Training
from pruneonce.system import distributed
from pruneonce.system.machine import has_bf16
from pruneonce.training.sparsifier import Sparsifier


@dataclass(frozen=True)
class Job:
    """One training run, without the folder for its checkpoints.

    Attributes:
        model: trained in place, on its device; parameters that do not learn are frozen.
        objective: maps (model, batch) to the loss and its parts, whose sum is the loss.
        examples: examples of the whole run in their order, see data/blocks.py.
        collate: turns some examples into a batch.
        settings: batch size, learning rate and the like.
        steps: optimizer steps, see `total_steps`.
        length: tokens of the longest example.
        sparsifier: holds the masks; None trains densely.
        method: the method that accompanies training.
        likelihood: the loss by which a method scores weights, see `plugins.run.Run`; None: the objective.
    """

    model: nn.Module
    objective: Objective
    examples: Any
    collate: Callable[[list[Any]], Batch]
    settings: Training
    steps: int
    length: int
    sparsifier: Sparsifier | None = None
    method: Method = field(default_factory=Method)
    likelihood: Objective | None = None


def total_steps(settings: Training, examples: int) -> int:
    """Number of optimizer steps of a run over `examples` examples, distributed over the processes."""
    if settings.steps is not None:
        return settings.steps
    assert settings.epochs is not None
    batches = math.ceil(examples / (settings.batch_size * distributed.world()))
    return max(1, math.ceil(math.ceil(batches / settings.accumulate) * settings.epochs))


def examples_of(settings: Training, steps: int) -> int:
    """Number of examples of `steps` steps, in all processes together."""
    return steps * settings.batch_size * settings.accumulate * distributed.world()


def frozen_teacher(model: nn.Module, device: torch.device) -> nn.Module:
    """Prepare a teacher: on the device, without dropout and gradients, in bf16 if it is faster."""
    model = model.to(device).eval().requires_grad_(False)
    return model.bfloat16() if has_bf16() and trains_in_bf16(model) else model
