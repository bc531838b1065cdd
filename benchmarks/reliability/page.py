"""The page benchmarks/results/reliability.md: a section for each program here, replaced when it is run again."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pruneonce.system.machine import processor

PAGE = Path(__file__).parents[1] / "results" / "reliability.md"
TITLES = {"kill": "Killed and started again", "fuzz": "Damaged and hostile input"}
HEAD = """# Reliability, measured

What happens when, and the fault matrix, is in [docs/reliability.md](../../docs/reliability.md).
"""


def write(name: str, command: str, columns: list[str], rows: list[list[Any]]) -> None:
    """Put the table of a program into the page, with where, when and how it was made."""
    table = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    lines = ["| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row) + " |"
             for row in table]  # fmt: skip
    versions = ", ".join(f"{library} {version(library)}" for library in ("torch", "transformers", "safetensors"))
    made = f"{datetime.now(UTC):%Y-%m-%d}, {processor()}, {versions}"
    section = f"## {TITLES[name]}\n\n`python benchmarks/reliability/{command}`\n\n{made}\n\n" + "\n".join(lines) + "\n"
    page = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else HEAD
    page = re.sub(rf"## {TITLES[name]}\n.*?(?=\n## |\Z)", "", page, flags=re.S).rstrip() + "\n"
    page = re.sub(r"\n{3,}", "\n\n", page)  # where a section was
    PAGE.write_text(f"{page}\n{section}", encoding="utf-8")
