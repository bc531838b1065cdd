"""Sparse int8 beside dense int8, in a sentence: the gain of pruning for a reader who would quantize anyway."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from pruneonce.recipe.arms import ARMS, SPARSE
from pruneonce.report import speed
from pruneonce.report.recovery import Results, recoveries_of
from pruneonce.wording import milliseconds, percent, readable

OURS = [*(name for name, arm in ARMS.items() if arm.role == "quantized"), SPARSE]


def sentences(results: Results, timed: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each quantized baseline: score, bytes and milliseconds beside the quantized sparse model.

    Milliseconds are those of each model in its fastest engine; they are left out where the machine was busy.

    Args:
        results: of a summary.
        timed: rows of its benchmark.
    """
    lines = []
    for baseline in speed.BASELINES:
        ours = next((arm for arm in OURS if any({arm, baseline} <= arms.keys() for arms in results.values())), None)
        if ours is None:
            continue
        both = {task: arms for task, arms in results.items() if {ours, baseline} <= arms.keys()}
        title = ARMS[ours].title if ours == SPARSE else f"sparse {ARMS[ours].title}"
        theirs, our_figures = (", ".join(_figures(both, arm, timed)) for arm in (baseline, ours))
        over = "" if len(both) == 1 else f", over {len(both)} tasks on average"
        lines.append(f"Beside {ARMS[baseline].title} ({theirs}), {title} has {our_figures}{over}.")
    return lines


def _figures(results: Results, arm: str, timed: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [arms[arm] for arms in results.values()]
    recovery_by_task = recoveries_of(results, arm)
    if len(rows) == 1:
        score = f"{percent(rows[0]['value'])} {readable(rows[0]['metric'])}"
    elif recovery_by_task:
        score = f"{percent(fmean(recovery_by_task.values()))} of the dense score"
    else:
        score = percent(fmean(row["value"] for row in rows))
    sizes = [row["size"]["bytes"] for row in rows if row.get("size")]
    size = [f"{fmean(sizes) / 1e6:.1f} MB"] if sizes else []
    row = speed.fastest(timed, arm)
    return [score, *size, *([f"{milliseconds(row['milliseconds'])} ms in {speed.engine(row)}"] if row else [])]
