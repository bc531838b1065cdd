"""The recovery of an arm, the share of the dense value that it keeps, over the tasks of a summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Results = Mapping[str, Mapping[str, Mapping[str, Any]]]  # {task: {arm: result}}


def recoveries_of(results: Results, arm: str) -> dict[str, float]:
    """The recovery of an arm by task, for the tasks that have one: no dense value at or below 0 has."""
    return {
        task: arms[arm]["recovery"]
        for task, arms in results.items()
        if arm in arms and arms[arm].get("recovery") is not None
    }
