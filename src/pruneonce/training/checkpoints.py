"""Checkpoints on the disk: folders `checkpoint-STEP`, each whole or not there, each with the hashes of its files.

What is in one is the trainer's business (trainer.py). Many processes: the first one writes, and says which is read.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from rich.text import Text

from pruneonce.console import console
from pruneonce.errors import UserError
from pruneonce.system import distributed, durable

HASHES = "hashes.json"
KEPT = 2  # the newest, and one to fall back to

_kept: ContextVar[int] = ContextVar("kept", default=KEPT)


@contextmanager
def keeping(number: int) -> Generator[None, None, None]:
    """Within it, each stage keeps its `number` newest checkpoints. What is kept is no part of what is computed."""
    token = _kept.set(number)
    try:
        yield
    finally:
        _kept.reset(token)


def write(folder: Path, step: int, fill: Callable[[Path], None]) -> None:
    """Write a checkpoint, then remove those that are no longer kept. To be called by all processes.

    Args:
        fill: writes its files into the folder that it is given; called in the first process.

    Raises:
        UserError: the disk is full or fails. The checkpoints before are as they were.
    """
    distributed.by_first(lambda: _write(folder, step, fill))


def _write(folder: Path, step: int, fill: Callable[[Path], None]) -> None:
    target = folder / f"checkpoint-{step}"
    aside = durable.partial(target)
    try:
        with durable.writing(target, "run it again: it goes on from the last checkpoint"):
            for left in folder.glob("checkpoint-*.partial"):  # of a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            aside.mkdir(parents=True)
            fill(aside)
            hashes = {file.name: durable.file_hash(file) for file in sorted(aside.iterdir())}
            durable.write_json(hashes, aside / HASHES)
            if target.exists():  # one that was found damaged, or the same one
                _remove(target)
            durable.publish(aside, target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    for old in _all(folder)[_kept.get() :]:
        _remove(old)


def _remove(checkpoint: Path) -> None:
    """Under another name first: half of one is never under its own."""
    aside = checkpoint.with_name(f"{checkpoint.name}.old.partial")
    checkpoint.replace(aside)
    shutil.rmtree(aside, ignore_errors=True)


def newest(folder: Path) -> Path | None:
    """The newest checkpoint that is whole, the same for all processes; says which ones are damaged."""
    return distributed.by_first(lambda: _newest(folder))


def _newest(folder: Path) -> Path | None:
    for path in _all(folder):
        problem = damage(path)
        if problem is None:
            return path
        line = Text.assemble(("warning: ", "bold yellow"), f"{path} is damaged ({problem}) and passed over")
        console.print(line, soft_wrap=True)
    return None


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint: a file that is not what was written."""
    try:
        hashes = durable.read_json(checkpoint / HASHES)
        if not isinstance(hashes, dict):
            return f"no {HASHES}"
        if {file.name for file in checkpoint.iterdir()} != {*hashes, HASHES}:
            return "a file is missing, or one too many"
        for name, written in hashes.items():
            if durable.file_hash(checkpoint / name) != written:
                return f"{name} is not what was written"
    except (OSError, UserError) as error:
        return str(error)
    return None


def _all(folder: Path) -> list[Path]:
    """The newest first."""
    found = {path: re.fullmatch(r"checkpoint-(\d+)", path.name) for path in folder.glob("checkpoint-*")}
    steps = {path: int(name[1]) for path, name in found.items() if name}
    return sorted(steps, key=steps.__getitem__, reverse=True)
