"""Paths in a run folder: docs/design.md, "Run folder".

A task's folder is `tasks/NAME` or, where the recipe has `seeds`, `tasks/NAME/seed-N` for each of them.
"""

from __future__ import annotations

import re
from pathlib import Path

from pruneonce.recipe import Recipe
from pruneonce.recipe.arms import ARMS, DENSE, SPARSE
from pruneonce.storage import SUFFIX
from pruneonce.system import durable

BENCHMARK = "benchmark.json"


def task_folder(recipe: Recipe, output: Path, task: str, seed: int) -> Path:
    """Return the folder of a task with a seed."""
    whole = output / "tasks" / task
    return whole / f"seed-{seed}" if recipe.seeds else whole


def first_folder(recipe: Recipe, output: Path, task: str) -> Path:
    """Return the folder of a task with the first seed, by which packed files, exports, timings and sweeps are made."""
    return task_folder(recipe, output, task, recipe.task_seeds[0])


def arm_models(recipe: Recipe, output: Path, task: str, seed: int) -> list[tuple[str, str | Path]]:
    """Return the arms of a task with a seed, and their models.

    A given teacher is the dense model. No seed changes it, so it counts as the first seed's alone.
    """
    folder = task_folder(recipe, output, task, seed)
    models: list[tuple[str, str | Path]] = [(arm, folder / arm) for arm in ARMS if (folder / arm).is_dir()]
    teacher = given_teacher(recipe, output, task)
    return [(DENSE, teacher), *models] if teacher and seed == recipe.task_seeds[0] else models


def given_teacher(recipe: Recipe, output: Path, task: str) -> str | Path | None:
    """Return the dense teacher that a task has without training one; None where the run trains it."""
    settings = recipe.tasks[task]
    if settings.teacher_model or not settings.has_teacher:
        return settings.teacher_model
    return output / "teacher" if recipe.prepare else recipe.model


def evaluation_file(folder: Path, arm: str) -> Path:
    """Return the file of an arm's measures, beside the model: a given teacher's folder is not ours to write to."""
    return folder / f"{arm}.json"


def outcome_file(folder: Path, arm: str) -> Path:
    """Return the file of an arm's outcome by example, of which certificates are made."""
    return folder / f"{arm}.outcome.json"


def packed_file(folder: Path, arm: str) -> Path:
    """Return the packed file of an arm."""
    return folder / f"{arm}{SUFFIX}"


def sizes_file(folder: Path, arm: str) -> Path:
    """Return the file with the report of `storage.pack` on an arm."""
    return folder / f"{arm}.packed.json"


def sizes_of(folder: Path, arm: str) -> dict[str, int] | None:
    """Return the bytes of an arm's model and encoder: packed, or of the dense model in fp32; None if not known."""
    sizes = durable.read_json(sizes_file(folder, SPARSE if arm == DENSE else arm))
    if sizes is None:
        return None
    encoder, model = sizes["parts"]["encoder"], sizes["parts"]["model"]
    if arm == DENSE:
        return {"bytes": model["dense_bytes"], "encoder": encoder["dense_bytes"]}
    return {"bytes": sizes["bytes"], "encoder": encoder["packed_bytes"], "limit": encoder["limit_bytes"]}


def sweep_file(folder: Path, arm: str) -> Path:
    """Return the file with the scores of a sweep's candidates."""
    return folder / f"{arm}.sweep.json"


def make_room_for_seeds(recipe: Recipe, output: Path) -> None:
    """Move the work of a run without `seeds` into its seed's folder, once there are other seeds.

    The result of a stage does not depend on its folder, so all of it stays valid. A run that is killed in the middle
    moves the rest when it goes on.
    """
    if not recipe.seeds:
        return
    for task in recipe.tasks:
        folder = first_folder(recipe, output, task)
        for path in [*folder.parent.glob("*")] if folder.parent.is_dir() else []:
            if not re.fullmatch(r"seed-\d+", path.name):
                folder.mkdir(exist_ok=True)
                path.replace(folder / path.name)
