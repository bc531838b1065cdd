"""Rows of benchmark.json, which docs/design.md describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

REAL = "real"  # in the place of a length: texts of the task


def of_one_text(benchmark: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Return the rows of one text at a time: real texts, or else the longest of the grid; empty without a benchmark."""
    rows = [row for row in (benchmark or {"rows": []})["rows"] if row["batch"] == 1]
    lengths = [row["length"] for row in rows]
    length = REAL if REAL in lengths else max(lengths, default=None)
    return [row for row in rows if row["length"] == length]
