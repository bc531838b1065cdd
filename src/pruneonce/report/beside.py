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


def sentences(results: Results, benchmark: Mapping[str, Any] | None) -> list[str]:
    """Return sentences on each quantized baseline beside the quantized sparse model: score, bytes and milliseconds.

    Of a single task the difference of the scores follows, with its paired interval, and the processor of the times.

    Milliseconds are those of each model in its fastest engine; they are left out where the machine was
    busy while either was timed.

    Args:
        results: of a summary.
        benchmark: that of the summary; None where nothing was timed.
    """
    timed = (benchmark or {}).get("rows") or []
    lines = []
    for baseline in speed.BASELINES:
        ours = next((arm for arm in OURS if any({arm, baseline} <= arms.keys() for arms in results.values())), None)
        if ours is None:
            continue
        both = {task: arms for task, arms in results.items() if {ours, baseline} <= arms.keys()}
        title = ARMS[ours].title if ours == SPARSE else f"sparse {ARMS[ours].title}"
        comparable = timed if all(speed.fastest(timed, arm) for arm in (baseline, ours)) else []
        theirs, our_figures = (", ".join(_figures(both, arm, comparable)) for arm in (baseline, ours))
        over = "" if len(both) == 1 else f", over {len(both)} tasks on average"
        lines.append(f"Beside {ARMS[baseline].title} ({theirs}), {title} has {our_figures}{over}.")
        details = [_difference(arms[ours], baseline) for arms in both.values()] if len(both) == 1 else []
        if comparable:
            details.append(_processor((benchmark or {}).get("machine") or {}))
        if text := "; ".join(filter(None, details)):
            lines.append(f"{text[0].upper()}{text[1:]}.")
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


def _difference(result: Mapping[str, Any], baseline: str) -> str:
    """Return the paired difference to a baseline, where the summary has it."""
    found = (result.get("against") or {}).get(baseline)
    if found is None:
        return ""
    scale = 100 / (result.get("full_score") or 1)
    text = f"{readable(result['metric'])} differs by {scale * found['value']:+z.1f} points"
    if found["low"] is None:
        return text
    ends = f"{scale * found['low']:+z.1f} to {scale * found['high']:+z.1f}"
    return f"{text} (95 % interval {ends}, on the same examples)"


def _processor(machine: Mapping[str, Any]) -> str:
    """Return the processor of the times."""
    if not machine.get("processor"):
        return ""
    threads = machine.get("threads")
    count = f", {threads} thread{'' if threads == 1 else 's'}" if threads else ""
    return f"milliseconds of a text are those of each model's fastest engine on {machine['processor']}{count}"
