"""Writing that survives: aside, flushed to the disk, renamed. A reader sees the old or the new, and never a half."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from pruneonce.console import logger
from pruneonce.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)


def partial(output: Path) -> Path:
    """The file or folder in which `output` is being made."""
    return output.with_name(output.name + ".partial")


def write_text(file: Path, text: str) -> None:
    """Replace the content of `file`."""
    aside = partial(file)
    with aside.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(file)
    _sync(file.parent)


def read_json(file: Path) -> Any:
    """The parsed file, or None where there is none."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged: {error}") from None


def file_hash(file: Path) -> str:
    """sha256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(value: Any, file: Path) -> None:
    """Written aside and renamed, so that a reader never sees half of it."""
    write_text(file, json.dumps(value, indent=1, allow_nan=False) + "\n")


def publish(aside: Path, target: Path) -> None:
    """Give the file or folder `aside` its final name, once all that is in it has reached the disk."""
    share(aside)
    for path in [*aside.rglob("*"), aside] if aside.is_dir() else [aside]:
        if not path.is_symlink():
            _sync(path)
    aside.replace(target)
    _sync(target.parent)
    logger.debug("%s is written", target)


def share(path: Path) -> None:
    """Give a file, or all files of a folder, the permissions that the umask leaves to new ones.

    safetensors writes files that their owner alone can read, whatever the umask.
    """
    if os.name != "posix":
        return
    mask = os.umask(0o077)  # it can only be read by setting it
    os.umask(mask)
    for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
        if file.is_file() and not file.is_symlink():
            mode = file.stat().st_mode & 0o777
            usual = mode | (0o666 & ~mask)
            if usual != mode:
                file.chmod(usual)


@contextmanager
def writing(what: Path, then: str = "run it again") -> Generator[None, None, None]:
    """Turn the errors of a disk into one line; what stands there already is never touched by one.

    Args:
        then: what to do once the disk is in order.

    Raises:
        UserError: `what` cannot be written.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = error_number(error)
        if number in FULL:
            raise UserError(f"the disk is full: cannot write {what}; free some space, then {then}") from error
        reason = os.strerror(number) if number else " ".join(str(error).split())
        raise UserError(f"cannot write {what}: {reason}; once that is put right, {then}") from error


def error_number(error: OSError | SafetensorError) -> int | None:
    """The system's number of an error; safetensors, which is written in Rust, has it in its text only."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def _sync(path: Path) -> None:
    if os.name != "posix" and path.is_dir():  # only there can folders be opened
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
