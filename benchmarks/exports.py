"""Exports before and after their changes, and by opset; writes results/exports.json and its page.

    python -m benchmarks.exports quickstart

Models have random weights, since speed depends on their zeros alone. `before`: in OpenVINO, weights as [in, out]; in
ONNX Runtime, `Add` before LayerNormalization, in a plain session. The accuracy that `--safe` costs is that of the
quickstart's models (`make quickstart`), if its folder is given. The machine has to be idle.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import onnx
import onnxruntime
import openvino
import torch
import typer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoModel, BertConfig, PreTrainedTokenizerFast

from benchmarks import common, tables
from pruneonce import quantization, recipe, stages
from pruneonce.cli.verbosity import silence_libraries
from pruneonce.engines import openvino as engine
from pruneonce.engines import timing
from pruneonce.export import OPSETS, Options, to_onnx
from pruneonce.export.openvino import convert
from pruneonce.models import read_provenance
from pruneonce.recipe import Quantization
from pruneonce.system import machine
from pruneonce.system.machine import seconds_of_others

SHAPES = ((1, 16), (1, 32), (1, 64), (1, 128), (8, 128))
ZEROS = (0.85, 0.9, 0.95)
BUSY = 0.1  # of a processor, by other programs
COLUMNS: list[Any] = ["engine", {"name": "zeros", "format": "{:.0%}"}, "way"]
COLUMNS += [{"name": "largest difference", "format": "{:.1e}"}]
COLUMNS += [{"name": f"{batch} x {length}", "format": "{:,.2f}"} for batch, length in SHAPES]
SAFE_COLUMNS: list[Any] = ["model", "export"]
SAFE_COLUMNS += [{"name": name, "format": "{}"} for name in ("int8 layers", "layers with pairs that can overflow")]
SAFE_COLUMNS += [{"name": "accuracy on test, %", "format": "{:.1f}"}]
Run = Callable[[dict[str, Any]], Any]


def main(
    quickstart: Annotated[Path | None, typer.Argument(exists=True, file_okay=False)] = None,
    layers: int = 6,
    width: int = 384,
    seconds: Annotated[float, typer.Option(help="Of each way, in a cell.")] = 3.0,
) -> None:
    began, before = perf_counter(), seconds_of_others()
    rows = []
    with TemporaryDirectory() as scratch:
        for zeros in ZEROS:
            folder = Path(scratch) / str(zeros)
            save(folder, layers, width, zeros)
            ways = {"ONNX Runtime": in_onnxruntime(folder), "OpenVINO": in_openvino(folder)}
            for name, runs in ways.items():
                rows += compared(name, zeros, runs, seconds)
        opsets = {str(opset): session(to_onnx(folder, folder / str(opset), Options(opset=opset))) for opset in OPSETS}
        opset_rows = compared("ONNX Runtime", ZEROS[-1], dict(reversed(opsets.items())), seconds)
    busy = (seconds_of_others() - before) / (perf_counter() - began)
    amx = "amx_int8" in machine.instruction_sets()
    text = [
        f"int8 encoders with random weights, {layers} layers of width {width}. Columns are texts x tokens: "
        "milliseconds, lower quartiles, the ways of an engine in turns. Differences are those from the first way, in "
        "parts of the largest output.",
        "`zeros skipped` is OpenVINO's kernel for zeros."
        if amx
        else "This processor has no AMX, so OpenVINO's kernel for zeros is not measured: there is none without AMX.",
    ]
    if busy > BUSY:
        text.append(f"Other programs used {busy:.1f} processors meanwhile, so the times are too long and uneven.")
    note = f"instruction sets {', '.join(machine.instruction_sets())}; seed 0"
    made = common.made(note=note, libraries=("torch", "onnxruntime", "openvino", "pruneonce"))
    blocks = [
        *text,
        {"columns": COLUMNS, "rows": rows},
        {"heading": "Opsets"},
        {"columns": COLUMNS, "rows": opset_rows},
    ]
    if quickstart:
        blocks += [{"heading": "int8 that cannot overflow"}, {"columns": SAFE_COLUMNS, "rows": safe_rows(quickstart)}]
    tables.write("exports", {"title": "Exports before and after", "made": made, "blocks": blocks})


def safe_rows(quickstart: Path) -> list[list[Any]]:
    """Accuracy of the quickstart's int8 models in ONNX Runtime, as exported and with `--safe`."""
    task = recipe.load(str(quickstart / "run" / "recipe.yaml")).tasks["sentiment"]
    arms = quickstart / "run" / "tasks" / "sentiment"
    rows = []
    with TemporaryDirectory() as scratch:
        dense = stages.calibrate(arms / "dense", task, recipe.Calibrate(), Path(scratch) / "dense-int8")
        for name, model in (("dense, int8", dense), ("sparse, int8", arms / "int8")):
            for safe in (False, True):
                made = stages.export(model, Path(scratch) / f"{name}-{safe}", options=Options(safe=safe))
                counts = (read_provenance(made) or {})["saturation"]
                accuracy = stages.evaluate(made, task, splits=["test"])["test"]["accuracy"]
                rows.append([name, "safe" if safe else "usual", *counts.values(), 100 * accuracy])
    return rows


