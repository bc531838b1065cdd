"""Keys of data: hashes of the content, whatever the folder.

A stage whose inputs have the same keys as before need not run again.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from pruneonce.data import columnar, packing
from pruneonce.errors import UserError
from pruneonce.recipe import Corpus, Task
from pruneonce.system.durable import file_hash

NOT_DATA = {"teacher", "transfer", "quantize", "teacher_model", "metric"}
SPLITS = {"train", "dev", "test", "held_out", "unlabelled"}


def task_key(task: Task, taught: bool = False, *, by_name: bool = False) -> str:
    """Hash (sha256) of a task's reading settings and of the names and contents of its local files.

    Args:
        task: the task.
        taught: include the data that only a stage with a teacher learns from.
        by_name: count local files by their path, and read none.
    """
    files = task.data() if taught else task.splits()
    splits: dict[str, object] = dict(files)
    if task.source is None and not by_name:
        splits = {split: [Path(file).name, file_key(file)] for split, file in files.items()}
    identity = [task.model_dump(exclude=NOT_DATA | SPLITS), splits]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def corpus_key(corpus: Corpus, tokenizer: Any) -> str:
    """Hash (sha256) of everything the blocks depend on: settings, tokenizer, and `source_key` of local files.

    A hub data set counts by its name alone, since its revision can only be looked up on the network.
    """
    settings = corpus_settings(corpus)
    settings["source"] = source_key(corpus.source) or corpus.source
    return hashlib.sha256(json.dumps([settings, packing.backend(tokenizer)], sort_keys=True).encode()).hexdigest()


def corpus_settings(corpus: Corpus) -> dict[str, Any]:
    """The settings of a corpus that its blocks depend on: all but the number of processes."""
    return corpus.model_dump(exclude={"processes"})


def source_key(source: str) -> list[list[str]] | None:
    """The name within the folder and the `file_key` of each file of a local source; None for a hub id."""
    files, folder = packing.local_files(source), Path(source).expanduser()
    if files is None:
        return None
    names = [file.relative_to(folder).as_posix() if folder.is_dir() else file.name for file in files]
    return [[name, file_key(file)] for name, file in zip(names, files, strict=True)]


def file_key(file: str | Path) -> str:
    """Hash (sha256) of a file's content, or of the data files of a folder that `datasets` saved.

    A process reads a file again only if its size or time has changed.

    Raises:
        UserError: the file cannot be read.
    """
    path = Path(file).expanduser()
    if (path / columnar.STATE).is_file():
        names = [[data.name, file_key(data)] for data in columnar.data_files(path)]
        return hashlib.sha256(json.dumps(names).encode()).hexdigest()
    try:
        return _file_key(*_stamp(path))
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None


@cache
def _file_key(file: str, size: int, time: int) -> str:
    return file_hash(Path(file))


def stamps(files: list[Path]) -> list[tuple[str, int, int]]:
    """Path, size and modification time (ns) of each file, to detect changes during a stage.

    Raises:
        UserError: a file is gone.
    """
    try:
        return [_stamp(file) for file in files]
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from None


def _stamp(file: Path) -> tuple[str, int, int]:
    status = file.stat()
    return str(file.resolve()), status.st_size, status.st_mtime_ns
