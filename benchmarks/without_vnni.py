"""int8 on a processor without VNNI, in each engine: accuracy and speed; writes results/without_vnni.json and its page.

    python -m benchmarks.without_vnni quickstart

It takes the dense and the int8 model of `make quickstart`, and calibrates the dense one besides. Each engine runs them
as pruneonce opens it on such a processor, and as it does by itself. The machine has to be idle.
"""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any
from unittest.mock import patch

import numpy as np
import typer

from benchmarks import common, tables
from benchmarks.agreement import compared
from pruneonce import engines, quantization, recipe, stages
from pruneonce.cli.verbosity import silence_libraries
from pruneonce.engines import timing
from pruneonce.engines.session import Session
from pruneonce.export import Options
from pruneonce.models import load_tokenizer
from pruneonce.system import machine

TEXT = (
    "MiniLM on tweets, from the quickstart: dense, dense and calibrated to int8, and 90 % zeros trained on the int8 "
    "grid.",
    "`set`: integers are multiplied as pruneonce sets the engine on such a processor. ONNX Runtime multiplies uint8 by "
    "uint8, and OpenVINO the fp32 numbers that the integers stand for. `by itself`: as the engine does by default. "
    "`safe`: exported with `--safe`.",
    "Classes and logits on test are compared with those of PyTorch, which has fake quantization for int8. Differences "
    "are in percent of the largest logit.",
    "The last columns, texts x tokens, say how many times faster than the dense model in the same engine a model is: "
    "medians, in turns.",
)
SHAPES = ((1, 32), (1, 128), (32, 32), (32, 128))
COLUMNS: list[Any] = ["engine", "model", "integers", {"name": "accuracy, %", "format": "{:,.1f}"}]
COLUMNS += [{"name": "classes that differ", "format": "{:,}"}]
COLUMNS += [{"name": name, "format": "{:.2g}"} for name in ("typical, %", "largest, %")]
COLUMNS += [{"name": f"{batch} x {length}", "format": "{:,.2f}"} for batch, length in SHAPES]


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
    note = f"instruction sets {', '.join(machine.instruction_sets())}; one run, seed 42"
    made = common.made(note=note, libraries=("torch", "onnxruntime", "openvino", "pruneonce"))
    table = {"columns": COLUMNS, "rows": rows}
    tables.write("without_vnni", {"title": "int8 without VNNI", "made": made, "blocks": [*TEXT, table]})


def opened(model: Path, engine: str, folder: Path) -> dict[str, Session]:
    """A model as pruneonce sets the engine where there is no VNNI, and as the engine is by itself."""
    made = stages.export(model, folder, format=engines.ENGINES[engine].format)
    found = {"set": engines.open_engine(made, engine)}
    with patch.object(machine, "overflows_int8", return_value=False):
        found["by itself"] = engines.open_engine(made, engine)
        if quantization.is_quantized(model):
            safe = folder.with_name(f"{folder.name}-safe")
            stages.export(model, safe, format=engines.ENGINES[engine].format, options=Options(safe=True))
            found["safe, by itself"] = engines.open_engine(safe, engine)
    return found


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


def row(engine: str, name: str, how: str, found: dict[str, Any], took: list[float], dense: list[float]) -> list[Any]:
    off = [100 * found[which] / found["range"] for which in ("typical", "largest")]
    fast = [theirs / ours for ours, theirs in zip(took, dense, strict=True)]
    said = None if name == "dense" else how
    return [engine, name, said, 100 * found["accuracy"], found["changed"], *off, *fast]


if __name__ == "__main__":
    silence_libraries()
    typer.run(main)
