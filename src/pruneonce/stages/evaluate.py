"""Measurement of a task model on the held-out splits of its task."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from pruneonce import quantization
from pruneonce.console import note
from pruneonce.engines import ENGINES, engine_of, open_engine, open_file, require
from pruneonce.engines.session import Session
from pruneonce.errors import UserError
from pruneonce.export import write
from pruneonce.metrics.units import Units
from pruneonce.models import load_config, load_tokenizer
from pruneonce.models.architectures import check_length
from pruneonce.recipe import Task
from pruneonce.storage import as_folder
from pruneonce.system import distributed
from pruneonce.tasks import Batch, Collate, Kind, kind_of, loaded
from pruneonce.tasks.cuts import Cut
from pruneonce.tasks.kind import Array
from pruneonce.tasks.labels import names_of
from pruneonce.tasks.prediction import in_batches, predict


@dataclass(frozen=True)
class Measured:
    """Measurement of a model on a split.

    Attributes:
        scores: metrics by name, with `examples`, the number of rows.
        units: the outcome by unit.
        data: hash of the rows, whatever file they came from.
        cut: account of what `max_length` cuts off the rows.
    """

    scores: dict[str, float]
    units: Units
    data: str
    cut: Cut


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
    measured = measure(model, task, splits=splits, cache=cache, names_of_model=names_of_model)
    return {split: one.scores for split, one in measured.items()}


def measure(
    model: str | Path,
    task: Task,
    *,
    splits: list[str] | None = None,
    cache: Path | None = None,
    engine: str | None = None,
    names_of_model: bool = False,
) -> dict[str, Measured]:
    """Return the measurement of each split, with the outcome by unit; otherwise as `evaluate`.

    Args:
        model: as for `evaluate`.
        task: as for `evaluate`.
        splits: as for `evaluate`.
        cache: as for `evaluate`.
        engine: to measure in; the model is exported for it where that is needed. None: as for `evaluate`.
        names_of_model: as for `evaluate`.

    Raises:
        UserError: as `evaluate`; the engine cannot run the model.
    """
    with as_folder(model) as folder, TemporaryDirectory() as scratch:
        check_length(task.max_length, folder, "max_length")
        device = distributed.start(seed=0)
        kind, config = kind_of(task).for_model(folder), load_config(folder)
        if names_of_model and "labels" in type(task).model_fields:
            kind.of_model = names_of(config, str(model))
        task_data = loaded.load(kind, cache or Path(scratch) / "cache")
        data = task_data.data
        kind = kind.reading(config, data, str(model))
        if data.classes is not None and (task_data.is_new or kind.order):
            note(data.classes.line(names_of(config, str(model))))
        session = _opened(model, folder, engine, Path(scratch) / "export")
        run = _in_engine(session, kind, str(model)) if session else _in_torch(folder, kind, device)
        tokenizer = load_tokenizer(folder)
        collate = kind.collate(tokenizer)
        measured = {}
        for split in splits or [name for name in data.splits if name != "train"]:
            if split not in data.splits:
                raise UserError(f"the task has no split {split!r}")
            rows, examples = data.splits[split], task_data.examples(split, tokenizer)
            outputs = run(examples, collate)
            scores = {**kind.measure(outputs, rows, examples), "examples": len(rows)}
            units, cut = kind.units(outputs, rows, examples), task_data.cut(split, tokenizer)
            measured[split] = Measured(scores, units, _hash(rows, kind.derived), cut)
            if undefined := kind.undefined(rows, data):
                note(f"{split}: {undefined}")
    return measured


def _hash(rows: Dataset, derived: tuple[str, ...]) -> str:
    """Return the hash (sha256) of rows under their canonical names, without the columns that are `derived`."""
    named = {name: rows[name][:] for name in sorted(rows.column_names) if name not in derived}
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()


def _opened(model: str | Path, folder: str | Path, engine: str | None, scratch: Path) -> Session | None:
    """Open a model in an engine; None stands for PyTorch.

    Args:
        model: the model as it was given.
        folder: `model`, or the folder that it was unpacked to.
        engine: the engine; None: the one that the model is for.
        scratch: folder for an export.
    """
    own = engine_of(model)
    if engine is None or engine == own:
        return open_engine(model, own) if own else None
    declared = require(engine)
    if own and not ENGINES[own].opens_packed:
        raise UserError(f"{model} was exported for {own}; to measure in {engine}, give the model that it was made of")
    if limit := declared.limits(load_config(folder)):
        raise UserError(f"{engine} does not run {model}: {limit}")
    if declared.format is not None:
        return open_file(write(declared.format, folder, scratch), engine)
    return open_engine(folder, engine) if declared.runs_integers else None  # the other one is PyTorch


Run = Callable[[Any, Collate], list[Array]]  # from examples and their collator to an output for each example


def _in_torch(model: str | Path, kind: Kind[Any], device: torch.device) -> Run:
    loaded = kind.load_finished(model).to(device)
    if quantization.is_quantized(model):
        quantization.restore(loaded, model)
    return partial(predict, loaded, kind)


def _in_engine(engine: Session, kind: Kind[Any], model: str) -> Run:
    def run(batch: Batch) -> Tensor:
        outputs = {name: torch.from_numpy(value) for name, value in engine(batch).items()}
        try:
            return kind.output(outputs, batch["attention_mask"])
        except KeyError as missing:
            raise UserError(
                f"{model} has no head for this task: it gives {', '.join(outputs)}, not {missing}; export a task model"
            ) from None

    return partial(in_batches, run)
