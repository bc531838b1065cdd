"""Atomic writing: to a file or folder aside, flushed to the disk, then renamed.

A reader sees the old content or the new, never a part of it.
"""

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
PERMISSIONS = "change its permissions, or give a place where you have them"


def partial(output: Path) -> Path:
    """Name of the unfinished file or folder of `output`."""
    return output.with_name(output.name + ".partial")


def write_text(file: Path, text: str) -> None:
    """Replace the content of `file`, atomically."""
    aside = partial(file)
    with aside.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(file)
    _sync(file.parent)


def read_json(file: Path) -> Any:
    """Parse a JSON file; return None if there is no file.

    Raises:
        UserError: the file is damaged, or has a key twice in one object with two values.
    """
    try:
        return parse_json(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except TwoValuesError as error:
        raise UserError(f"{file}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged: {error}") from None


class TwoValuesError(ValueError):
    """A key comes twice in one object, with two values, of which most parsers take the last without a word."""


def must_be_readable(file: Path) -> None:
    """Check the permissions of a file; safetensors says of any file that it cannot open that there is none.

    Raises:
        UserError: the file may not be read.
    """
    try:
        with file.open("rb"):
            pass
    except PermissionError as error:
        raise UserError(f"cannot read {file}: {error.strerror}; {PERMISSIONS}") from None
    except OSError:
        pass  # whoever reads the file says it


def parse_json(text: str | bytes) -> Any:
    """Parse JSON; a key may come twice in an object only with the same value.

    Raises:
        TwoValuesError: a key has two values.
        ValueError: the text is no JSON.
        RecursionError: it is nested too deep.
    """
    return json.loads(text, object_pairs_hook=_agreeing)


def _agreeing(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        for key, value in pairs:
            if json.dumps(value) != json.dumps(values[key]):
                both = f"{json.dumps(value):.40} and {json.dumps(values[key]):.40}"
                raise TwoValuesError(f"{key!r} is given twice, as {both}; keep one of the two")
    return values


def file_hash(file: Path) -> str:
    """Hash (sha256) of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(value: Any, file: Path) -> None:
    """Replace the content of `file` by `value` as JSON, atomically."""
    write_text(file, json.dumps(value, indent=1, allow_nan=False) + "\n")


def publish(aside: Path, target: Path) -> None:
    """Rename the file or folder `aside` to `target`, once all its content has reached the disk."""
    share(aside)
    for path in [*aside.rglob("*"), aside] if aside.is_dir() else [aside]:
        if not path.is_symlink():
            _sync(path)
    aside.replace(target)
    _sync(target.parent)
    logger.debug("%s is written", target)


def share(path: Path) -> None:
    """Give a file, or all files of a folder, the permissions of new files under the umask.

    safetensors writes files that only their owner can read, whatever the umask.
    """
    if os.name != "posix":
        return
    mask = os.umask(0o077)  # reading the umask requires setting it
    os.umask(mask)
    for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
        if file.is_file() and not file.is_symlink():
            mode = file.stat().st_mode & 0o777
            usual = mode | (0o666 & ~mask)
            if usual != mode:
                file.chmod(usual)


@contextmanager
def writing(what: Path, then: str = "run it again") -> Generator[None, None, None]:
    """Turn the errors of a disk into a `UserError` of one line.

    Args:
        what: the file or folder that is written.
        then: advice for the time after the disk is in order.

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
    """The system's number of an error; errors of safetensors, written in Rust, have it in their text only."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    match = re.search(r"\(os error (\d+)\)", str(error))
    return int(match[1]) if match else None


def _sync(path: Path) -> None:
    if os.name != "posix" and path.is_dir():  # folders can be opened on POSIX only
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
