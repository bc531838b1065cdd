"""Which stages of a run another recipe would have made otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pruneonce import modelfolder
from pruneonce.data.keys import NOT_DATA

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


def stale(output: Path, before: dict[str, Any], different: list[str]) -> list[str]:
    """The folders of `output`, finished or begun, whose inputs are among `different`.

    Args:
        before: the recipe that made them.
        different: what `differences` found.
    """
    places = [output / "teacher", output / "sparse", output / "one-shot", *sorted((output / "tasks").glob("*/*"))]
    places = [path.with_name(path.name.removesuffix(".partial")) for path in places]
    made = [path for path in dict.fromkeys(places) if _is_begun(path)]
    names = [path.relative_to(output).as_posix() for path in made]
    return [name for name in names if any(_matches(one, two) for one in _inputs(name, before) for two in different)]


def _is_begun(folder: Path) -> bool:
    return (folder / modelfolder.PROVENANCE).is_file() or modelfolder.partial(folder).is_dir()


def _inputs(stage: str, recipe: dict[str, Any]) -> set[str]:
    """The keys of the recipe that a stage depends on, those of the models that it starts from included."""
    dense = {"model", "seed", "prepare", *(["corpus"] if recipe.get("prepare") else [])}
    sparse = dense | {"corpus", "prune"}
    one_shot = dense | {"prune.sparsity", "prune.allocation", "baselines.one_shot"}
    whole = {"teacher": dense | {"corpus"}, "sparse": sparse, "one-shot": one_shot}
    if stage in whole:
        return whole[stage]
    _, task, arm = stage.split("/")
    teacher = dense | {"teacher", f"tasks.{task}.teacher", f"tasks.{task}.teacher_model"}
    teacher |= {f"tasks.{task}.{key}" for key in recipe["tasks"][task] if key not in NOT_DATA}
    transfer = teacher | {"transfer", f"tasks.{task}.transfer"}
    arms = {
        "dense": teacher,
        "sparse": transfer | sparse,
        "one-shot": transfer | one_shot,
        "gradual": teacher | {"baselines.gradual"},
    }
    if arm in arms:
        return arms[arm]
    quantized = next(name for name in QUANTIZED if arm.startswith(name))
    return transfer | sparse | {f"quantize.{quantized.replace('-', '_')}", f"tasks.{task}.quantize"}


def _matches(key: str, other: str) -> bool:
    """Whether one is the other, or inside it."""
    if other in NO_INPUT:
        return False
    return key == other or key.startswith(f"{other}.") or other.startswith(f"{key}.")
