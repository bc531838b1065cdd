"""How fast dense, sparse and quantized models are in each engine; writes results/speed.md. Run it on an idle machine.

    python benchmarks/speed.py ../shared/data --run runs/int8/0.9

Of the run that `benchmarks/int8.py` made at 90 % zeros it takes sst2's models. BERT-Base's shape is made here, of
random weights, with 90 % zeros by magnitude and calibrated ranges: what it says is worthless, but it takes as long.
"""

import json
import shlex
import sys
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from pruneonce import recipe
from pruneonce.cli.main import silence_libraries
from pruneonce.runs import quickstart

RESULTS = Path(__file__).parent / "results"
CALIBRATE = recipe.Calibrate(examples=64, batch_size=16)


def main(
    data: Annotated[Path, typer.Argument(exists=True, file_okay=False)], run: Path = Path("runs/int8/0.9")
) -> None:
    from pruneonce import stages

    dev = data / "sst2" / "dev.jsonl"
    texts = [json.loads(line)["sentence"] for line in dev.read_text(encoding="utf-8").splitlines()]
    settings = recipe.Benchmark(batch_sizes=[1, 32], lengths=[32, 128], seconds=1.0, texts=100)
    found = {}
    models: dict[str, str | Path] = {arm: run / "tasks" / "sst2" / arm for arm in ("dense", "sparse", "int8", "int4")}
    found["MiniLM, sst2"] = stages.benchmark(models, settings, texts)
    with TemporaryDirectory() as scratch:
        large: dict[str, str | Path] = dict(bert_base(Path(scratch), dev))
        found["BERT-Base's shape, random weights"] = stages.benchmark(large, settings, texts)
    lines = heading(found)
    for name, benchmark in found.items():
        lines += ["", f"## {name}", "", *table(benchmark)]
    (RESULTS / "speed.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (RESULTS / "speed.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def bert_base(folder: Path, dev: Path) -> dict[str, Path]:
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    from pruneonce import stages
    from pruneonce.models.architectures import prunable_weights
    from pruneonce.sparsity import apply_masks, magnitude_masks

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(quickstart.packaged_model())
    model = BertForSequenceClassification(BertConfig())
    for name in ("dense", "sparse"):
        if name == "sparse":
            weights = prunable_weights(model)
            apply_masks(weights, magnitude_masks(weights, 0.9, "uniform"))
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    task = recipe.Classification(train=str(dev), dev=str(dev), text="sentence")
    int8 = stages.calibrate(folder / "sparse", task, CALIBRATE, folder / "int8")
    return {"dense": folder / "dense", "sparse": folder / "sparse", "int8": int8}


def heading(found: dict[str, Any]) -> list[str]:
    machine = next(iter(found.values()))["machine"]
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "onnxruntime", "openvino", "pruneonce"))
    used = dict.fromkeys((row["engine"], row["precision"]) for one in found.values() for row in one["rows"])
    precisions = ", ".join(f"{precision} in {engine}" for engine, precision in used)
    return [
        "# Speed in the engines",
        "",
        f"`{shlex.join(['python', *sys.argv])}`, {date.today()}, {machine['processor']}, {machine['threads']} threads, "
        f"instruction sets {', '.join(machine['instructions'])}; {versions}; one run, inputs of seed 0.",
        "",
        "Median milliseconds a call (quartiles), and how many times faster than the dense model in the same engine. "
        "Models of an engine take turns. `real`: 100 sentences of sst2, alone without padding or in batches sorted by "
        f"length. What is not quantized is calculated in {precisions}.",
    ]


def table(benchmark: dict[str, Any]) -> list[str]:
    rows = benchmark["rows"]
    cells = list(dict.fromkeys((row["batch"], row["length"]) for row in rows))
    lines = [
        "| engine | model | " + " | ".join(f"{batch} x {length}" for batch, length in cells) + " |",
        "|---" * (len(cells) + 2) + "|",
    ]
    by_place = {(row["engine"], row["model"], row["batch"], row["length"]): row for row in rows}
    for engine, model in dict.fromkeys((row["engine"], row["model"]) for row in rows):
        shown = [cell(by_place[engine, model, *place]) for place in cells]
        lines.append(f"| {engine} | {model} | {' | '.join(shown)} |")
    return lines


def cell(row: dict[str, Any]) -> str:
    median, low, high = (milliseconds(row[name]) for name in ("milliseconds", "low", "high"))
    return f"{median} ({low}-{high}) {row['speedup']:.2f}x"


def milliseconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    silence_libraries()
    typer.run(main)
