"""Which stages of a run another recipe would have made otherwise."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pruneonce.data.keys import NOT_DATA
from pruneonce.models import PROVENANCE
from pruneonce.recipe.merging import merge
from pruneonce.system import durable

# Keys of a recipe that no stage depends on.
NO_INPUT = ("name", "description", "report_to", "corpus.processes", "pack", "export", "benchmark")
QUANTIZED = ("int8-ptq", "int8", "int4")  # the longer name first: exports are called ARM-FORMAT


def differences(before: Any, now: Any, path: str = "") -> list[str]:
    """Dotted names of the entries that differ."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [path or "recipe"]
    found = []
    for key in sorted({*before, *now}):
        found += differences(before.get(key), now.get(key), f"{path}.{key}".lstrip("."))
    return found


def stale(output: Path, before: dict[str, Any], now: dict[str, Any], different: list[str]) -> list[str]:
    """The folders of `output`, finished or begun, that the recipe `now` would make otherwise, or not at all.

    Args:
        before: the recipe that made them.
        different: what `differences` found.
    """
    tasks = output / "tasks"
    places = [output / "teacher", output / "sparse", output / "one-shot"]
    places += sorted([*tasks.glob("*/*"), *tasks.glob("*/seed-*/*")])
    places = [path.with_name(re.sub(r"\.(partial|sweep|sweep\.json)$", "", path.name)) for path in places]
    made = [path for path in dict.fromkeys(places) if _is_begun(path)]
    names = [path.relative_to(output).as_posix() for path in made]
    return [
        name
        for name in names
        if any(_matches(one, two) for one in _inputs(name, before) for two in different)
        or _is_of_another_seed(name, before, now)
    ]


def _is_begun(folder: Path) -> bool:
    begun = (durable.partial(folder), folder.with_name(f"{folder.name}.sweep"))
    noted = (folder / PROVENANCE, folder.with_name(f"{folder.name}.sweep.json"))
    return any(path.is_dir() for path in begun) or any(path.is_file() for path in noted)


def _is_of_another_seed(stage: str, before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Seeds may be added, but the first one stays the first: sweeps, packed files and exports are made with it."""
    if not stage.startswith("tasks/"):
        return False
    old, new = (recipe.get("seeds") or [recipe.get("seed")] for recipe in (before, now))
    if old[0] != new[0] or (before.get("seeds") and not now.get("seeds")):
        return True
    return any(f"/seed-{seed}/" in stage for seed in set(old) - set(new))


def _inputs(stage: str, recipe: dict[str, Any]) -> set[str]:
    """The keys of the recipe that a stage depends on, those of the models that it starts from included."""
    dense = {"model", "seed", "prepare", *(["corpus"] if recipe.get("prepare") else [])}
    sparse = dense | {"corpus", "prune", "sparse_model"}
    one_shot = dense | {"prune.sparsity", "prune.allocation", "baselines.one_shot"}
    whole = {"teacher": dense | {"corpus"}, "sparse": sparse, "one-shot": one_shot}
    if stage in whole:
        return whole[stage]
    task, arm = stage.split("/")[1], stage.split("/")[-1]
    teacher = dense | {"teacher", f"tasks.{task}.teacher", f"tasks.{task}.teacher_model"}
    teacher |= {f"tasks.{task}.{key}" for key in recipe["tasks"][task] if key not in NOT_DATA}
    metric = {f"tasks.{task}.metric"}  # which chooses where there is a sweep
    teacher |= metric if _is_swept(recipe, task, "teacher") else set()
    transfer = teacher | {"transfer", f"tasks.{task}.transfer"}
    transfer |= metric if _is_swept(recipe, task, "transfer") else set()
    gradual = teacher | {"baselines.gradual"}
    gradual |= metric if ((recipe.get("baselines") or {}).get("gradual") or {}).get("sweep") else set()
    arms = {
        "dense": teacher,
        "sparse": transfer | sparse,
        "one-shot": transfer | one_shot,
        "gradual": gradual,
    }
    if arm in arms:
        return arms[arm]
    quantized = next(name for name in QUANTIZED if arm.startswith(name))
    return transfer | sparse | {f"quantize.{quantized.replace('-', '_')}", f"tasks.{task}.quantize"}


def _is_swept(recipe: dict[str, Any], task: str, section: str) -> bool:
    """Whether the settings of a task, its own changes included, are swept."""
    own = (recipe.get("tasks") or {}).get(task) or {}
    given = section == "teacher" and own.get("teacher_model")
    return bool(not given and merge(recipe.get(section) or {}, own.get(section) or {}).get("sweep"))


def _matches(key: str, other: str) -> bool:
    """Whether one is the other, or inside it."""
    if other in NO_INPUT:
        return False
    return key == other or key.startswith(f"{other}.") or other.startswith(f"{key}.")
