"""Speed of the pruneonce runtime beside OpenVINO and ONNX Runtime; writes results/engine.md. Needs an idle machine.

    python -m benchmarks.engine.speed --output runs/engine

Models have random weights in the shapes of MiniLM and BERT-Base, zeros by magnitude in a pattern, and calibrated
ranges: their answers are worthless, and they take as long as trained ones. All engines take turns in one process, each
in the fastest of its settings that are tried here, from token ids to logits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import common, tables
from pruneonce.cli.verbosity import silence_libraries
from pruneonce.system import machine
from pruneonce.wording import percent

SHAPES = {
    "MiniLM": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    "BERT-Base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
}
PATTERNS = [("1x4", 0.9), ("unstructured", 0.9), ("6:64", 1 - 6 / 64), ("1x4", 0.8), ("1x4", 0.95), ("dense", 0.0)]
CELLS = [(1, 8), (1, 16), (1, 32), (1, 64), (1, 128), (1, 384), (8, 128), (32, 128)]
BFLOAT16 = "avx512bf16"  # attention in bfloat16, where it is asked for
SPARE = 0.2  # processors that other programs may use before a cell counts as disturbed

Batch = dict[str, np.ndarray]
Run = Callable[[Batch], np.ndarray]  # to logits


def main(
    output: Annotated[Path, typer.Option(help="Folder of the models; kept, and used again.")] = Path("runs/engine"),
    threads: Annotated[list[int] | None, typer.Option(help="Threads of every engine; may be repeated.")] = None,
    seconds: Annotated[float, typer.Option(help="Time of each engine in each cell.")] = 1.0,
    only: Annotated[str | None, typer.Option(help="One shape: MiniLM or BERT-Base.")] = None,
) -> None:
    rows: list[dict[str, Any]] = []
    for shape in [only] if only else SHAPES:
        for pattern, sparsity in PATTERNS:
            folder = model(output, shape, pattern, sparsity)
            for number in threads or [1, 2]:
                rows += measure(folder, number, seconds, {"shape": shape, "pattern": pattern, "sparsity": sparsity})
    result = {
        "title": "The pruneonce runtime beside OpenVINO and ONNX Runtime",
        "made": common.made(
            note=f"instruction sets {', '.join(machine.instruction_sets())}; inputs of seed 0",
            libraries=("torch", "onnxruntime", "openvino", "pruneonce"),
        ),
        "engine": rows,
        "blocks": [*TEXT, *page(rows)],
    }
    tables.write("engine", result)


TEXT = (
    "Median milliseconds of a call from token ids to logits; columns are texts x tokens. `ratio` is the "
    "runtime's time over that of the faster of the two other engines, each in the faster of its settings.",
    "OpenVINO: as it comes, and with activations in fp32. ONNX Runtime: as it comes, and without the fusion of "
    "normalization and residual. A star marks a cell in which other programs used the processors.",
)


def model(output: Path, shape: str, pattern: str, sparsity: float) -> Path:
    """A quantized model folder with the files of every engine beside its weights."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    from pruneonce import quantization, stages, storage
    from pruneonce.config.pattern import Pattern
    from pruneonce.models.architectures import prunable_weights
    from pruneonce.recipe import Quantization
    from pruneonce.runs import quickstart
    from pruneonce.sparsity import apply_masks, magnitude_masks

    folder = output / f"{shape}-{pattern}-{sparsity:.3f}".replace(":", "-")
    if not (folder / "model.pruneonce").is_file():
        torch.manual_seed(0)
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer = AutoTokenizer.from_pretrained(quickstart.packaged_model())
        network = BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), **SHAPES[shape])).eval()
        if sparsity:
            weights = prunable_weights(network)
            apply_masks(weights, magnitude_masks(weights, sparsity, "uniform", pattern=Pattern.parse(pattern)))
        learning = quantization.insert(network, Quantization(), 1.0)
        for layer in learning.values():
            layer.train()
        with torch.no_grad():
            network(input_ids=torch.from_numpy(batch(8, 64)["input_ids"]))
        fixed = quantization.freeze(network.eval())
        quantization.save(fixed, folder)
        quantization.unwrap(network)
        network.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        for format in ("onnx", "openvino"):
            stages.export(folder, folder / format, format=format)
        storage.pack([folder], folder / "model.pruneonce", "fp32")
    return folder


