"""Where a run keeps what it makes of its tasks: docs/design.md, "Run folder".

A task's folder is `tasks/NAME` or, where the recipe has `seeds`, `tasks/NAME/seed-N` for each of them.
"""

from __future__ import annotations

import re
from pathlib import Path

from pruneonce.recipe import Recipe
from pruneonce.recipe.arms import ARMS, DENSE
from pruneonce.storage import SUFFIX

BENCHMARK = "benchmark.json"


def task_folder(recipe: Recipe, output: Path, task: str, seed: int) -> Path:
    whole = output / "tasks" / task
    return whole / f"seed-{seed}" if recipe.seeds else whole


def first_folder(recipe: Recipe, output: Path, task: str) -> Path:
    """That of the first seed, with which packed files, exports, timings and sweeps are made."""
    return task_folder(recipe, output, task, recipe.task_seeds[0])


def arm_models(recipe: Recipe, output: Path, task: str, seed: int) -> list[tuple[str, str | Path]]:
    """The arms of a task with a seed, and their models. A teacher that was given is the dense one; no seed changes it,
    so it counts as the first seed's alone."""
    folder = task_folder(recipe, output, task, seed)
    models: list[tuple[str, str | Path]] = [(arm, folder / arm) for arm in ARMS if (folder / arm).is_dir()]
    given = given_teacher(recipe, output, task)
    return [(DENSE, given), *models] if given and seed == recipe.task_seeds[0] else models


def given_teacher(recipe: Recipe, output: Path, task: str) -> str | Path | None:
    """The dense teacher of a task that the run does not train for it; None where it does."""
    settings = recipe.tasks[task]
    if settings.teacher_model or not settings.has_teacher:
        return settings.teacher_model
    return output / "teacher" if recipe.prepare else recipe.model


def evaluation_file(folder: Path, arm: str) -> Path:
    """Beside the models, not in them: a teacher that was given is not ours to write to."""
    return folder / f"{arm}.json"


def packed_file(folder: Path, arm: str) -> Path:
    return folder / f"{arm}{SUFFIX}"


def sizes_file(folder: Path, arm: str) -> Path:
    """What `storage.pack` reports of an arm."""
    return folder / f"{arm}.packed.json"


def sweep_file(folder: Path, arm: str) -> Path:
    """What the candidates of a sweep came to."""
    return folder / f"{arm}.sweep.json"


def make_room_for_seeds(recipe: Recipe, output: Path) -> None:
    """Move what a run without `seeds` made into its seed's folder, once there are others beside it.

    What a stage makes does not depend on its folder, so all of it stays valid. A run that was killed in the middle of
    this moves the rest when it goes on.
    """
    if not recipe.seeds:
        return
    for task in recipe.tasks:
        folder = first_folder(recipe, output, task)
        for path in [*folder.parent.glob("*")] if folder.parent.is_dir() else []:
            if not re.fullmatch(r"seed-\d+", path.name):
                folder.mkdir(exist_ok=True)
                path.replace(folder / path.name)
