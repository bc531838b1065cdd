"""Comparison of the tasks: a table with a row for each, and the share of the dense value that each arm keeps."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from pruneonce.recipe.arms import ARMS, DENSE
from pruneonce.report import plots
from pruneonce.report.recovery import Results, recoveries_of
from pruneonce.wording import percent, readable, spread, tenths

PRUNED = {name for name, arm in ARMS.items() if arm.role in ("ours", "rival")}  # in fp32
LONGEST = 22  # letters of a task's name in the picture


def rows(results: Results) -> list[dict[str, Any]]:
    """Return the table's rows, one for each task."""
    return [_row(task, arms, f"bars{number}") for number, (task, arms) in enumerate(results.items())]


def _row(task: str, arms: Mapping[str, Mapping[str, Any]], prefix: str) -> dict[str, Any]:
    values = {arm: result["value"] for arm, result in arms.items()}
    pruned = {arm: tenths(value) for arm, value in values.items() if arm in PRUNED}
    first = next(iter(arms.values()))
    results = {arm: result for arm, result in arms.items() if result.get("recovery") is not None}
    return {
        "name": task,
        "metric": readable(first["metric"]),
        "split": first["split"],
        "examples": first.get("examples"),
        "cut": first.get("cut"),
        "scores": {arm: f"{tenths(value):.1f}" for arm, value in values.items()},
        "spreads": {arm: spread(result.get("spread")) for arm, result in arms.items()},
        "recovery": {
            arm: percent(result["recovery"]) + spread(result.get("recovery_spread")) for arm, result in results.items()
        },
        "best": {arm for arm, value in pruned.items() if len(pruned) > 1 and value == max(pruned.values())},
        "plot": plots.bars(values, prefix),
    }


def as_shares(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result with its values as shares of the metric's full score, since SQuAD's are percent."""
    full = result.get("full_score", 1)

    def share(value: float | None) -> float | None:
        return None if value is None else value / full

    shares = {**result, "value": share(result["value"]), "spread": share(result.get("spread"))}
    if sweep := result.get("sweep"):
        candidates = [{**candidate, "value": share(candidate["value"])} for candidate in sweep["candidates"]]
        shares["sweep"] = {**sweep, "candidates": candidates}
    return shares


def means(results: Results) -> dict[str, str]:
    """Return the mean recovery of each arm over the tasks; nothing for a single task.

    An arm that some tasks lack gets the number of tasks that have it, since its mean is not over the same tasks.
    """
    if len(results) < 2:
        return {}
    recovery_by_arm = {arm: recoveries_of(results, arm) for arm in ARMS if arm != DENSE}
    return {
        arm: percent(fmean(shares.values()))
        + (f" ({len(shares)} of {len(results)})" if len(shares) < len(results) else "")
        for arm, shares in recovery_by_arm.items()
        if shares
    }


def sweeps(results: Results) -> list[dict[str, Any]]:
    """Return the candidates of all sweeps, a line for each."""
    return [
        {
            "task": task,
            "arm": arm,
            "settings": ", ".join(f"{readable(key)} {value:g}" for key, value in candidate["settings"].items()),
            "measure": f"{readable(result['sweep']['metric'])}, {result['sweep']['split']}",
            "value": "diverged" if candidate["value"] is None else f"{tenths(candidate['value']):.1f}",
            "chosen": number == result["sweep"]["chosen"],
        }
        for task, arms in results.items()
        for arm, result in arms.items()
        if result.get("sweep")
        for number, candidate in enumerate(result["sweep"]["candidates"])
    ]


def recoveries(results: Results, prefix: str) -> Markup:
    """Plot the recovery: a row for each task, a dot for each arm but the dense one, which is the line at 100 %.

    A bar to either side of a dot is the standard deviation over the seeds. There is no plot where it says no more than
    the bars of a single task with a single seed.
    """
    plotted = {
        task: {a: r for a, r in arms.items() if a != DENSE and r.get("recovery") is not None}
        for task, arms in results.items()
    }
    plotted = {task: arms for task, arms in plotted.items() if arms}
    varied = any(r.get("recovery_spread") is not None for arms in plotted.values() for r in arms.values())
    if not plotted or (len(results) == 1 and not varied):
        return Markup("")
    order = [arm for arm in ARMS if any(arm in arms for arms in plotted.values())]
    texts = {
        task: ", ".join(f"{a} {percent(r['recovery'])}" for a, r in arms.items()) for task, arms in plotted.items()
    }
    shares = "; ".join(f"{task}: {arms}" for task, arms in texts.items())
    with matplotlib.rc_context(plots.STYLE):
        height = 0.45 + (0.13 * len(order) + 0.12) * len(plotted)
        figure = Figure(figsize=(7.2, height), layout="constrained")
        axes = figure.subplots()
        for row, arms in enumerate(plotted.values()):
            _dots(axes, row, arms, order)
            if row:
                axes.axhline(row - 0.5, color=plots.INK, lw=0.4, alpha=0.15)
        axes.axvline(100, color=plots.ARM_COLORS[DENSE], lw=1.2)
        axes.set_yticks(range(len(plotted)), [_shortened(task) for task in plotted])
        axes.set_ylim(len(plotted) - 0.5, -0.5)
        axes.set_xlabel("percent of the dense value")
        axes.grid(axis="x")
        axes.tick_params("y", length=0)
        axes.spines["left"].set_visible(False)
        # Matplotlib measures with its own font, which may lack glyphs that the page's font has.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph")
            return plots.svg(figure, prefix, f"Percent of the dense value. {shares}")


def _dots(axes: Any, row: int, arms: Mapping[str, Mapping[str, Any]], order: Sequence[str]) -> None:
    """Draw the arms of a task, a little apart from one another, the same arm always at the same height."""
    for arm, result in arms.items():
        height = row + 0.72 * ((order.index(arm) + 0.5) / len(order) - 0.5)
        middle, color = 100 * result["recovery"], plots.ARM_COLORS[arm]
        side = 100 * (result.get("recovery_spread") or 0)
        if side:
            axes.plot([middle - side, middle + side], [height, height], color=color, lw=1.4)
        axes.plot([middle], [height], "o", color=color, ms=4.5)


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
