"""Sweep of an arm: several settings are trained, and the best on the task's dev split is kept.

The test split is not looked at. Candidates are trained one after the other in `ARM.sweep/`, which keeps the best one so
far. `ARM.sweep.json` records each as soon as it is measured, so that an interrupted sweep goes on with the next. In the
end the best candidate's folder is moved to `ARM`: the key of a stage does not depend on its folder.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pruneonce.console import console
from pruneonce.errors import DivergedError, UserError
from pruneonce.models import read_provenance
from pruneonce.recipe import Swept, Training
from pruneonce.runs.layout import sweep_file
from pruneonce.system import distributed, durable

Train = Callable[[Training, Path], Path]  # makes a model by these settings in this folder
Measure = Callable[[Path], float]  # a model's value on dev; higher is better


def sweep(settings: Swept, output: Path, train: Train, measure: Measure, metric: str) -> Path:
    """Make the model folder `output` by the best candidate of `settings`; of equal ones, by the earlier.

    A candidate whose training diverges has lost.

    Args:
        settings: the settings of the arm, with a sweep.
        output: the arm's folder.
        train: makes a model in a folder.
        measure: returns its value on dev; called in the first process only.
        metric: the name of the measure, for the record.

    Raises:
        UserError: as `train`; no candidate has a value.
    """
    assert settings.sweep
    points, candidates = settings.sweep.points(), settings.candidates()
    record = distributed.by_first(lambda: _read_record(output, points, metric))
    for number in range(len(record["candidates"]), len(points)):
        place = _place(output, number, len(points))
        console.print(f"  {output.name}, {number + 1} of {len(points)}: {_as_text(points[number])}")
        try:
            train(candidates[number], place)
        except DivergedError as error:
            console.print(f"  lost: {error}", soft_wrap=True)
        record = distributed.by_first(partial(_record, output, points, record, place, measure))
    best = record["chosen"]
    if best is None:
        raise UserError(
            f"no candidate for {output} has a value of {metric}; sweep lower `learning_rate`s in another folder"
        )
    value = f"{metric} {record['candidates'][best]['value']:.4f} on dev"
    console.print(f"  {output.name}: of {len(points)} the best is {_as_text(points[best])} ({value})")
    distributed.by_first(lambda: _move(_place(output, best, len(points)), output))
    model = train(candidates[best], output)  # skips the training, which is finished
    distributed.by_first(lambda: shutil.rmtree(_folder(output), ignore_errors=True))
    return model


def chosen(settings: Swept, output: Path) -> Training:
    """Return the settings of the model `output`, which `sweep` made."""
    record = durable.read_json(sweep_file(output.parent, output.name))
    return settings.candidates()[record["chosen"]]


def losers(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the candidates of a record that the arm is not made of."""
    return [candidate for number, candidate in enumerate(record["candidates"]) if number != record["chosen"]]


def _read_record(output: Path, points: list[dict[str, float]], metric: str) -> dict[str, Any]:
    """Return the record of this sweep so far."""
    file = sweep_file(output.parent, output.name)
    record = durable.read_json(file) or {"metric": metric, "split": "dev", "candidates": [], "chosen": None}
    recorded = [candidate["settings"] for candidate in record["candidates"]]
    if recorded != points[: len(recorded)] or record["metric"] != metric:
        raise UserError(f"{file} is of another sweep; choose another output or remove it and {_folder(output)}")
    _clean(output, record, len(points))
    return record  # type: ignore[no-any-return]


def _record(
    output: Path, points: list[dict[str, float]], record: dict[str, Any], place: Path, measure: Measure
) -> dict[str, Any]:
    """Return the record with one candidate more: a model at `place` or, where its training diverged, none."""
    provenance = read_provenance(place)
    value = measure(place) if provenance else math.nan
    candidate = {
        "settings": points[len(record["candidates"])],
        "value": value if math.isfinite(value) else None,
        "training": provenance["training"] if provenance else {"steps": 0, "tokens": 0, "seconds": 0.0},
    }
    record = {**record, "candidates": [*record["candidates"], candidate]}
    if len(record["candidates"]) == len(points):
        record["chosen"] = _best(record)
    output.parent.mkdir(parents=True, exist_ok=True)
    durable.write_json(record, sweep_file(output.parent, output.name))
    _clean(output, record, len(points))
    return record


def _best(record: dict[str, Any]) -> int | None:
    values = {
        n: candidate["value"] for n, candidate in enumerate(record["candidates"]) if candidate["value"] is not None
    }
    return max(values, key=lambda number: values[number], default=None)  # the first of equal ones


def _clean(output: Path, record: dict[str, Any], total: int) -> None:
    """Remove the models that have lost. They are recorded, so half a model that a kill leaves here is never used."""
    for number in range(len(record["candidates"])):
        if number != _best(record):
            shutil.rmtree(_place(output, number, total).parent, ignore_errors=True)


def _move(place: Path, output: Path) -> None:
    if place.is_dir() and not output.exists():
        durable.publish(place, output)


def _folder(output: Path) -> Path:
    return output.with_name(f"{output.name}.sweep")


def _place(output: Path, number: int, total: int) -> Path:
    """Return the folder of a candidate, whose name tells its number to progress line and model card."""
    return _folder(output) / f"{number + 1}-of-{total}" / output.name


def _as_text(point: dict[str, float]) -> str:
    return ", ".join(f"{key} {value:g}" for key, value in point.items())
