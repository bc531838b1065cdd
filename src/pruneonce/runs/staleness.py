"""Which stages of a run another recipe would have made otherwise.

A stage is known by its key (`pruneonce.stages.keys`). Here the keys of a whole recipe are calculated before anything is
read, with names in the place of contents: of a model, a corpus or a file that lies elsewhere now, it counts as changed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pruneonce.config.validation import validate
from pruneonce.data.keys import corpus_settings, task_key
from pruneonce.errors import UserError
from pruneonce.export import FORMATS
from pruneonce.models import PROVENANCE, key_of
from pruneonce.recipe import Recipe, Swept, Training, Transfer
from pruneonce.recipe.arms import ARMS, DENSE, arms_of
from pruneonce.stages import keys
from pruneonce.system import durable

# Of a run: the name of its folder; of an arm: task, seed, arm.
Stage = str | tuple[str, int, str]


def differences(before: Any, now: Any, path: str = "") -> list[str]:
    """Dotted names of the entries that differ."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [path or "recipe"]
    names = []
    for key in sorted({*before, *now}):
        names += differences(before.get(key), now.get(key), f"{path}.{key}".lstrip("."))
    return names


def stale(output: Path, before: dict[str, Any], now: Recipe) -> list[str]:
    """The folders of `output`, finished or begun, that the recipe `now` would make otherwise, or not at all.

    Args:
        before: the recipe that made them, as `recipe.yaml` has it.

    Raises:
        UserError: `before` is not a recipe for this version.
    """
    try:
        earlier: Recipe = validate(Recipe, before)
    except UserError as error:
        raise UserError(
            f"{output / 'recipe.yaml'} is not a recipe of this version ({error}); choose another --output"
        ) from None
    old, new = stage_keys(earlier), stage_keys(now)
    # Sweeps, packed files and exports are made with the first seed, so that one stays the first.
    other_seeds = earlier.task_seeds[0] != now.task_seeds[0] or bool(earlier.seeds and not now.seeds)
    stages = {path.as_posix(): _stage(path, earlier) for path in _begun(output)}
    return [
        name
        for name, stage in stages.items()
        if old.get(stage) != new.get(stage) or (other_seeds and not isinstance(stage, str))
    ]


def stage_keys(recipe: Recipe) -> dict[Stage, str]:
    """The key of each stage of a recipe, with names in the place of contents.

    An arm that is swept has one of all its candidates and of the metric that chooses among them.
    """
    by_stage: dict[Stage, str] = {}
    corpus, dense = key_of(corpus_settings(recipe.corpus)), recipe.model
    if recipe.prepare:
        dense = by_stage["teacher"] = keys.prepare(dense, corpus, recipe.prepare, recipe.seed)
    start, teacher = (recipe.sparse_model, dense) if recipe.sparse_model else (dense, None)
    by_stage["sparse"] = keys.prune(start, corpus, recipe.prune, recipe.seed, teacher=teacher)
    if recipe.baselines.one_shot:
        by_stage["one-shot"] = keys.prune_one_shot(dense, recipe.prune, recipe.seed)
    for task in recipe.tasks:
        for seed in recipe.task_seeds:
            arms = _arm_keys(recipe, task, seed, {**by_stage, DENSE: dense})
            by_stage |= {(task, seed, arm): key for arm, key in arms.items()}
    return by_stage


def _arm_keys(recipe: Recipe, name: str, seed: int, models: dict[Any, str]) -> dict[str, str]:
    """
    Args:
        models: keys of the run's models, by the name that `Arm.from_run` has for them.
    """
    task = recipe.tasks[name]
    by_arm: dict[str, str] = {}
    teacher = (task.teacher_model or models[DENSE]) if task.has_teacher else None
    for arm, settings in arms_of(recipe, name):
        source = by_arm[arm.from_arm] if arm.from_arm else models[arm.from_run]
        candidates = settings.candidates() if isinstance(settings, Swept) else [settings]
        by_candidate = [_arm_key(arm.stage_name, task, source, teacher, one, seed) for one in candidates]
        by_arm[arm.name] = by_candidate[0] if len(candidates) == 1 else key_of(by_candidate, task.metric)
        teacher = teacher or by_arm[arm.name]  # the dense arm is the first
    return by_arm


def _arm_key(stage: str, task: Any, source: str, teacher: str | None, settings: Any, seed: int) -> str:
    if not isinstance(settings, Training):
        return keys.calibrate(source, task_key(task, by_name=True), settings, seed)
    taught = isinstance(settings, Transfer)
    settings = task.completed(settings) if isinstance(settings, Transfer) else settings
    data = task_key(task, taught, by_name=True)
    return keys.train_on_task(stage, source, data, settings, seed, teacher if taught else None)


def _begun(output: Path) -> list[Path]:
    """The folders of stages, finished or begun, relative to `output`."""
    tasks = output / "tasks"
    places = [output / "teacher", output / "sparse", output / "one-shot"]
    places += sorted([*tasks.glob("*/*"), *tasks.glob("*/seed-*/*")])
    places = [path.with_name(re.sub(r"\.(partial|sweep|sweep\.json)$", "", path.name)) for path in places]
    return [path.relative_to(output) for path in dict.fromkeys(places) if _is_begun(path)]


def _is_begun(folder: Path) -> bool:
    begun = (durable.partial(folder), folder.with_name(f"{folder.name}.sweep"))
    noted = (folder / PROVENANCE, folder.with_name(f"{folder.name}.sweep.json"))
    return any(path.is_dir() for path in begun) or any(path.is_file() for path in noted)


def _stage(place: Path, recipe: Recipe) -> Stage:
    """The stage that a folder of the run belongs to; an export to that of its model."""
    if place.parts[0] != "tasks":
        return place.name
    inside = re.fullmatch(r"seed-(\d+)", place.parts[2]) if len(place.parts) > 3 else None
    seed = int(inside[1]) if inside else recipe.task_seeds[0]
    arms = {f"{arm}-{format}": arm for arm in ARMS for format in FORMATS}
    return place.parts[1], seed, arms.get(place.name, place.name)