def save(folder: Path, layers: int, width: int, zeros: float) -> None:
    """Save an int8 encoder with random weights, a share of them zero anywhere."""
    torch.manual_seed(0)
    config = BertConfig(
        num_hidden_layers=layers, hidden_size=width, intermediate_size=4 * width, num_attention_heads=width // 32
    )
    model = AutoModel.from_config(config).eval()
    for module in quantization.quantizable(model).values():
        module.weight.data.masked_fill_(torch.rand_like(module.weight) < zeros, 0.0)
    for layer in quantization.insert(model, Quantization(), 1.0).values():
        layer.train()
    with torch.no_grad():
        model(**{name: torch.from_numpy(value) for name, value in batch_of((8, 32)).items()})
    folder.mkdir(parents=True)
    quantization.save(quantization.freeze(model), folder)
    quantization.unwrap(model)
    model.save_pretrained(folder)
    vocabulary = {"[PAD]": 0, "[UNK]": 1}  # export takes no more of a tokenizer than its inputs
    words = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    names = ["input_ids", "token_type_ids", "attention_mask"]
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", model_input_names=names).save_pretrained(folder)


def batch_of(shape: tuple[int, int]) -> dict[str, Any]:
    ids = np.random.default_rng(0).integers(1000, 30000, shape)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def in_onnxruntime(folder: Path) -> dict[str, Run]:
    file = to_onnx(folder, folder / "onnx")
    model = onnx.load(file)
    for node in model.graph.node:
        if node.op_type == "Sum":
            node.op_type = "Add"
    onnx.save(model, folder / "add.onnx")
    entry = {"optimization.disable_specified_optimizers": "SkipLayerNormFusion"}
    return {
        "before": session(folder / "add.onnx"),
        "before, fusion disabled": session(folder / "add.onnx", entry),
        "after, plain session": session(file),
    }


def in_openvino(folder: Path) -> dict[str, Run]:
    file = folder / "onnx" / "model.onnx"
    openvino.save_model(openvino.convert_model(file), folder / "before.xml", compress_to_fp16=False)
    after = convert(file, folder / "openvino")
    threads = torch.get_num_threads()
    ways = {"before": engine.open_model(folder / "before.xml", threads, False)}
    ways |= {"after": engine.open_model(after, threads, False), **engine.alternatives(after, threads)}
    return {name: partial(first_of, way) for name, way in ways.items()}


def first_of(way: Run, batch: dict[str, Any]) -> Any:
    return next(iter(way(batch).values()))


def session(file: Path, entries: dict[str, str] | None = None) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    for key, value in {"session.force_spinning_stop": "1", **(entries or {})}.items():
        options.add_session_config_entry(key, value)
    opened = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in opened.get_inputs()]
    return lambda batch: opened.run(None, {name: batch[name] for name in names})[0]


def compared(name: str, zeros: float, ways: dict[str, Run], seconds: float) -> list[list[Any]]:
    """Rows of an engine: the largest difference from the first way, and lower quartiles in milliseconds."""
    outputs = {way: run(batch_of((2, 40))) for way, run in ways.items()}
    expected = next(iter(outputs.values()))
    times: dict[str, list[float]] = {way: [] for way in ways}
    for shape in SHAPES:
        works = {way: [partial(run, batch_of(shape))] for way, run in ways.items()}
        for way, passes in timing.in_turns(works, seconds, rounds=20).items():
            times[way].append(timing.figures(passes, shape[0])["low"])
    largest = np.abs(expected).max()
    return [[name, zeros, way, float(np.abs(outputs[way] - expected).max() / largest), *times[way]] for way in ways]


if __name__ == "__main__":
    silence_libraries()
    typer.run(main)
