"""Certificates of a run: certificate.json in the folder of every arm, against the dense arm of the same seed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pruneonce.errors import UserError
from pruneonce.metrics.units import Units
from pruneonce.models import content_key
from pruneonce.recipe import Recipe
from pruneonce.recipe.arms import DENSE
from pruneonce.runs.layout import BENCHMARK, arm_models, outcome_file, sizes_of, task_folder
from pruneonce.stages.certificate import certificate, key_of_outcomes, read_certificate, write_certificate
from pruneonce.stages.evaluate import Measured
from pruneonce.system import durable

CIRCUMSTANCES = ("arm", "split", "engine", "model", "bytes", "speed", "processor", "threads", "key")


def quoted(splits: Mapping[str, Any]) -> str:
    """Return the split that summaries and certificates quote."""
    return "test" if "test" in splits else "dev"


def write_outcome(measured: Mapping[str, Measured], file: Path) -> None:
    """Keep the outcome by unit on the quoted split."""
    split = quoted(measured)
    durable.write_json({"split": split, "data": measured[split].data, **measured[split].units.to_json()}, file)


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
                    _write(recipe, name, arm, outcomes[arm], dense, places, size["bytes"] if size else None, of_task)


def _write(
    recipe: Recipe,
    name: str,
    arm: str,
    ours: dict[str, Any],
    dense: dict[str, Any],
    places: list[Path],
    size: int | None,
    timed: dict[str, Any] | None,
) -> None:
    task, units, reference = recipe.tasks[name], Units.from_json(ours), Units.from_json(dense)
    key = key_of_outcomes(task, units, reference)
    circumstances = {
        "arm": arm,
        "split": ours["split"],
        "engine": "torch",
        "model": content_key(places[0]),
        "bytes": size,
        "speed": _speeds(timed, arm),
        "processor": timed and timed["machine"]["processor"],
        "threads": timed and timed["machine"]["threads"],
        "key": key,
    }
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


def _speeds(timed: dict[str, Any] | None, arm: str) -> list[dict[str, Any]]:
    """Return the milliseconds of a single text by engine: real texts, or else the longest."""
    rows = [row for row in (timed or {"rows": []})["rows"] if row["batch"] == 1]
    lengths = [row["length"] for row in rows]
    length = "real" if "real" in lengths else max(lengths, default=None)
    names = ("engine", "precision", "batch", "length", "milliseconds", "low", "high")
    return [
        {**{name: row[name] for name in names}, "busy": bool(row.get("busy"))}
        for row in rows
        if row["model"] == arm and row["length"] == length
    ]


def _read_outcome(file: Path) -> dict[str, Any]:
    content = durable.read_json(file)
    if not isinstance(content, dict) or not {"split", "data"} <= content.keys():
        raise UserError(f"{file} is damaged; remove it and run again")
    return content