def batch(texts: int, tokens: int) -> Batch:
    ids = np.random.default_rng(0).integers(1000, 30000, (texts, tokens))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def engines(folder: Path, threads: int) -> Iterator[tuple[str, Run]]:
    """Every engine in every setting, by the engine's name and the setting."""
    import onnxruntime
    import openvino
    from pruneonce_runtime import native

    for setting, entries in (
        ("", {}),
        ("no fusion", {"optimization.disable_specified_optimizers": "SkipLayerNormFusion"}),
    ):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.force_spinning_stop", "1")
        for key, value in entries.items():
            options.add_session_config_entry(key, value)
        session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx", options, ["CPUExecutionProvider"])
        names = [one.name for one in session.get_inputs()]
        yield f"onnxruntime {setting}".strip(), lambda b, s=session, n=names: s.run(None, {k: b[k] for k in n})[0]
    core = openvino.Core()
    for setting, more in (("", {}), ("fp32", {"INFERENCE_PRECISION_HINT": "f32"})):
        properties = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}
        compiled = core.compile_model(folder / "openvino" / "openvino_model.xml", "CPU", {**properties, **more})
        names = [one.get_any_name() for one in compiled.inputs]
        yield f"openvino {setting}".strip(), lambda b, c=compiled, n=names: c({k: b[k] for k in n})[0]
    for instructions in [None, *(name for name in native.instruction_sets() if name == BFLOAT16)]:
        yield "pruneonce" if instructions is None else "pruneonce bfloat16", runtime(folder, threads, instructions)


def runtime(folder: Path, threads: int, instructions: str | None) -> Run:
    import pruneonce_runtime
    from pruneonce_runtime.reference import logits

    loaded = pruneonce_runtime.load(
        folder / "model.pruneonce", threads=threads, instructions=instructions, verify=False
    )
    engine, network = loaded._parts.engine, loaded.network

    def run(b: Batch) -> np.ndarray:
        texts, tokens = b["input_ids"].shape
        offsets = np.arange(texts + 1, dtype=np.int32) * np.int32(tokens)
        hidden = engine.forward(b["input_ids"].astype(np.int32).ravel(), offsets, None)
        return logits(network, engine, hidden, offsets)

    return run


def measure(folder: Path, threads: int, seconds: float, what: dict[str, Any]) -> list[dict[str, Any]]:
    from pruneonce.engines.timing import figures, in_turns
    from pruneonce.system.machine import seconds_of_others

    runs = dict(engines(folder, threads))
    rows = []
    for texts, tokens in CELLS:
        inputs = batch(texts, tokens)
        outputs = {name: run(inputs) for name, run in runs.items()}
        began, before = perf_counter(), seconds_of_others()
        passes = in_turns({name: [partial(run, inputs)] for name, run in runs.items()}, seconds, 4)
        busy = (seconds_of_others() - before) / (perf_counter() - began)
        for name in runs:
            difference = float(np.abs(outputs[name] - outputs["onnxruntime"]).max())
            cell = {**what, "threads": threads, "texts": texts, "tokens": tokens, "engine": name}
            disturbed = threads + busy > (os.cpu_count() or 1) + SPARE
            rows.append({**cell, **figures(passes[name], texts), "difference": difference, "disturbed": disturbed})
        best = {name: round(row["milliseconds"], 3) for name, row in zip(runs, rows[-len(runs) :], strict=True)}
        print(what, threads, f"{texts}x{tokens}", best, f"others {busy:.2f}", flush=True)
    return rows


def page(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A table for each shape and number of threads: milliseconds of each engine, and the runtime's ratio."""
    for shape, threads in dict.fromkeys((row["shape"], row["threads"]) for row in rows):
        yield {"heading": f"{shape}, {threads} thread{'s' * (threads > 1)}"}
        columns = [{"name": f"{texts}x{tokens}", "format": "{}"} for texts, tokens in CELLS]
        body = []
        for pattern, sparsity in dict.fromkeys((row["pattern"], row["sparsity"]) for row in rows):
            chosen = [
                r
                for r in rows
                if (r["shape"], r["threads"], r["pattern"], r["sparsity"]) == (shape, threads, pattern, sparsity)
            ]
            if not chosen:
                continue
            title = "none" if pattern == "dense" else f"{pattern}, {percent(sparsity)}"
            best = {name: fastest(chosen, name) for name in dict.fromkeys(title_of(row["engine"]) for row in chosen)}
            for name, cells in best.items():
                body.append([title, name, *(f"{c['milliseconds']:.3g}{'*' * c['disturbed']}" for c in cells)])
            for name, cells in best.items():
                if not name.startswith("pruneonce"):
                    continue
                ratios = [
                    c["milliseconds"] / min(a["milliseconds"], b["milliseconds"])
                    for a, b, c in zip(best["openvino"], best["onnxruntime"], cells, strict=True)
                ]
                body.append([title, name.replace("pruneonce", "ratio"), *(f"{ratio:.2f}" for ratio in ratios)])
        yield {"columns": ["zeros", "engine", *columns], "rows": body}


def title_of(engine: str) -> str:
    """The engine of a setting; bfloat16, which changes what the runtime gives, counts as one of its own."""
    return engine if engine.startswith("pruneonce") else engine.split()[0]


def fastest(rows: list[dict[str, Any]], title: str) -> list[dict[str, Any]]:
    """Of an engine's settings the faster one, in each cell."""
    mine = [row for row in rows if title_of(row["engine"]) == title]
    return [
        min((row for row in mine if (row["texts"], row["tokens"]) == cell), key=lambda row: row["milliseconds"])
        for cell in CELLS
    ]


if __name__ == "__main__":
    silence_libraries()
    typer.run(main)
