"""Measurement of a task model on the held-out splits of its task."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from pruneonce import quantization
from pruneonce.console import note
from pruneonce.engines import engine_of, open_engine
from pruneonce.errors import UserError
from pruneonce.models import load_config, load_tokenizer
from pruneonce.models.architectures import check_length
from pruneonce.recipe import Task
from pruneonce.storage import as_folder
from pruneonce.system import distributed
from pruneonce.tasks import Batch, Collate, Kind, kind_of, loaded
from pruneonce.tasks.kind import Array
from pruneonce.tasks.labels import names_of
from pruneonce.tasks.prediction import in_batches, predict


def evaluate(
    model: str | Path,
    task: Task,
    *,
    splits: list[str] | None = None,
    cache: Path | None = None,
    names_of_model: bool = False,
) -> dict[str, dict[str, float]]:
    """Return `{split: {metric: value}}` of a task model on `dev` and on the task's `test` and further splits.

    `examples` among the metrics is the number of examples. Nothing is written. A quantized model is measured by fake
    quantization. A folder that was exported for an engine is measured in that engine with the engine's default
    rounding, as it would be used. A packed file is measured in pruneonce-runtime.

    Args:
        model: a model folder (or hub id), an exported folder, or a packed file, FILE or FILE/MEMBER.
        task: the task. Where its classes stand in another order than the model's, names are looked up.
        splits: those to measure on; None: all but `train`.
        cache: folder that hub data is downloaded to.
        names_of_model: take the names of the classes from the model where the task gives no `labels`; otherwise they
            come from the training data.

    Raises:
        UserError: a mistake in the model or the task; the model's labels are not the task's, or `max_length` is more
            tokens than it takes.
    """
    with as_folder(model) as folder, TemporaryDirectory() as scratch:
        check_length(task.max_length, folder, "max_length")
        device = distributed.start(seed=0)
        kind, config = kind_of(task).for_model(folder), load_config(folder)
        if names_of_model and "labels" in type(task).model_fields:
            kind.of_model = names_of(config, str(model))
        task_data = loaded.load(kind, cache or Path(scratch))
        data = task_data.data
        kind = kind.reading(config, data, str(model))
        if data.classes is not None and (task_data.is_new or kind.order):
            note(data.classes.line(names_of(config, str(model))))
        engine = engine_of(model)
        run = _in_engine(model, kind, engine) if engine else _in_torch(model, kind, device)
        tokenizer = load_tokenizer(folder)
        collate = kind.collate(tokenizer)
        measures = {}
        for split in splits or [name for name in data.splits if name != "train"]:
            if split not in data.splits:
                raise UserError(f"the task has no split {split!r}")
            rows, examples = data.splits[split], task_data.examples(split, tokenizer)
            measures[split] = {**kind.measure(run(examples, collate), rows, examples), "examples": len(rows)}
            if undefined := kind.undefined(rows, data):
                note(f"{split}: {undefined}")
    return measures


Run = Callable[[Any, Collate], list[Array]]  # from examples and their collator to an output for each example


def _in_torch(model: str | Path, kind: Kind[Any], device: torch.device) -> Run:
    loaded = kind.load_finished(model).to(device)
    if quantization.is_quantized(model):
        quantization.restore(loaded, model)
    return partial(predict, loaded, kind)


def _in_engine(model: str | Path, kind: Kind[Any], name: str) -> Run:
    engine = open_engine(model, name)

    def run(batch: Batch) -> Tensor:
        outputs = {name: torch.from_numpy(value) for name, value in engine(batch).items()}
        try:
            return kind.output(outputs, batch["attention_mask"])
        except KeyError as missing:
            raise UserError(
                f"{model} has no head for this task: it gives {', '.join(outputs)}, not {missing}; export a task model"
            ) from None

    return partial(in_batches, run)
