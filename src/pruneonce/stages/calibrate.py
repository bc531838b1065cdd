"""Quantization of a task model by calibration: the ranges of its inputs are read off examples, and no weight learns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from datasets import Dataset
from torch import nn

from pruneonce.data.keys import task_key
from pruneonce.models import content_key, load_tokenizer
from pruneonce.models.architectures import check_length
from pruneonce.quantization import LearningLinear
from pruneonce.recipe import Calibrate, Task
from pruneonce.stages import keys
from pruneonce.stages.grids import put_on_grid, start_learning
from pruneonce.stages.output import Build, Origin, is_finished, unfinished
from pruneonce.system import distributed
from pruneonce.tasks import Collate, kind_of, loaded


def calibrate(
    model: str | Path, task: Task, settings: Calibrate, output: Path, *, seed: int = 42, cache: Path | None = None
) -> Path:
    """Quantize the task model `model` without training it, as a cheap alternative to `quantize`.

    The range of each layer's inputs is the mean of the extremes of batches of training examples. With 4 bits there is
    no range to learn, and the weights are rounded at once.

    Raises:
        UserError: a mistake in the model, the task or the settings.
    """
    key = keys.calibrate(content_key(model), task_key(task), settings, seed)
    if is_finished(output, key, model):
        return output
    build = Build(output, seed, cache)
    with unfinished(output, key, model) as begun:
        check_length(task.max_length, model, "max_length")
        device = distributed.start(seed)
        tokenizer = load_tokenizer(model)
        kind = kind_of(task).for_model(model)
        calibrated = kind.load_finished(model).to(device).eval()
        learning = start_learning(calibrated, settings)
        if settings.quantizes_inputs:
            data = distributed.first_then_all(lambda: loaded.load(kind, build.cache_in(begun))).data
            rows = data.splits["train"]
            sample = rows.shuffle(seed=seed).select(range(min(settings.examples, len(rows))))
            examples = kind.encode(sample, tokenizer, training=True)
            _read_ranges(calibrated, learning, examples, kind.collate(tokenizer), settings.batch_size)
        put_on_grid(calibrated.eval(), begun)
        return build.save(calibrated, Origin("calibrate", model, key, settings))


@torch.no_grad()
def _read_ranges(
    model: nn.Module, learning: Mapping[str, LearningLinear], examples: Dataset, collate: Collate, batch_size: int
) -> None:
    """Run the examples through the model; the range of each layer becomes the mean over their batches."""
    device = next(model.parameters()).device
    for count, first in enumerate(range(0, len(examples), batch_size), start=1):
        for layer in learning.values():
            layer.averaging = 1 / count  # the mean of all batches so far
            layer.train()
        end = min(first + batch_size, len(examples))
        batch = collate([examples[index] for index in range(first, end)])
        batch.pop("labels", None)
        model(**{name: value.to(device) for name, value in batch.items()})
