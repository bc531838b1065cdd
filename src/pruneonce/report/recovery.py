"""Recovery of an arm, the share of the dense value that it keeps, over the tasks of a summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Results = Mapping[str, Mapping[str, Mapping[str, Any]]]  # {task: {arm: result}}


def recoveries_of(results: Results, arm: str) -> dict[str, float]:
    """Return the recovery of an arm by task; tasks whose dense value is not above 0 have none."""
    return {
        task: arms[arm]["recovery"]
        for task, arms in results.items()
        if arm in arms and arms[arm].get("recovery") is not None
    }
