"""Timing of several pieces of work in turns, so that a slow spell of the machine slows all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from pruneonce.system.machine import is_short_of_processors, seconds_of_others

Work = Sequence[Callable[[], object]]
WIDE = 0.3  # over the median: of benchmarks/results/speed.json, no cell of equal calls is above 0.21
LEAST = 0.5  # seconds; the system counts the time of programs in hundredths
Passes = list[list[float]]  # seconds of each call, for each pass


def in_turns(works: Mapping[str, Work], seconds: float, rounds: int) -> dict[str, Passes]:
    """Time every work in each of `rounds`, one after the other, for about `seconds` in all and at least once a round.

    Everything is called once beforehand, since engines compile and allocate when they first see a shape. A turn of
    short calls begins with a call that is not timed: it finds the caches full of another's weights.

    Args:
        works: `{name: calls}`; a pass makes all calls of a work, in order.
        seconds: of each work.
        rounds: turns of each work.
    """
    for work in works.values():
        for call in work:
            call()
    turn = seconds / rounds
    passes: dict[str, Passes] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            if not passes[name] or passes[name][-1][0] < turn:
                work[0]()
            until = perf_counter() + turn
            passes[name].append([_timed(call) for call in work])
            while perf_counter() < until:
                passes[name].append([_timed(call) for call in work])
    return passes


@dataclass(frozen=True)
class Turns:
    """Passes of several works, and the processors that other programs used meanwhile, on average."""

    passes: dict[str, Passes]
    others: float | None

    def is_busy(self, name: str, threads: int) -> bool:
        """Return whether the times of a work are unreliable: processors were short, or equal calls differ widely."""
        short = self.others is not None and is_short_of_processors(threads, self.others)
        return short or unevenness(self.passes[name]) > WIDE


def watched(works: Mapping[str, Work], seconds: float, rounds: int) -> Turns:
    """Time works as `in_turns`, and watch the machine; too short a time says nothing about other programs."""
    began, before = perf_counter(), seconds_of_others()
    passes = in_turns(works, seconds, rounds)
    took = perf_counter() - began
    return Turns(passes, (seconds_of_others() - before) / took if took >= LEAST else None)


def unevenness(passes: Passes) -> float:
    """Return the distance of the quartiles of the calls' times, each over the median of the same call."""
    times = np.asarray(passes)
    low, high = np.percentile(times / np.median(times, axis=0), [25, 75])
    return float(high - low)


def figures(passes: Passes, sequences: int) -> dict[str, float]:
    """Return the statistics of timed passes.

    Args:
        passes: seconds of each call, for each pass.
        sequences: in a pass.

    Returns:
        `milliseconds`, `low` and `high`: median and quartiles of a call; `per_second`: sequences, by the median pass;
        `runs`: calls timed.
    """
    calls = 1000 * np.concatenate([np.asarray(calls_of_pass) for calls_of_pass in passes])
    low, median, high = np.percentile(calls, [25, 50, 75])
    return {
        "milliseconds": float(median),
        "low": float(low),
        "high": float(high),
        "per_second": float(sequences / np.median([sum(calls_of_pass) for calls_of_pass in passes])),
        "runs": len(calls),
    }


def _timed(call: Callable[[], object]) -> float:
    began = perf_counter()
    call()
    return perf_counter() - began
