"""Stages of a run that another recipe would have made otherwise.

A stage is known by its key (`pruneonce.stages.keys`). Here the keys of a whole recipe are calculated before anything is
read, with names in place of contents: a model, a corpus or a file under another name counts as changed.
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

# A stage of the run by the name of its folder; an arm by task, seed and name.
Stage = str | tuple[str, int, str]


def differences(before: Any, now: Any, path: str = "") -> list[str]:
    """Return the dotted names of the entries that differ."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [path or "recipe"]
    names = []
    for key in sorted({*before, *now}):
        names += differences(before.get(key), now.get(key), f"{path}.{key}".lstrip("."))
    return names


def stale(output: Path, before: dict[str, Any], now: Recipe) -> list[str]:
    """Return the folders of `output`, finished or begun, that the recipe `now` would make otherwise, or not at all.

    Args:
        output: the run folder.
        before: the recipe that made the folders, as `recipe.yaml` has it.
        now: the recipe to go on with.

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
    # Sweeps, packed files and exports are made with the first seed, so the first seed has to stay.
    other_seeds = earlier.task_seeds[0] != now.task_seeds[0] or bool(earlier.seeds and not now.seeds)
    stages = {path.as_posix(): _stage(path, earlier) for path in _stage_folders(output)}
    return [
        name
        for name, stage in stages.items()
        if old.get(stage) != new.get(stage) or (other_seeds and not isinstance(stage, str))
    ]


def stage_keys(recipe: Recipe) -> dict[Stage, str]:
    """Return the key of each stage of a recipe, with names in place of contents.

    A swept arm has one key of all its candidates and of the metric that chooses among them.
    """
    keys_of_stages: dict[Stage, str] = {}

    def key_of_model(source: str) -> str:
        return key_of(source, recipe.roles.given()) if recipe.roles else source

    dense = key_of_model(recipe.model)
    if recipe.sparse:
        keys_of_stages["sparse"] = keys.take(key_of_model(recipe.sparse))
    elif recipe.pretraining:
        text, settings = recipe.pretraining
        corpus = key_of(corpus_settings(text))
        if recipe.prepare:
            dense = keys_of_stages["teacher"] = keys.prepare(dense, corpus, recipe.prepare, recipe.seed)
        start, teacher = (key_of_model(recipe.sparse_model), dense) if recipe.sparse_model else (dense, None)
        keys_of_stages["sparse"] = keys.prune(start, corpus, settings, recipe.seed, teacher=teacher)
        if recipe.baselines.one_shot:
            keys_of_stages["one-shot"] = keys.prune_one_shot(dense, settings, recipe.seed)
    for task in recipe.tasks:
        for seed in recipe.task_seeds:
            arms = _arm_keys(recipe, task, seed, {**keys_of_stages, DENSE: dense})
            keys_of_stages |= {(task, seed, arm): key for arm, key in arms.items()}
    return keys_of_stages


def _arm_keys(recipe: Recipe, name: str, seed: int, models: dict[Any, str]) -> dict[str, str]:
    """Return the keys of a task's arms with a seed.

    Args:
        recipe: the run.
        name: the task.
        seed: one of the task's seeds.
        models: keys of the run's models, by their names in `Arm.from_run`.
    """
    task = recipe.tasks[name]
    keys_of_arms: dict[str, str] = {}
    teacher = (task.teacher_model or models[DENSE]) if task.has_teacher else None
    for arm, settings in arms_of(recipe, name):
        source = {DENSE: teacher, **keys_of_arms}[arm.from_arm] if arm.from_arm else models[arm.from_run]
        assert source is not None
        candidates = settings.candidates() if isinstance(settings, Swept) else [settings]
        by_candidate = [_arm_key(arm.stage_name, task, source, teacher, candidate, seed) for candidate in candidates]
        keys_of_arms[arm.name] = by_candidate[0] if len(candidates) == 1 else key_of(by_candidate, task.metric)
        teacher = teacher or keys_of_arms[arm.name]  # the dense arm is the first
    return keys_of_arms


def _arm_key(stage: str, task: Any, source: str, teacher: str | None, settings: Any, seed: int) -> str:
    if not isinstance(settings, Training):
        return keys.calibrate(source, task_key(task, by_name=True), settings, seed)
    taught = isinstance(settings, Transfer)
    settings = task.completed(settings) if isinstance(settings, Transfer) else settings
    data = task_key(task, taught, by_name=True)
    return keys.train_on_task(stage, source, data, settings, seed, teacher if taught else None)


def _stage_folders(output: Path) -> list[Path]:
    """Return the folders of stages, finished or begun, relative to `output`."""
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
    """Return the stage that a folder of the run belongs to; an export belongs to the stage of its model."""
    if place.parts[0] != "tasks":
        return place.name
    inside = re.fullmatch(r"seed-(\d+)", place.parts[2]) if len(place.parts) > 3 else None
    seed = int(inside[1]) if inside else recipe.task_seeds[0]
    arms = {f"{arm}-{format}": arm for arm in ARMS for format in FORMATS}
    return place.parts[1], seed, arms.get(place.name, place.name)
