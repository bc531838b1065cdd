"""SIGINT and SIGTERM: training stops at the next step's end, with a checkpoint; everything else stops where it is.

A second signal ends the process at once, as if none of this were here.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pruneonce.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class Asked:
    """The signal that came, 0 so far."""

    number: int = 0


@contextmanager
def deferred() -> Generator[Asked, None, None]:
    """While it lasts, a signal is only noted, on what this gives; a second one ends the process."""
    asked = Asked()

    def note(number: int, frame: Any) -> None:
        if asked.number:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        asked.number = number
        if os.environ.get("RANK", "0") == "0":  # not print, which may be what was interrupted
            os.write(2, b"\nstopping after this step, with a checkpoint; once more to stop at once\n")

    with _handled(SIGNALS, note):
        yield asked


@contextmanager
def terminable() -> Generator[None, None, None]:
    """While it lasts, SIGTERM raises `Interrupted`, as SIGINT raises KeyboardInterrupt: what is open is closed."""

    def stop(number: int, frame: Any) -> None:
        raise Interrupted(number)

    with _handled((signal.SIGTERM,), stop):
        yield


@contextmanager
def _handled(numbers: tuple[signal.Signals, ...], handler: Callable[[int, Any], None]) -> Generator[None, None, None]:
    if threading.current_thread() is not threading.main_thread():  # only that one may handle signals
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, usual in before.items():
            signal.signal(number, usual)
