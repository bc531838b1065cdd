"""Silencing of other libraries' warnings and progress bars while a function of this package runs."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from pruneonce.console import logger

P = ParamSpec("P")
T = TypeVar("T")


def quiet(function: Callable[P, T]) -> Callable[P, T]:
    """Wrap `function` so that it runs within `silenced`."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with silenced():
            return function(*args, **kwargs)

    return run


@contextmanager
def silenced() -> Generator[None, None, None]:
    """Silence transformers, datasets and huggingface_hub: no progress bars, no messages but errors, no warnings.

    The user's own settings stay in force: a verbosity in the environment, such as TRANSFORMERS_VERBOSITY, and a filter
    for all warnings, such as `python -W error`. At the level DEBUG of the logger `pruneonce`, everything is shown.
    """
    if logger.isEnabledFor(logging.DEBUG):
        yield
        return
    with ExitStack() as stack:
        if not _filters_all_warnings():
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
        for silence in (_silence_transformers, _silence_datasets):
            silence(stack)
        yield


def _filters_all_warnings() -> bool:
    """Return whether a filter for all warnings is set; Python's own filters name a message, module or category."""
    return any(
        message is None and module is None and category is Warning
        for _, message, category, module, _ in warnings.filters
    )


def _silence_transformers(stack: ExitStack) -> None:
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging as transformers

    if transformers.is_progress_bar_enabled():
        of_hub = are_progress_bars_disabled()
        transformers.disable_progress_bar()  # and the hub's with it
        stack.callback(disable_progress_bars if of_hub else enable_progress_bars)
        stack.callback(transformers.enable_progress_bar)
    elif not are_progress_bars_disabled():
        disable_progress_bars()
        stack.callback(enable_progress_bars)
    _only_errors(stack, transformers, "TRANSFORMERS_VERBOSITY")


def _silence_datasets(stack: ExitStack) -> None:
    if "datasets" not in sys.modules:  # a module that is not imported prints nothing, and importing it is slow
        return
    import datasets

    if not datasets.are_progress_bars_disabled():
        datasets.disable_progress_bars()
        stack.callback(datasets.enable_progress_bars)
    _only_errors(stack, datasets.logging, "DATASETS_VERBOSITY")


def _only_errors(stack: ExitStack, library: Any, variable: str) -> None:
    if variable not in os.environ and library.get_verbosity() < logging.ERROR:
        stack.callback(library.set_verbosity, library.get_verbosity())
        library.set_verbosity_error()
