"""Key of each stage: the hash of everything that its result follows from, by which a finished stage is recognised.

A stage passes the keys of its inputs: of models (`content_key`), of a corpus (`corpus_key`), of a task (`task_key`).
`runs.staleness` calls the same functions before anything is read, with names in place of contents. An option that a
later version adds is in no key while it has its default, so that finished stages stay valid.
"""

from __future__ import annotations

from typing import Any

from pruneonce.models import key_of
from pruneonce.recipe import Calibrate, Prepare, Prune, Training


def prepare(model: str, corpus: str, settings: Prepare, seed: int) -> str:
    """Return the key of teacher preparation."""
    return key_of("prepare", model, corpus, settings.model_dump(), seed)


def prune(model: str, corpus: str, settings: Prune, seed: int, *, teacher: str | None = None) -> str:
    """Return the key of sparse pre-training.

    Args:
        model: key of the model to start from.
        corpus: key of the corpus.
        settings: those of the stage.
        seed: of the stage.
        teacher: key of the dense model, where `model` was pruned before.
    """
    return key_of("prune", model, *([] if teacher is None else [teacher]), corpus, settings.model_dump(), seed)


def take(model: str) -> str:
    """Return the key of a sparse encoder that is taken as it is."""
    return key_of("take", model)


def prune_one_shot(model: str, settings: Prune, seed: int) -> str:
    """Return the key of the one-shot baseline."""
    zeros: list[Any] = [settings.sparsity, settings.allocation]
    zeros += [settings.pattern] if "pattern" in settings.model_dump() else []
    return key_of("prune-one-shot", model, *zeros, seed)


def train_on_task(stage: str, model: str, task: str, settings: Training, seed: int, teacher: str | None = None) -> str:
    """Return the key of a stage that trains on a task.

    Args:
        stage: its name in provenance.
        model: key of the model to start from.
        task: key of the task's data.
        settings: those of a transfer complete, see `Task.completed`.
        seed: of the stage.
        teacher: key of the dense model that teaches; None: the labels do.
    """
    return key_of(stage, [model, *([] if teacher is None else [teacher])], task, settings.model_dump(), seed)


def calibrate(model: str, task: str, settings: Calibrate, seed: int) -> str:
    """Return the key of calibration."""
    return key_of("calibrate", model, task, settings.model_dump(), seed)


def convert(files: str) -> str:
    """Return the key of the conversion of another library's files, whose content `files` is the hash of."""
    return key_of("convert", files)
