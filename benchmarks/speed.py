"""How fast dense, sparse and quantized models are in each engine; writes results/speed.md. Run it on an idle machine.

    python -m benchmarks.speed ../shared/data --run runs/int8/0.9

Of the run that `benchmarks.int8` made at 90 % zeros it takes sst2's models. BERT-Base's shape is made here, of
random weights, with 90 % zeros by magnitude and calibrated ranges: what it says is worthless, but it takes as long.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import typer

from benchmarks import common, tables
from pruneonce import recipe
from pruneonce.cli.verbosity import silence_libraries
from pruneonce.runs import quickstart
from pruneonce.system import machine

TEXT = (
    "Median milliseconds of a call (quartiles), and how many times faster than the dense model in the same engine. "
    "Columns are texts x tokens; the models of an engine take turns.",
    "`real` are 100 sentences of sst2: alone and without padding, or in batches sorted by length.",
)
CALIBRATE = recipe.Calibrate(examples=64, batch_size=16)


def main(data: common.Data, run: Path = Path("runs/int8/0.9")) -> None:
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
    instructions = ", ".join(machine.instruction_sets())
    libraries = ("torch", "onnxruntime", "openvino", "pruneonce")
    made = common.made(note=f"instruction sets {instructions}; one run, inputs of seed 0", libraries=libraries)
    tables.write(
        "speed", {"title": "Speed in the engines", "made": made, "blocks": [*TEXT, exact(found)], "speed": found}
    )


def exact(found: dict[str, Any]) -> str:
    """In which precision each engine calculated what is not quantized."""
    used = dict.fromkeys((row["engine"], row["precision"]) for one in found.values() for row in one["rows"])
    precisions = ", ".join(f"{precision} in {engine}" for engine, precision in used)
    return f"What is not quantized is calculated in {precisions}."


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


if __name__ == "__main__":
    silence_libraries()
    typer.run(main)
