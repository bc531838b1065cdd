"""Texts a second from text to label, tokenization included; writes results/texts.md.

    python -m benchmarks.engine.texts ../shared/data/sst2/test.jsonl --column sentence --output runs/engine

The texts are real ones, one after the other and in batches as they come; the models are those of
benchmarks/engine/speed.py, whose labels are worthless, and take as long as trained ones. Engines take turns. Needs an
idle machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import common, tables
from benchmarks.engine import speed
from pruneonce.cli.verbosity import silence_libraries
from pruneonce.engines.timing import figures, in_turns
from pruneonce.wording import percent

PATTERNS = [("1x4", 0.9), ("unstructured", 0.9), ("dense", 0.0)]
BATCHES = (1, 32)
LIMIT = 128  # tokens


def main(
    data: Annotated[Path, typer.Argument(exists=True, help="JSONL.")],
    column: Annotated[str, typer.Option(help="Column of the texts.")] = "text",
    output: Annotated[Path, typer.Option(help="Folder of the models; kept, and used again.")] = Path("runs/engine"),
    texts: Annotated[int, typer.Option(help="The first so many are taken.")] = 256,
    seconds: Annotated[float, typer.Option(help="Time of each engine in each cell.")] = 2.0,
) -> None:
    lines = [json.loads(line)[column] for line in data.read_text(encoding="utf-8").splitlines()[:texts]]
    rows: list[dict[str, Any]] = []
    blocks: list[Any] = [
        f"Texts a second from text to label on one thread: the first {len(lines)} of the data, up to {LIMIT} tokens.",
        "The runtime tokenizes and runs by itself. OpenVINO and ONNX Runtime get tokenizers' tokens, padded to the "
        "longest text of a batch, and each runs in the faster of its settings.",
    ]
    for shape in speed.SHAPES:
        body = []
        for pattern, sparsity in PATTERNS:
            folder = speed.model(output, shape, pattern, sparsity)
            runs = dict(engines(folder))
            for size in BATCHES:
                passes = in_turns({name: [partial(whole, run, lines, size)] for name, run in runs.items()}, seconds, 4)
                found = {name: figures(passes[name], len(lines))["milliseconds"] for name in runs}
                rate = {
                    engine: len(lines) / min(ms for name, ms in found.items() if name.split()[0] == engine) * 1e3
                    for engine in dict.fromkeys(name.split()[0] for name in found)
                }
                cell = {"shape": shape, "pattern": pattern, "sparsity": sparsity, "batch": size}
                rows.append({**cell, "texts_a_second": rate})
                print(cell, rate, flush=True)
                ratio = rate["pruneonce"] / max(rate["openvino"], rate["onnxruntime"])
                title = "none" if pattern == "dense" else f"{pattern}, {percent(sparsity, 0)}"
                body.append([title, size, *(round(rate[name]) for name in rate), f"{ratio:.1f}"])
        columns = [{"name": name, "format": "{}"} for name in (*rate, "times the faster")]
        blocks += [
            {"heading": shape},
            {"columns": ["zeros", {"name": "batch", "format": "{}"}, *columns], "rows": body},
        ]
    result = {
        "title": "From text to label",
        "made": common.made(libraries=("onnxruntime", "openvino", "tokenizers", "pruneonce-runtime")),
        "texts": rows,
        "blocks": blocks,
    }
    tables.write("texts", result)


def whole(run: Callable[[list[str]], Any], lines: list[str], size: int) -> None:
    for first in range(0, len(lines), size):
        run(lines[first : first + size])


def engines(folder: Path) -> Iterator[tuple[str, Callable[[list[str]], Any]]]:
    """Every engine in every setting, from texts to labels."""
    import pruneonce_runtime
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(LIMIT)
    tokenizer.enable_padding()

    def tokenized(run: speed.Run, lines: list[str]) -> np.ndarray:
        encodings = tokenizer.encode_batch(lines)
        batch = {
            "input_ids": np.array([one.ids for one in encodings]),
            "attention_mask": np.array([one.attention_mask for one in encodings]),
            "token_type_ids": np.array([one.type_ids for one in encodings]),
        }
        return run(batch).argmax(-1)

    for name, run in speed.engines(folder, threads=1):
        if not name.startswith("pruneonce"):
            yield name, partial(tokenized, run)
    yield "pruneonce", pruneonce_runtime.load(folder / "model.pruneonce", verify=False, max_length=LIMIT)


if __name__ == "__main__":
    silence_libraries()
    typer.run(main)
