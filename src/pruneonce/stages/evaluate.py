"""Measure a task model on the held-out splits of its task."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding

from pruneonce import modelfolder, quantization
from pruneonce.data.tasks import encode, load_task, metrics
from pruneonce.engines import engine_of, open_engine
from pruneonce.errors import UserError
from pruneonce.prediction import Batch, Collate, in_batches, predict
from pruneonce.recipe import Task
from pruneonce.stages.common import begin


def evaluate(
    model: str | Path, task: Task, *, splits: list[str] | None = None, cache: Path | None = None
) -> dict[str, dict[str, float]]:
    """`{split: {metric: value}}` of a task model on `dev` and, where the task has one, `test`.

    `examples` among the metrics is the number of examples. Nothing is written. A quantized
    model is measured as such, by fake quantization. A folder that was exported for an engine is
    measured in that engine, which rounds as it does by default: what is measured is what would be used.

    Raises:
        UserError: a mistake in the model or the task; the model's labels are not the task's.
    """
    device = begin(0)
    with TemporaryDirectory() as scratch:
        data = load_task(task, cache or Path(scratch))
        engine = engine_of(model)
        run = _in_engine(model, engine) if engine else _in_torch(model, device)
        config = modelfolder.load_config(model)
        names = [config.id2label[index] for index in range(config.num_labels)]
        if names != data.labels:
            raise UserError(f"{model} has the labels {names}, the task has {data.labels}")
        tokenizer = modelfolder.load_tokenizer(model)
        collate = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8)
        found = {}
        for split in splits or [name for name in ("dev", "test") if name in data.splits]:
            if split not in data.splits:
                raise UserError(f"the task has no split {split!r}")
            examples = encode(data.splits[split], tokenizer, task)
            logits = run(examples, collate)
            found[split] = {
                **metrics(logits.numpy(), examples.with_format("numpy")["labels"][:]),
                "examples": len(examples),
            }
    return found


Run = Callable[[Any, Collate], Tensor]  # examples, and what makes batches of them, to logits [n, classes]


def _in_torch(model: str | Path, device: torch.device) -> Run:
    classifier = modelfolder.load(AutoModelForSequenceClassification, model).to(device)
    if quantization.is_quantized(model):
        quantization.restore(classifier, model)
    return partial(predict, classifier)


def _in_engine(model: str | Path, name: str) -> Run:
    engine = open_engine(model, name)

    def run(batch: Batch) -> Tensor:
        outputs = engine(batch)
        if "logits" not in outputs:
            raise UserError(f"{model} has no task head: it gives {', '.join(outputs)}; export a task model")
        return torch.from_numpy(outputs["logits"])

    return partial(in_batches, run)
