"""Numbers, lists and names in the form that the terminal and the report print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def milliseconds(value: float) -> str:
    """Format milliseconds to three digits."""
    digits = next((digits for digits, least in enumerate((100, 10, 1)) if value >= least), 3)
    return f"{value:,.{digits}f}"


def percent(share: float) -> str:
    """Format a share as a percentage with one decimal."""
    return f"{100 * share:.1f} %"


def tenths(share: float) -> float:
    """Return a share in percent, rounded to the tenth that is printed."""
    return round(100 * share, 1)


def spread(share: float | None) -> str:
    """Format a standard deviation to stand behind its mean; return an empty text for None."""
    return "" if share is None else f" ± {100 * share:.1f}"


def megabytes(size: float) -> str:
    """Format a number of bytes as megabytes with two decimals."""
    return f"{size / 1e6:.2f}"


def listed(parts: Sequence[str], last: str = "and") -> str:
    """Join words as in `a, b and c`."""
    return f" {last} ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def readable(metric: str) -> str:
    """Return the name of a metric with spaces in place of underscores."""
    return metric.replace("_", " ")


def of_seeds(summary: Mapping[str, Any]) -> str:
    """Return the sentence on the seeds behind means and spreads; empty for a single seed."""
    seeds = [str(seed) for seed in summary.get("seeds") or []]
    if len(seeds) < 2:
        return ""
    return (
        f"Values are means over the seeds {listed(seeds)} of the tasks, with their standard deviation; recovery is "
        "over the dense model of the same seed. The sparse model that all start from was made once."
    )
