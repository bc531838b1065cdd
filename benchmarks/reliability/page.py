"""The result reliability.json: a section for each program here, replaced when the program runs again."""

from __future__ import annotations

from typing import Any

from benchmarks import common, tables
from pruneonce.system import durable

TITLES = {
    "kill": "Killed and started again",
    "kill product-quantize": "Product quantization, killed and started again",
    "kill torchrun": "Two processes under torchrun, one of them killed, and started again",
    "fuzz": "Damaged and hostile input",
    "fuzz runtime": "Damaged and hostile packed files in pruneonce-runtime, loaded and run",
}
TEXT = "[docs/reliability.md](../../docs/reliability.md) says what happens when, and has the fault matrix."


def write(name: str, columns: list[Any], rows: list[list[Any]]) -> None:
    """Put the table of a program into the result, with where, when and how it was made."""
    known = durable.read_json(tables.RESULTS / "reliability.json") or {"title": "Reliability, measured", "sections": {}}
    made = common.made(libraries=("torch", "transformers", "safetensors"))
    table = {"columns": columns, "rows": rows}
    known["sections"][name] = [{"heading": TITLES[name]}, {"made": made}, table]
    sections = known["sections"].values()
    known["blocks"] = [TEXT, *(block for section in sections for block in section)]
    tables.write("reliability", known)
