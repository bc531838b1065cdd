"""What int8 comes to on a processor without VNNI, in each engine; writes results/without_vnni.md. On an idle machine.

    python benchmarks/without_vnni.py quickstart

Of what `make quickstart` made it takes the dense and the int8 model, and calibrates the dense one besides. Each engine
runs them as pruneonce opens it on such a processor, and as it does by itself.
"""

import shlex
import sys
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any
from unittest.mock import patch

import numpy as np
import torch
import typer
from agreement import compared

from pruneonce import engines, recipe, stages
from pruneonce.cli import silence_libraries
from pruneonce.engines import timing
from pruneonce.engines.session import Session
from pruneonce.models import load_tokenizer
from pruneonce.system import machine

RESULT = Path(__file__).parent / "results" / "without_vnni.md"
SHAPES = ((1, 32), (1, 128), (32, 32), (32, 128))


def main(quickstart: Annotated[Path, typer.Argument(exists=True, file_okay=False)]) -> None:
    if not machine.overflows_int8():
        raise typer.BadParameter("this processor has VNNI, and multiplies int8 as it should")
    task = recipe.load(str(quickstart / "run" / "recipe.yaml")).tasks["sentiment"]
    arms = quickstart / "run" / "tasks" / "sentiment"
    rows = []
    with TemporaryDirectory() as scratch:
        dense_int8 = stages.calibrate(arms / "dense", task, recipe.Calibrate(), Path(scratch) / "dense-int8")
        models = {"dense": arms / "dense", "dense, int8": dense_int8, "sparse, int8": arms / "int8"}
        tokenizer = load_tokenizer(arms / "dense")
        for engine in (name for name, one in engines.ENGINES.items() if one.format):
            ways = {name: opened(model, engine, Path(scratch) / engine / name) for name, model in models.items()}
            del ways["dense"]["by itself"]  # it has no integers
            times = timed({(name, how): one for name, way in ways.items() for how, one in way.items()})
            for name, way in ways.items():
                torch_too = {**way, "torch": engines.open_engine(models[name], "torch")}
                found = compared(task, tokenizer, torch_too, "torch", Path(scratch) / "cache")
                rows += [row(engine, name, how, found[how], times[name, how], times["dense", "set"]) for how in way]
    RESULT.write_text("\n".join(page(rows)) + "\n", encoding="utf-8")


def opened(model: Path, engine: str, folder: Path) -> dict[str, Session]:
    """A model as pruneonce sets the engine where there is no VNNI, and as the engine is by itself."""
    made = stages.export(model, folder, format=engines.ENGINES[engine].format)
    found = {"set": engines.open_engine(made, engine)}
    with patch.object(machine, "overflows_int8", return_value=False):
        return {**found, "by itself": engines.open_engine(made, engine)}


def timed(ways: dict[Any, engines.Engine]) -> dict[Any, list[float]]:
    """Median milliseconds of a batch of random tokens, for each of SHAPES; models take turns."""
    random = np.random.default_rng(0)
    found: dict[Any, list[float]] = {key: [] for key in ways}
    for shape in SHAPES:
        ids = random.integers(1000, 30000, shape)
        batch = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        works = {key: [partial(engine, batch)] for key, engine in ways.items()}
        for key, passes in timing.in_turns(works, seconds=3.0, rounds=10).items():
            found[key].append(timing.figures(passes, shape[0])["milliseconds"])
    return found


def row(engine: str, name: str, how: str, found: dict[str, Any], took: list[float], dense: list[float]) -> list[str]:
    off = [f"{100 * found[which] / found['range']:.2g}" for which in ("typical", "largest")]
    fast = [f"{theirs / ours:.2f}" for ours, theirs in zip(took, dense, strict=True)]
    said = "" if name == "dense" else how
    return [engine, name, said, f"{100 * found['accuracy']:.1f}", str(found["changed"]), *off, *fast]


def page(rows: list[list[str]]) -> list[str]:
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime", "openvino", "pruneonce"))
    columns = ["engine", "model", "integers", "accuracy, %", "classes that differ", "typical, %", "largest, %"]
    columns += [f"{batch} x {length}" for batch, length in SHAPES]
    return [
        "# int8 without VNNI",
        "",
        f"`{shlex.join(['python', *sys.argv])}`, {date.today()}, {machine.processor()}, {torch.get_num_threads()} "
        f"threads, instruction sets {', '.join(machine.instruction_sets())}; {versions}; one run, seed 42.",
        "",
        "MiniLM on tweets, from the quickstart: dense; dense and calibrated to int8; 90 % zeros, trained on the int8 "
        "grid. Integers are multiplied as pruneonce sets the engine on such a processor (ONNX Runtime: uint8 by uint8; "
        "OpenVINO: as the fp32 numbers that they stand for), or as the engine does by itself. Classes and logits are "
        "compared with PyTorch's, of int8 by fake quantization, on test; the differences are in percent of the largest "
        "logit. Then, for texts x tokens, how many times faster than the dense model in the same engine: medians, in "
        "turns.",
        "",
        f"| {' | '.join(columns)} |",
        f"|{'---|' * len(columns)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


if __name__ == "__main__":
    silence_libraries()
    typer.run(main)
