"""What identifies a task's data: a stage whose inputs have the same keys need not run again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pruneonce.errors import UserError
from pruneonce.recipe import Task

NOT_DATA = {"teacher", "transfer", "quantize", "teacher_model", "metric"}
SPLITS = {"train", "dev", "test", "held_out", "unlabelled"}


def task_key(task: Task, taught: bool = False) -> str:
    """sha256 of how a task is read and, for local files, of their names and what is in them, wherever they are.

    Args:
        taught: for a stage with a teacher, which may learn from more than the splits.
    """
    files = task.data() if taught else task.splits()
    splits: dict[str, object] = dict(files)
    if task.source is None:
        splits = {split: [Path(file).name, _hash(file)] for split, file in files.items()}
    said = [task.model_dump(exclude=NOT_DATA | SPLITS), splits]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _hash(file: str) -> str:
    try:
        return hashlib.sha256(Path(file).expanduser().read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
