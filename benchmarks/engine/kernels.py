"""Time of each kernel of the pruneonce runtime by pattern and number of tokens; writes results/kernels.md.

    python -m benchmarks.engine.kernels

One matrix at a time, whose weights stay in the second cache. A column is a number of tokens. The time of the same
matrix with zeros alone is taken off, so what is left is that of the products. Needs an idle machine.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import numpy as np
import typer
from pruneonce_runtime.native import instruction_sets, kernels
from pruneonce_runtime.spec import Linear, Matrix

from benchmarks import common, tables
from pruneonce.engines.timing import in_turns

SHAPES = [(384, 1536), (768, 768)]
TOKENS = [16, 32, 64]
KERNELS = ("dense", "groups", "interleaved", "windows")
PATTERNS = ("dense", "1x4, 80 %", "1x4, 90 %", "unstructured, 90 %", "unstructured, 95 %", "8 of 64", "4 of 64")


def weights(pattern: str, shape: tuple[int, int]) -> np.ndarray:
    """int8 [outputs, inputs] with random zeros in the pattern."""
    draw = np.random.default_rng(0)
    outputs, inputs = shape
    name, _, share = pattern.partition(", ")
    density = 1 - float(share.removesuffix(" %")) / 100 if share else 1.0
    if name.endswith(" of 64"):
        order = draw.random((outputs, inputs // 64, 64)).argsort(-1).argsort(-1)
        kept = (order < int(name.split()[0])).reshape(shape)
    else:
        block = 4 if name == "1x4" else 1
        kept = np.repeat(draw.random((outputs, inputs // block)) < density, block, axis=1)
    return np.where(kept, draw.integers(1, 127, shape), 0).astype(np.int8)


def linear(integers: np.ndarray) -> Linear:
    outputs = len(integers)
    scale, bias = np.full(outputs, 0.01, np.float32), np.zeros(outputs, np.float32)
    return Linear(Matrix(integers.shape, integers), 8, scale, bias, np.float32(0.02), 117)


def main(seconds: Annotated[float, typer.Option(help="Time of each kernel with each matrix.")] = 0.1) -> None:
    best = instruction_sets()[0]
    blocks: list[Any] = [
        f"Nanoseconds for 1,024 weights and 16 tokens, instructions {best}: the least of many calls.",
        "A line is a pattern of zeros. `short` and `long` name the kernel that the runtime takes for calls of one "
        "vector of tokens, and for longer ones.",
    ]
    for shape in SHAPES:
        rows = []
        for pattern in PATTERNS:
            matrix = linear(weights(pattern, shape))
            works = {}
            for kernel in KERNELS:
                for what, one in (("all", matrix), ("none", linear(np.zeros(shape, np.int8)))):
                    # `dense` multiplies by zeros as well
                    name = "groups" if (kernel, what) == ("dense", "none") else kernel
                    try:
                        call = kernels.Linear(one, best, name)
                    except ValueError:  # these instructions have no such kernel
                        continue
                    for tokens in TOKENS:
                        x = np.random.default_rng(1).normal(0, 2, (tokens, shape[1])).astype(np.float32)
                        works[kernel, what, tokens] = [partial(call, x)]
            passes = in_turns({str(key): work for key, work in works.items()}, seconds, 4)
            least = {key: min(run[0] for run in passes[str(key)]) for key in works}
            cells: list[str | None] = []
            for kernel in KERNELS:
                for tokens in TOKENS:
                    if (kernel, "all", tokens) not in least:
                        cells.append(None)
                        continue
                    time = least[kernel, "all", tokens] - least[kernel, "none", tokens]
                    cells.append(f"{1e9 * time / (shape[0] * shape[1] / 1024) * 16 / tokens:.1f}")
            long, short = kernels.Linear(matrix, best).kernels
            rows.append([pattern, short, long, *cells])
        columns = [{"name": f"{kernel}, {tokens}", "format": "{}"} for kernel in KERNELS for tokens in TOKENS]
        blocks += [
            {"heading": f"{shape[0]} outputs, {shape[1]} inputs"},
            {"columns": ["zeros", "short", "long", *columns], "rows": rows},
        ]
    made = common.made(note="random weights of seed 0", libraries=("numpy", "pruneonce-runtime"))
    tables.write("kernels", {"title": "Kernels of the pruneonce runtime", "made": made, "blocks": blocks})


if __name__ == "__main__":
    typer.run(main)
