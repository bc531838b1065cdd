"""Time of each operation of the pruneonce runtime, and its share of the processor's peak; writes results/breakdown.md.

    python -m benchmarks.engine.breakdown --output runs/engine

The models are those of benchmarks/engine/speed.py. Needs an idle machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pruneonce_runtime
import typer
from pruneonce_runtime import native

from benchmarks import common, tables
from benchmarks.engine import speed
from pruneonce.cli.verbosity import silence_libraries
from pruneonce.wording import percent

PATTERNS = [("1x4", 0.9), ("unstructured", 0.9)]
CELLS = [(1, 16), (1, 128), (8, 128)]
PRODUCTS = ("query, key, value", "attention output", "up, with activation", "down")
REPEATS = 100


def main(
    output: Annotated[Path, typer.Option(help="Folder of the models; kept, and used again.")] = Path("runs/engine"),
) -> None:
    peak = native.peak()
    blocks: list[Any] = [
        "Median microseconds of a call's operations on one thread, and their share of the call. Products include what "
        "is fused into them; quantization is that of their inputs.",
        "`share of peak`: products with weights that are not 0, a second of the four products' time, beside the "
        f"{peak / 1e9:.0f} billion that a core does with {native.instruction_sets()[0]} if it does nothing else.",
    ]
    rows = []
    for shape in speed.SHAPES:
        body = []
        for pattern, sparsity in PATTERNS:
            folder = speed.model(output, shape, pattern, sparsity)
            engine = pruneonce_runtime.load(folder / "model.pruneonce", verify=False)._parts.engine
            kept = sum(choice["kept"] * choice["outputs"] * choice["inputs"] for choice in engine.choices())
            for texts, tokens in CELLS:
                found = measure(engine, texts, tokens)
                reached = kept * texts * tokens / sum(found[name] for name in PRODUCTS)
                row = {"shape": shape, "pattern": pattern, "texts": texts, "tokens": tokens, "seconds": found}
                rows.append({**row, "peak": peak, "reached": reached})
                total = sum(found.values())
                cells = [f"{1e6 * time:.0f} ({percent(time / total, 0)})" for time in found.values()]
                body.append([f"{pattern}, {texts}x{tokens}", *cells, percent(reached / peak, 0)])
        columns = [{"name": name, "format": "{}"} for name in (*found, "share of peak")]
        blocks += [{"heading": shape}, {"columns": ["zeros, texts x tokens", *columns], "rows": body}]
    result = {
        "title": "Operations of the pruneonce runtime",
        "made": common.made(note="inputs of seed 0", libraries=("numpy", "pruneonce-runtime")),
        "operations": rows,
        "blocks": blocks,
    }
    tables.write("breakdown", result)


def measure(engine: Any, texts: int, tokens: int) -> dict[str, float]:
    """Median seconds of each operation."""
    ids = speed.batch(texts, tokens)["input_ids"].astype(np.int32).ravel()
    offsets = np.arange(texts + 1, dtype=np.int32) * np.int32(tokens)
    runs = [engine.seconds(ids, offsets) for _ in range(REPEATS)]
    return {name: float(np.median([run[name] for run in runs])) for name in runs[0]}


if __name__ == "__main__":
    silence_libraries()
    typer.run(main)
