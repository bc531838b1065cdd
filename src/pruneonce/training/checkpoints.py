"""Checkpoints on the disk: folders `checkpoint-STEP`, written atomically, with the hashes of their files.

The trainer determines their content (trainer.py). Of many processes, the first writes them and chooses the checkpoint
to read.
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
KEPT = 2  # the newest, and one as a fallback

_kept: ContextVar[int] = ContextVar("kept", default=KEPT)


@contextmanager
def keeping(number: int) -> Generator[None, None, None]:
    """Context in which each stage keeps its `number` newest checkpoints; the number changes no result."""
    token = _kept.set(number)
    try:
        yield
    finally:
        _kept.reset(token)


def write(folder: Path, step: int, fill: Callable[[Path], None]) -> None:
    """Write a checkpoint, then remove the oldest ones; all processes must call this function.

    Args:
        folder: of the checkpoints.
        step: number of the step.
        fill: writes the files into a given folder; called in the first process.

    Raises:
        UserError: the disk is full or fails. Earlier checkpoints stay unchanged.
    """
    distributed.by_first(lambda: _write(folder, step, fill))


def _write(folder: Path, step: int, fill: Callable[[Path], None]) -> None:
    target = folder / f"checkpoint-{step}"
    aside = durable.partial(target)
    try:
        with durable.writing(target, "run it again: it goes on from the last checkpoint"):
            for left in folder.glob("checkpoint-*.partial"):  # left by a killed process
                shutil.rmtree(left, ignore_errors=True)
            aside.mkdir(parents=True)
            fill(aside)
            hashes = {file.name: durable.file_hash(file) for file in sorted(aside.iterdir())}
            durable.write_json(hashes, aside / HASHES)
            if target.exists():  # a damaged checkpoint, or the same one
                _remove(target)
            durable.publish(aside, target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    for old in _all(folder)[_kept.get() :]:
        _remove(old)


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint after renaming it, so that no partial checkpoint keeps the name."""
    aside = checkpoint.with_name(f"{checkpoint.name}.old.partial")
    checkpoint.replace(aside)
    shutil.rmtree(aside, ignore_errors=True)


def newest(folder: Path) -> Path | None:
    """The newest complete checkpoint, the same for all processes; prints a warning for each damaged one."""
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
    """Describe the first fault in a checkpoint's files; None if all files match their hashes."""
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
    """All checkpoints, the newest first."""
    matches = {path: re.fullmatch(r"checkpoint-(\d+)", path.name) for path in folder.glob("checkpoint-*")}
    steps = {path: int(name[1]) for path, name in matches.items() if name}
    return sorted(steps, key=steps.__getitem__, reverse=True)
