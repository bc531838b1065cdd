"""Numbers, lists and names as the terminal and the report write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def milliseconds(value: float) -> str:
    """To three digits."""
    digits = next((digits for digits, least in enumerate((100, 10, 1)) if value >= least), 3)
    return f"{value:,.{digits}f}"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def tenths(share: float) -> float:
    """In percent, as precise as it is shown."""
    return round(100 * share, 1)


def spread(share: float | None) -> str:
    """A standard deviation behind its mean; nothing where there is none."""
    return "" if share is None else f" ± {100 * share:.1f}"


def megabytes(size: float) -> str:
    return f"{size / 1e6:.2f}"


def listed(parts: Sequence[str], last: str = "and") -> str:
    """`a, b and c`."""
    return f" {last} ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def readable(metric: str) -> str:
    return metric.replace("_", " ")


def of_seeds(summary: Mapping[str, Any]) -> str:
    """Where means and spreads come from; nothing where there is one seed."""
    seeds = [str(seed) for seed in summary.get("seeds") or []]
    if len(seeds) < 2:
        return ""
    return (
        f"Values are means over the seeds {listed(seeds)} of the tasks, with their standard deviation; recovery is "
        "over the dense model of the same seed. The sparse model that all start from was made once."
    )
