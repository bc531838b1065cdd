"""What identifies data, wherever it lies: a stage whose inputs have the same keys need not run again."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from pruneonce.data import packing
from pruneonce.errors import UserError
from pruneonce.recipe import Corpus, Task
from pruneonce.system.durable import file_hash

NOT_DATA = {"teacher", "transfer", "quantize", "teacher_model", "metric"}
SPLITS = {"train", "dev", "test", "held_out", "unlabelled"}


def task_key(task: Task, taught: bool = False, *, by_name: bool = False) -> str:
    """sha256 of how a task is read and, for local files, of their names and what is in them, wherever they are.

    Args:
        taught: for a stage with a teacher, which may learn from more than the splits.
        by_name: local files count by their path, and none is read.
    """
    files = task.data() if taught else task.splits()
    splits: dict[str, object] = dict(files)
    if task.source is None and not by_name:
        splits = {split: [Path(file).name, file_key(file)] for split, file in files.items()}
    said = [task.model_dump(exclude=NOT_DATA | SPLITS), splits]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def corpus_key(corpus: Corpus, tokenizer: Any) -> str:
    """sha256 of all that makes the blocks: settings, tokenizer, and `source_key` of local files.

    A hub data set counts by its name alone: looking up its revision would need the network.
    """
    settings = corpus_settings(corpus)
    settings["source"] = source_key(corpus.source) or corpus.source
    return hashlib.sha256(json.dumps([settings, packing.backend(tokenizer)], sort_keys=True).encode()).hexdigest()


def corpus_settings(corpus: Corpus) -> dict[str, Any]:
    """All of a corpus that its blocks follow from; the number of processes that make them is no part of it."""
    return corpus.model_dump(exclude={"processes"})


def source_key(source: str) -> list[list[str]] | None:
    """The name, within its folder, and the `file_key` of each file of a local source; None for a hub id."""
    files, folder = packing.local_files(source), Path(source).expanduser()
    if files is None:
        return None
    names = [file.relative_to(folder).as_posix() if folder.is_dir() else file.name for file in files]
    return [[name, file_key(file)] for name, file in zip(names, files, strict=True)]


def file_key(file: str | Path) -> str:
    """sha256 of what is in a file. A process reads it a second time only when its size or time has changed.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return _file_key(*_stamp(Path(file).expanduser()))
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None


@cache
def _file_key(file: str, size: int, time: int) -> str:
    return file_hash(Path(file))


def stamps(files: list[Path]) -> list[tuple[str, int, int]]:
    """Path, size and time (ns) of each file: what tells, within a stage, whether one was changed.

    Raises:
        UserError: one is gone.
    """
    try:
        return [_stamp(file) for file in files]
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from None


def _stamp(file: Path) -> tuple[str, int, int]:
    found = file.stat()
    return str(file.resolve()), found.st_size, found.st_mtime_ns
