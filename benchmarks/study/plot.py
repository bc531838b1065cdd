"""The plot of the study."""

from pathlib import Path
from statistics import mean, stdev

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from recovery import SHOWN, Values


def plot(found: Values, tasks: list[str], file: Path) -> None:
    """Recovery of each task, an arm a colour, a panel for each share of zeros."""
    zeros = sorted({each for each, _ in found.arms()})
    if not zeros:
        return
    everywhere = [arm for arm in SHOWN if any(arm == each for _, each in found.arms())]
    figure = Figure(figsize=(2 + 1.1 * len(tasks), 0.5 + 2.4 * len(zeros)), layout="constrained")
    for number, share in enumerate(zeros, start=1):
        axes = figure.add_subplot(len(zeros), 1, number)
        arms = [arm for each, arm in found.arms() if each == share]
        width = 0.8 / max(2, len(arms))
        lowest = 60.0
        for index, task in enumerate(tasks):
            kept = {arm: values for arm in arms if (values := found.recoveries(task, arm, share).values())}
            for place, (arm, values) in enumerate(kept.items()):
                lowest = min(lowest, *values)
                axes.bar(
                    index + (place - (len(kept) - 1) / 2) * width,
                    mean(values),
                    width=0.95 * width,
                    yerr=stdev(values) if len(values) > 1 else 0.0,
                    color=f"C{everywhere.index(arm)}",
                )
        axes.axhline(100, color="0.5", linewidth=0.8)
        axes.set_xticks(range(len(tasks)), tasks)
        axes.set_xlim(-0.5, len(tasks) - 0.5)
        axes.set_ylim(60 if lowest == 60 else 0, 103)  # a short bar tells its length only from 0
        axes.set_ylabel(f"% of dense, {100 * float(share):g} % zeros")
    handles = [Patch(color=f"C{number}", label=SHOWN[arm]) for number, arm in enumerate(everywhere)]
    # In more columns the longest names are wider than the figure.
    figure.legend(handles=handles, ncols=min(3, len(handles)), fontsize="small", loc="outside upper center")
    with rc_context({"svg.hashsalt": "study"}):  # the same numbers, the same file
        figure.savefig(file, metadata={"Date": None})
