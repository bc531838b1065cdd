"""Locks that admit one process at a time to a folder. The system releases the lock of a dead process."""

from __future__ import annotations

import os
import platform
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from filelock import FileLock, Timeout

from pruneonce.errors import InUseError

NAME = "lock"

_taken: ContextVar[list[FileLock]] = ContextVar("taken")


@contextmanager
def scope() -> Generator[None, None, None]:
    """Context at whose end the locks taken in it are released and their files removed."""
    locks: list[FileLock] = []
    token = _taken.set(locks)
    try:
        yield
    finally:
        _taken.reset(token)
        for lock in locks:
            Path(lock.lock_file).unlink(missing_ok=True)  # before the release: a waiting process sees it
            lock.release()


def take(folder: Path) -> None:
    """Lock an existing `folder` until the end of the `scope`.

    Raises:
        InUseError: another process holds the lock.
        OSError: the folder cannot be written to.
    """
    lock = FileLock(folder / NAME)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise InUseError(
            f"{folder} is in use by {_holder(folder)}; wait until that has ended, or choose another output"
        ) from None
    _taken.get().append(lock)
    (folder / NAME).write_text(f"process {os.getpid()} on {platform.node()}\n", encoding="utf-8")


def _holder(folder: Path) -> str:
    try:
        return (folder / NAME).read_text(encoding="utf-8").strip() or "another process"
    except OSError:
        return "another process"
