"""What a run made, read off its folder: the content of summary.json, as docs/design.md describes it."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from pruneonce import modelfolder
from pruneonce.machine import processor
from pruneonce.recipe import Recipe
from pruneonce.storage import SUFFIX
from pruneonce.tasks import KINDS

# In the order in which they are shown: the reference, the rivals, ours.
ARMS = ("dense", "one-shot", "gradual", "sparse", "int8", "int8-ptq", "int4")

BENCHMARK = "benchmark.json"


def summarize(recipe: Recipe, output: Path) -> dict[str, Any]:
    """The summary of a finished run. `seconds` is the time spent in training, however often it was interrupted."""
    sparse = modelfolder.read_provenance(output / "sparse") or {}
    made = _stages(output)
    return {
        "name": recipe.name,
        "description": recipe.description,
        "model": recipe.model,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": sum(stage["seconds"] for stage in made),
        "machine": {
            "processor": processor(),
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            **{library: version(library) for library in ("pruneonce", "torch", "transformers")},
        },
        "sparsity": {
            "encoder": sparse["sparsity"]["encoder"],
            "model": sparse["sparsity"]["model"],
            "target": recipe.prune.sparsity,
        },
        "pattern": sparse["pattern"],
        "layers": sparse["sparsity"]["layers"],
        "stages": made,
        "results": [result for name in recipe.tasks for result in _results(recipe, output, name)],
        "benchmark": modelfolder.read_json(output / BENCHMARK),
    }


def _stages(output: Path) -> list[dict[str, Any]]:
    folders = [output / "teacher", output / "sparse", *sorted((output / "tasks").glob("*/*"))]
    found = []
    for folder in folders:
        made = modelfolder.read_provenance(folder)
        if made is None or "training" not in made:  # an export
            continue
        measured = modelfolder.read_json(folder / modelfolder.METRICS) or {"history": [], "final": {}}
        name = str(folder.relative_to(output))
        found.append({"name": name, "stage": made["stage"], "folder": name, **made["training"], **measured})
    return found


def _results(recipe: Recipe, output: Path, task: str) -> list[dict[str, Any]]:
    metric = recipe.tasks[task].metric
    found: list[dict[str, Any]] = []
    for arm, model in arms(recipe, output, task):
        everything = modelfolder.read_json(evaluation_file(output, task, arm))
        split = "test" if "test" in everything else "dev"
        made = modelfolder.read_provenance(model) or {"sparsity": {"encoder": 0.0}}
        value = everything[split][metric]
        sizes = modelfolder.read_json(sizes_file(output, task, "sparse" if arm == "dense" else arm))
        found.append(
            {
                "task": task,
                "arm": arm,
                "folder": str(Path(model).relative_to(output)) if isinstance(model, Path) else str(model),
                "sparsity": made["sparsity"]["encoder"],
                "metric": metric,
                "split": split,
                "examples": everything[split]["examples"],
                "value": value,
                "full_score": KINDS[recipe.tasks[task].kind].full_score,
                "recovery": value / found[0]["value"] if found and found[0]["value"] else 1.0,
                "size": sizes and _size(sizes, arm, packed_file(task, arm)),
                "all": everything,
            }
        )
    return found


def _size(packed: dict[str, Any], arm: str, file: str) -> dict[str, Any]:
    """Bytes of a packed model and of its encoder, or of the dense one in fp32, which has no packed file."""
    encoder, model = packed["parts"]["encoder"], packed["parts"]["model"]
    if arm == "dense":
        return {"file": None, "bytes": model["dense_bytes"], "encoder": encoder["dense_bytes"], "limit": None}
    return {
        "file": file,
        "bytes": packed["bytes"],
        "encoder": encoder["packed_bytes"],
        "limit": encoder["limit_bytes"],
    }


def arms(recipe: Recipe, output: Path, task: str) -> list[tuple[str, str | Path]]:
    """The arms of a task and their models. The dense one may be none of the run's."""
    folder = output / "tasks" / task
    found: list[tuple[str, str | Path]] = [(arm, folder / arm) for arm in ARMS if (folder / arm).is_dir()]
    given = given_teacher(recipe, output, task)
    return [("dense", given), *found] if given else found


def given_teacher(recipe: Recipe, output: Path, task: str) -> str | Path | None:
    """The dense teacher of a task that the run does not train for it; None where it does."""
    settings = recipe.tasks[task]
    if settings.teacher_model or settings.trains_teacher:
        return settings.teacher_model
    return output / "teacher" if recipe.prepare else recipe.model


def packed_file(task: str, arm: str) -> str:
    """Relative to the run's folder."""
    return f"tasks/{task}/{arm}{SUFFIX}"


def sizes_file(output: Path, task: str, arm: str) -> Path:
    """What `storage.pack` reports of an arm."""
    return output / "tasks" / task / f"{arm}.packed.json"


def evaluation_file(output: Path, task: str, arm: str) -> Path:
    """Beside the models, not in them: a teacher that was given is not ours to write to."""
    return output / "tasks" / task / f"{arm}.json"
