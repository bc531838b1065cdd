"""Summary of a run, read off its folder: the content of summary.json, as docs/design.md describes it."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from pruneonce.models import CERTIFICATE, METRICS, read_provenance
from pruneonce.recipe import Recipe
from pruneonce.recipe.arms import DENSE
from pruneonce.runs.certificates import against_baselines, quoted
from pruneonce.runs.layout import (
    BENCHMARK,
    arm_models,
    evaluation_file,
    first_folder,
    outcome_file,
    packed_file,
    sizes_of,
    sweep_file,
    task_folder,
)
from pruneonce.runs.sweep import losers
from pruneonce.system import durable
from pruneonce.system.machine import processor
from pruneonce.tasks import kind_class

ValueBySeed = dict[int, float]


def summarize(recipe: Recipe, output: Path) -> dict[str, Any]:
    """Return the summary of a finished run. `seconds` is the time in training, over all interruptions."""
    sparse = read_provenance(output / "sparse") or {}
    trained = _stages(recipe, output)
    return {
        "name": recipe.name,
        "description": recipe.description,
        "model": recipe.model,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": sum(stage["seconds"] for stage in trained),
        "machine": {
            "processor": processor(),
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            **{library: version(library) for library in ("pruneonce", "torch", "transformers")},
        },
        "sparsity": {
            "encoder": sparse["sparsity"]["encoder"],
            "model": sparse["sparsity"]["model"],
            "target": recipe.prune.sparsity if recipe.prune else None,
        },
        "taken": _taken(sparse),
        "seeds": recipe.task_seeds,
        "pattern_hash": sparse["pattern"],
        "layers": sparse["sparsity"]["layers"],
        "stages": trained,
        "results": [result for name in recipe.tasks for result in _results(recipe, output, name)],
        "benchmark": durable.read_json(output / BENCHMARK),
    }


def _taken(sparse: dict[str, Any]) -> dict[str, Any] | None:
    """Return where a sparse encoder came from; None where the run pruned it."""
    return {"source": sparse["source"], **sparse["taken"]} if "taken" in sparse else None


def _stages(recipe: Recipe, output: Path) -> list[dict[str, Any]]:
    """Return the trained models, in the order of folders; the losing candidates of a sweep are one further stage."""
    tasks = [task_folder(recipe, output, name, seed) for name in sorted(recipe.tasks) for seed in recipe.task_seeds]
    stages = []
    for folder in [output / "teacher", output / "sparse", *(path for task in tasks for path in sorted(task.glob("*")))]:
        name = folder.relative_to(output).as_posix()
        if folder.name.endswith(".sweep.json"):
            lost = [entry["training"] for entry in losers(durable.read_json(folder))]
            spent = {key: sum(entry[key] for entry in lost) for key in ("steps", "tokens", "seconds")}
            name = name.removesuffix(".json")
            entry = {"name": name, "stage": "sweep", "folder": None, "method": None, "pattern": None}
            stages.append({**entry, **spent, "history": [], "final": {}})
            continue
        provenance = read_provenance(folder)
        if provenance is None or "training" not in provenance:  # an export
            continue
        measured = durable.read_json(folder / METRICS) or {"history": [], "final": {}}
        how = {key: provenance["settings"].get(key) for key in ("method", "pattern")}
        head = {"name": name, "stage": provenance["stage"], "folder": name}
        stages.append({**head, **how, **provenance["training"], **measured})
    return stages


def _results(recipe: Recipe, output: Path, task: str) -> list[dict[str, Any]]:
    """Return a task's arms: their means over the seeds and, of files that are made once, those of the first seed."""
    first = first_folder(recipe, output, task)
    measured = {
        seed: {
            arm: durable.read_json(evaluation_file(task_folder(recipe, output, task, seed), arm))
            for arm, _ in arm_models(recipe, output, task, seed)
        }
        for seed in recipe.task_seeds
    }
    metric = recipe.tasks[task].metric
    results: list[dict[str, Any]] = []
    dense: ValueBySeed = {}
    for arm, model in arm_models(recipe, output, task, recipe.task_seeds[0]):
        everything = {seed: by_arm[arm] for seed, by_arm in measured.items() if arm in by_arm}
        splits = next(iter(everything.values()))
        split = quoted(splits)
        values = {seed: splits[split][metric] for seed, splits in everything.items()}
        dense = dense or values
        provenance = read_provenance(model) or {"sparsity": {"encoder": 0.0}}
        size = sizes_of(first, arm)
        packed = packed_file(first, arm).relative_to(output).as_posix()
        results.append(
            {
                "task": task,
                "arm": arm,
                "folder": str(Path(model).relative_to(output)) if isinstance(model, Path) else str(model),
                "sparsity": provenance["sparsity"]["encoder"],
                "metric": metric,
                "split": split,
                "examples": splits[split]["examples"],
                "cut": (durable.read_json(outcome_file(first, arm)) or {}).get("cut"),
                **over_seeds(values, dense),
                "full_score": kind_class(recipe.tasks[task].kind).full_score,
                "sweep": durable.read_json(sweep_file(first, arm)),
                "size": size and {"file": None if arm == DENSE else packed, "limit": None, **size},
                "against": against_baselines(recipe.tasks[task], first, arm),
                "certificate": _certificate(model) if isinstance(model, Path) else None,
                "all": {
                    name: {key: _mean([one[name][key] for one in everything.values()]) for key in measures}
                    for name, measures in splits.items()
                },
            }
        )
    return results


def over_seeds(values: ValueBySeed, dense: ValueBySeed) -> dict[str, Any]:
    """Return an arm's value and recovery: means over the seeds with sample standard deviations (none of one seed).

    The recovery of a seed is its value over the dense value **of the same seed**. That model taught this arm, so the
    two share the effect of the seed, and the pairing takes that effect out of the spread: the spread of the recovery is
    that of pruning, not that of the teachers. The mean of the recoveries is in general not the mean value over the mean
    dense value. A given teacher is the same for every seed. A dense value that is not above 0 has no recovery.

    Args:
        values: by seed.
        dense: those of the dense arm.
    """
    pairs = [(value, dense.get(seed, next(iter(dense.values())))) for seed, value in values.items()]
    shares = [value / whole for value, whole in pairs] if all(whole > 0 for _, whole in pairs) else None
    return {
        "value": _mean(list(values.values())),
        "spread": _spread(list(values.values())),
        "recovery": _mean(shares) if shares else None,
        "recovery_spread": _spread(shares) if shares else None,
        "seeds": {str(seed): value for seed, value in values.items()},
    }


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if len(set(values)) > 1 else values[0]


def _spread(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None


def _certificate(model: Path) -> dict[str, Any] | None:
    """Return a model's certificate without the outcome of the dense model."""
    content = durable.read_json(model / CERTIFICATE)
    if content is None:
        return None
    reference = {name: value for name, value in content["reference"].items() if name != "outcome"}
    return {**content, "reference": reference}
