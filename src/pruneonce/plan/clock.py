"""Seconds of steps, and the memory in use meanwhile."""

import re
import resource
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from transformers import TrainerCallback

LEAST = 2  # timed steps


class Clock(TrainerCallback):
    """Timer of training steps, from the end of the step before, so that fetching batches counts. It ends training."""

    def __init__(self, share: float):
        self.share = share
        self.began = self.last = 0.0
        self.batches: list[float] = []
        self.updates: list[float] = []

    def begin(self) -> None:
        """Start the clock: before each step whose batches are at hand, and once before steps that fetch theirs."""
        self.last = _now()
        self.began = self.began or self.last

    def stop_batches(self, number: int) -> None:
        """Note the seconds that each of `number` batches took."""
        now = _now()
        self.batches.append((now - self.last) / number)
        self.last = now

    def stop_update(self) -> bool:
        """Note the seconds of the update; return whether enough steps are timed."""
        now = _now()
        self.updates.append(now - self.last)
        self.last = now
        return now - self.began >= self.share and (len(self.updates) == 1 or len(self.updates) > LEAST)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.began:
            self.begin()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.stop_batches(args.gradient_accumulation_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = self.stop_update() or control.should_training_stop


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return perf_counter()


def peak_memory() -> int:
    """Return the peak memory of this process in bytes, of the GPU where there is one."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status")
    # ru_maxrss would count what the parent had when it started this process.
    if status.is_file() and (peak := re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii"))):
        return 1024 * int(peak[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
