"""Consoles for progress and results, and the logger for diagnostics.

Progress is for the person who waits: it is printed unless the logger `pruneonce` is above INFO, its level by default.
Diagnostics are messages of level DEBUG of that logger. Nothing shows them unless a handler does.
"""

import importlib.util
import logging

from rich.console import Console

logger = logging.getLogger("pruneonce")
logger.addHandler(logging.NullHandler())
if logger.level == logging.NOTSET:  # a program that imports this package may have set a level before
    logger.setLevel(logging.INFO)


class _Progress(Console):
    """Console that is quiet while the logger is."""

    @property
    def quiet(self) -> bool:
        return not logger.isEnabledFor(logging.INFO)

    @quiet.setter
    def quiet(self, value: bool) -> None:
        """Ignore the value: the logger alone decides. Rich sets it once as it begins."""

    @property
    def is_live(self) -> bool:
        """Return whether a line can be drawn again: in a terminal, and in a notebook that has widgets."""
        return self.is_terminal or (self.is_jupyter and importlib.util.find_spec("ipywidgets") is not None)


console = _Progress(highlight=False)
results = Console(highlight=False)
