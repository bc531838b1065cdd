"""Consoles for progress and results, and the logger for diagnostics.

Progress is for the person who waits: it is printed unless the logger `pruneonce` is above INFO, its level by default.
Diagnostics are messages of level DEBUG of that logger. Nothing shows them unless a handler does.

Text that is printed may come from data: names of tensors, files, columns and labels. The consoles take it literally,
without markup, and write out the characters that a terminal obeys (`wording.shown_lines`). Markup is for text of our
own, by `styled`.
"""

import importlib.util
import logging
import os
from collections.abc import Iterator
from functools import cache
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment
from rich.text import Text

from pruneonce.wording import shown, shown_lines

logger = logging.getLogger("pruneonce")
logger.addHandler(logging.NullHandler())
if logger.level == logging.NOTSET:  # a program that imports this package may have set a level before
    logger.setLevel(logging.INFO)


class SafeConsole(Console):
    """Console that prints text from anywhere: no markup, no emoji codes, and no characters that a terminal obeys."""

    def __init__(self, **settings: Any):
        super().__init__(highlight=False, markup=False, emoji=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        return super().render_str(shown_lines(text), **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(shown_lines(segment.text), segment.style)


class _Progress(SafeConsole):
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


console = _Progress()
results = SafeConsole()
notes = _Progress(stderr=True)
errors = SafeConsole(stderr=True)


def note(line: str) -> None:
    """Tell the person who waits what was decided, on stderr, beside the results; of several processes, one does."""
    if os.environ.get("RANK", "0") == "0":
        notes.print(shown(line), soft_wrap=True)


def is_offline() -> bool:
    """Return whether the environment switches the Hugging Face hub off."""
    return os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE")


def hub_away() -> tuple[str, str]:
    """Return why the Hugging Face hub gives no answer, to stand behind its name, and what to do."""
    if is_offline():
        return "is switched off by HF_HUB_OFFLINE", "correct the path, or unset HF_HUB_OFFLINE to download it"
    return "cannot be reached", "correct the path, or go online"


@cache
def asking_hub(source: str) -> None:
    """Say once in a process that the Hugging Face hub is asked for `source`: without a network that takes a while."""
    if not is_offline():
        note(f"asking the Hugging Face hub for {source}")


def echo(line: str) -> None:
    """Print one line of results to stdout, whatever names are in it."""
    results.print(shown(line), soft_wrap=True)


def styled(markup: str, **values: Any) -> Text:
    """Return a text with rich markup of our own; `values` are put into it literally, by their names in braces."""
    literal = {name: escape(shown(value)) for name, value in values.items()}
    return Text.from_markup(markup.format(**literal), emoji=False)
