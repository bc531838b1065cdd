"""Verbosity of the command line: `--quiet`, `--verbose`, or PRUNEONCE_VERBOSITY."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager

from pruneonce.console import logger
from pruneonce.errors import UserError

VARIABLE = "PRUNEONCE_VERBOSITY"
LEVELS = {"quiet": logging.WARNING, "normal": logging.INFO, "verbose": logging.DEBUG}
FLAGS = {"-q": "quiet", "--quiet": "quiet", "-v": "verbose", "--verbose": "verbose"}


def taken_from(arguments: list[str]) -> tuple[int, list[str]]:
    """Return the level, and the arguments without its options, which stand before or after the verb.

    Raises:
        UserError: two different options, or an unknown value in the environment.
    """
    levels = {FLAGS[argument] for argument in arguments if argument in FLAGS}
    if len(levels) > 1:
        raise UserError("give one of --quiet and --verbose")
    chosen = levels.pop() if levels else os.environ.get(VARIABLE) or "normal"
    if chosen not in LEVELS:
        raise UserError(f"{VARIABLE} is {chosen!r}; it is one of {', '.join(LEVELS)}")
    return LEVELS[chosen], [argument for argument in arguments if argument not in FLAGS]


@contextmanager
def applied(level: int, speaks: bool = True) -> Generator[None, None, None]:
    """Give the logger a level for the duration of the context, and send its diagnostics to stderr.

    Args:
        level: a level of `logging`.
        speaks: False in all processes but the first.
    """
    before = logger.level
    handler = logging.StreamHandler(sys.stderr) if speaks else logging.NullHandler()
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)


def silence_libraries() -> None:
    """Turn off warnings and progress bars of the libraries, by the environment alone, without importing them."""
    warnings.simplefilter("ignore")
    for library in ("TRANSFORMERS", "DATASETS", "HF_HUB"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    for library in ("HF_HUB", "HF_DATASETS"):
        os.environ.setdefault(f"{library}_DISABLE_PROGRESS_BARS", "1")
