"""Schedules of pruning and of the learning rate, as pure functions of the step.

Source: Prune Once for All, https://arxiv.org/abs/2111.05754, section 3. Cubic schedule: Zhu and Gupta,
https://arxiv.org/abs/1710.01878, equation 1. No function counts steps: every value depends on `global_step` alone, so
a resumed run continues where it stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pruneonce.config.lengths import as_steps
from pruneonce.errors import UserError


def cubic_sparsity(step: int, start: int, end: int, initial: float, final: float) -> float:
    """Cubic sparsity `s_f + (s_i - s_f) (1 - (t - t0) / (t1 - t0))^3`, from `s_i` at t0 to `s_f` at t1.

    The sparsity is `s_i` before t0 = `start`, and `s_f` after t1 = `end`.
    """
    if step <= start:
        return initial
    if step >= end:
        return final
    progress = (step - start) / (end - start)
    return final + (initial - final) * (1 - progress) ** 3


def linear_multiplier(step: int, total: int, warmup: int) -> float:
    """Learning-rate multiplier: linear warm-up over `warmup` steps, then linear decay to 0 at `total`."""
    if step < warmup:
        return step / warmup
    return max(0.0, (total - step) / max(1, total - warmup))


def rewound_multiplier(step: int, total: int, warmup: int, start: int, end: int, every: int) -> float:
    """Learning-rate multiplier: linear warm-up and decay, rewound at each mask update between `start` and `end`.

    The decay runs over N' = N - P steps, with P = end - start. Between `start` and `end`, each mask update returns it
    to its value at `start`, so the multiplier can exceed 1 if `start` lies inside the warm-up.
    """
    if step < warmup:
        return step / warmup
    pruning = end - start
    decay = max(1, total - pruning - warmup)
    if start <= step < end:
        left = total - pruning - step + (step - start) // every * every
    else:
        left = total - step - (pruning if step < start else 0)
    return max(0.0, left / decay)


class Ramp(Protocol):
    """Settings of a schedule, as in a recipe's `Sparsification`."""

    @property
    def sparsity(self) -> float: ...
    @property
    def initial_sparsity(self) -> float: ...
    @property
    def start(self) -> float: ...
    @property
    def end(self) -> float: ...
    @property
    def until(self) -> float: ...
    @property
    def every(self) -> float: ...
    @property
    def rewind(self) -> bool: ...


@dataclass(frozen=True)
class PruningSchedule:
    """Pruning schedule in steps: the lengths of `Sparsification` settings for a run of `total` steps."""

    start: int
    end: int
    until: int
    every: int
    initial: float
    final: float
    rewind: bool

    @classmethod
    def of(cls, settings: Ramp, total: int) -> PruningSchedule:
        """Make the schedule of `settings` for a run of `total` steps.

        Raises:
            UserError: start < end < total does not hold.
        """
        start, end, until = (as_steps(x, total) for x in (settings.start, settings.end, settings.until))
        if not start < end < total:
            raise UserError(
                f"pruning from step {start} to step {end} does not fit a run of {total} steps: "
                "start < end < steps is needed"
            )
        every = max(1, as_steps(settings.every, total))
        return cls(start, end, max(until, end), every, settings.initial_sparsity, settings.sparsity, settings.rewind)

    def is_due(self, step: int) -> bool:
        """Return whether the masks are updated before the forward pass of `step`; always true at `end`."""
        on_grid = (step - self.start) % self.every == 0
        return self.start <= step <= self.until and (on_grid or step == self.end)

    def sparsity(self, step: int) -> float:
        """Target sparsity at `step`."""
        return cubic_sparsity(step, self.start, self.end, self.initial, self.final)

    def learning_rate(self, step: int, total: int, warmup: int) -> float:
        """Multiplier of the base learning rate at `step`."""
        if not self.rewind:
            return linear_multiplier(step, total, warmup)
        return rewound_multiplier(step, total, warmup, self.start, self.end, self.every)
