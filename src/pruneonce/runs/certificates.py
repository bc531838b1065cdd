"""Certificates of a run: certificate.json in the folder of every arm, against the dense arm of the same seed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pruneonce.engines.rows import of_one_text
from pruneonce.errors import UserError
from pruneonce.metrics.comparison import Comparison, interval
from pruneonce.metrics.units import Units
from pruneonce.models import content_key
from pruneonce.recipe import Recipe, Task
from pruneonce.recipe.arms import ARMS, DENSE
from pruneonce.runs.layout import BENCHMARK, arm_models, outcome_file, sizes_of, task_folder
from pruneonce.stages.certificate import certificate, key_of_outcomes, read_certificate, write_certificate
from pruneonce.stages.evaluate import Measured
from pruneonce.system import durable
from pruneonce.tasks import kind_of

CIRCUMSTANCES = ("arm", "split", "engine", "model", "bytes", "speed", "processor", "threads", "key")


def quoted(splits: Mapping[str, Any]) -> str:
    """Return the split that summaries and certificates quote."""
    return "test" if "test" in splits else "dev"


def write_outcome(measured: Mapping[str, Measured], file: Path) -> None:
    """Keep the outcome by unit on the quoted split, and the account of what of it is cut."""
    split = quoted(measured)
    one = measured[split]
    durable.write_json({"split": split, "data": one.data, "cut": one.cut.to_json(), **one.units.to_json()}, file)


def against_baselines(task: Task, folder: Path, arm: str) -> dict[str, Any] | None:
    """Return the paired difference of a pruned arm to each quantized baseline that was measured on the same rows.

    Args:
        task: of both.
        folder: of the task, for one seed.
        arm: the pruned arm.

    Returns:
        `{baseline: {value, low, high}}`, the arm minus the baseline, low and high null for a single unit; None where
        there is no baseline, or the arm is none of the models that are shipped.
    """
    files = {name: outcome_file(folder, name) for name, one in ARMS.items() if one.role == "baseline"}
    if ARMS[arm].role not in ("ours", "quantized") or not any(file.is_file() for file in files.values()):
        return None
    ours = _read_outcome(outcome_file(folder, arm))
    found = {}
    for name, file in files.items():
        theirs = _read_outcome(file) if file.is_file() else None
        if theirs is None or theirs["data"] != ours["data"]:
            continue
        compared = Comparison(kind_of(task).resampled, Units.from_json(ours), Units.from_json(theirs))
        low, high = interval(compared.difference, len(compared.ours)) or (None, None)
        value = float(compared.difference(np.arange(len(compared.ours))))
        found[name] = {"value": value, "low": low, "high": high}
    return found or None


def write_certificates(recipe: Recipe, output: Path) -> None:
    """Write the certificates of all arms, with sizes and milliseconds for the first seed.

    Exports of an arm get its certificate too. A given teacher's folder gets none, as it is not the run's.
    """
    timed = durable.read_json(output / BENCHMARK)
    for name in recipe.tasks:
        dense = None
        for seed in recipe.task_seeds:
            folder = task_folder(recipe, output, name, seed)
            models = arm_models(recipe, output, name, seed)
            outcomes = {arm: _read_outcome(outcome_file(folder, arm)) for arm, _ in models}
            dense = outcomes.get(DENSE, dense)
            assert dense is not None
            is_first = seed == recipe.task_seeds[0]
            of_task = timed if is_first and timed and timed["task"] == name else None
            for arm, _ in models:
                if (folder / arm).is_dir():
                    size = sizes_of(folder, arm) if is_first else None
                    exports = [folder / f"{arm}-{format}" for format in recipe.export]
                    places = [folder / arm, *(path for path in exports if path.is_dir())]
                    measured = {"arm": arm, "bytes": size["bytes"] if size else None, **_timing(of_task, arm)}
                    _write(recipe.tasks[name], outcomes[arm], dense, places, measured)


def _write(
    task: Task, ours: dict[str, Any], dense: dict[str, Any], places: list[Path], measured: dict[str, Any]
) -> None:
    """Write the certificate of one arm into its folder, `places[0]`, and its exports."""
    units, reference = Units.from_json(ours), Units.from_json(dense)
    key = key_of_outcomes(task, units, reference)
    model = content_key(places[0])
    circumstances = {**measured, "split": ours["split"], "engine": "torch", "model": model, "key": key}
    written = _known(places[0])
    if written.get("key") == key:
        content = {**written, **circumstances}
    else:
        content = certificate(task, ours["data"], units, reference, **circumstances)
    for place in places:
        if _known(place) != content:
            write_certificate(content, place)


def _known(place: Path) -> dict[str, Any]:
    """Return the certificate of a folder, empty where there is none that can be used."""
    try:
        return read_certificate(place) or {}
    except UserError:
        return {}


def _timing(timed: dict[str, Any] | None, arm: str) -> dict[str, Any]:
    """Return the speeds of an arm, and the machine that they were measured on."""
    machine = timed["machine"] if timed else {"processor": None, "threads": None}
    return {"speed": _speeds(timed, arm), "processor": machine["processor"], "threads": machine["threads"]}


def _speeds(timed: dict[str, Any] | None, arm: str) -> list[dict[str, Any]]:
    """Return the milliseconds of a single text by engine."""
    names = ("engine", "precision", "batch", "length", "milliseconds", "low", "high")
    return [
        {**{name: row[name] for name in names}, "busy": bool(row.get("busy"))}
        for row in of_one_text(timed)
        if row["model"] == arm
    ]


def _read_outcome(file: Path) -> dict[str, Any]:
    content = durable.read_json(file)
    if not isinstance(content, dict) or not {"split", "data"} <= content.keys():
        raise UserError(f"{file} is damaged; remove it and run again")
    return content
