"""What identifies a task's data: a stage whose inputs have the same keys need not run again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pruneonce.errors import UserError
from pruneonce.recipe import Task

NOT_DATA = {"teacher", "transfer", "quantize", "teacher_model", "metric"}


def task_key(task: Task) -> str:
    """sha256 of how a task is read and, for local files, of what is in them."""
    digest = hashlib.sha256(json.dumps(task.model_dump(exclude=NOT_DATA), sort_keys=True).encode())
    if task.source is None:
        for name in task.splits().values():
            try:
                digest.update(hashlib.sha256(Path(name).expanduser().read_bytes()).digest())
            except OSError as error:
                raise UserError(f"cannot read {name}: {error.strerror}") from None
    return digest.hexdigest()
