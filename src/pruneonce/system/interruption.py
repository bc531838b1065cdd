"""Handling of SIGINT and SIGTERM: training stops after the current step, with a checkpoint; other work at once.

A second signal ends the process at once, as without any handling.
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
class ReceivedSignal:
    """Number of the received signal; 0 before any."""

    number: int = 0


@contextmanager
def deferred() -> Generator[ReceivedSignal, None, None]:
    """Context in which a first signal is only recorded, in the context's value; a second ends the process."""
    received = ReceivedSignal()

    def note(number: int, frame: Any) -> None:
        if received.number:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        received.number = number
        if os.environ.get("RANK", "0") == "0":  # the signal may have interrupted a print
            os.write(2, b"\nstopping after this step, with a checkpoint; once more to stop at once\n")

    with _handled(SIGNALS, note):
        yield received


@contextmanager
def terminable() -> Generator[None, None, None]:
    """Context in which SIGTERM raises `Interrupted`, as SIGINT raises KeyboardInterrupt, to close open files."""

    def stop(number: int, frame: Any) -> None:
        raise Interrupted(number)

    with _handled((signal.SIGTERM,), stop):
        yield


@contextmanager
def _handled(numbers: tuple[signal.Signals, ...], handler: Callable[[int, Any], None]) -> Generator[None, None, None]:
    if threading.current_thread() is not threading.main_thread():  # signals are handled in the main thread only
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, usual in before.items():
            signal.signal(number, usual)
