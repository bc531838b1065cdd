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

from pruneonce import engines, machine, modelfolder, prediction, recipe, stages, timing
from pruneonce.cli import silence_libraries
from pruneonce.tasks import kind_of

RESULT = Path(__file__).parent / "results" / "without_vnni.md"
FORMATS = {"onnxruntime": "onnx", "openvino": "openvino"}
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
        logits = partial(logits_on_test, task=task, tokenizer=modelfolder.load_tokenizer(arms / "dense"))
        expected = {name: logits(engines.open_engine(model, "torch")) for name, model in models.items()}
        for engine, format in FORMATS.items():
            folders = {
                name: stages.export(model, Path(scratch) / engine / name, format=format)
                for name, model in models.items()
            }
            opened = {(name, "set"): engines.open_engine(folder, engine) for name, folder in folders.items()}
            with patch(f"pruneonce.engines.{engine}.overflows_int8", return_value=False):
                for name in list(models)[1:]:
                    opened[name, "by itself"] = engines.open_engine(folders[name], engine)
            times = timed(opened)
            for (name, how), one in opened.items():
                found = compared(*logits(one), expected[name][0])
                fast = [f"{times['dense', 'set'][shape] / times[name, how][shape]:.2f}" for shape in SHAPES]
                rows.append([engine, name, "" if name == "dense" else how, *found, *fast])
    RESULT.write_text("\n".join(page(rows)) + "\n", encoding="utf-8")


def timed(opened: dict[Any, engines.Engine]) -> dict[Any, dict[Any, float]]:
    """Median milliseconds of a batch of random tokens, by shape; models take turns."""
    random = np.random.default_rng(0)
    found: dict[Any, dict[Any, float]] = {key: {} for key in opened}
    for shape in SHAPES:
        batch = {name: np.ones(shape, np.int64) for name in ("attention_mask", "token_type_ids")}
        batch |= {"input_ids": random.integers(1000, 30000, shape), "token_type_ids": np.zeros(shape, np.int64)}
        works = {key: [partial(engine, batch)] for key, engine in opened.items()}
        for key, passes in timing.in_turns(works, seconds=3.0, rounds=10).items():
            found[key][shape] = timing.figures(passes, shape[0])["milliseconds"]
    return found


def logits_on_test(engine: engines.Engine, task: recipe.Task, tokenizer: Any) -> tuple[np.ndarray, float]:
    """Logits [texts, classes], and the accuracy that they come to."""
    kind = kind_of(task)
    with TemporaryDirectory() as cache:
        rows = kind.load(Path(cache)).splits["test"]
        examples = kind.encode(rows, tokenizer)
        found = prediction.in_batches(
            lambda batch: torch.from_numpy(engine(batch)["logits"]), examples, kind.collate(tokenizer)
        )
        return np.stack(found), kind.measure(found, rows, examples)["accuracy"]


def compared(ours: np.ndarray, accuracy: float, theirs: np.ndarray) -> list[str]:
    """The accuracy, how many classes are not those that PyTorch gives, and the differences of the logits."""
    off = 100 * np.abs(ours - theirs) / np.abs(theirs).max()
    changed = (ours.argmax(1) != theirs.argmax(1)).sum()
    return [f"{100 * accuracy:.1f}", str(changed), f"{np.median(off):.2g}", f"{off.max():.2g}"]


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
