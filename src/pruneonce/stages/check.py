"""Check of a task model: whether its loss against a reference is within a budget. docs/check.md says how to use it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pruneonce.errors import UserError
from pruneonce.metrics.comparison import Comparison, interval
from pruneonce.metrics.units import Array, Units
from pruneonce.models import content_key, load_config
from pruneonce.recipe import Task
from pruneonce.stages.certificate import certificate, read_certificate, reading, reference_of
from pruneonce.stages.evaluate import Measured, measure
from pruneonce.storage import as_folder
from pruneonce.tasks import kind_of
from pruneonce.tasks.labels import names_of
from pruneonce.wording import listed

SPLIT = "dev"  # stands for the data of the check, whatever its name
ROUNDING = 1e-9  # a loss of exactly the budget is within it


@dataclass(frozen=True)
class Budget:
    """Loss that is allowed.

    Attributes:
        amount: in percent of the reference's score, or in percentage points of the metric.
        relative: percent of the reference's score.
    """

    amount: float
    relative: bool

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Return the budget of a text: `1%` or `0.5pt`.

        Raises:
            UserError: the text is neither.
        """
        match = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)\s*(%|pt)", text.strip())
        if match is None:
            raise UserError(
                f"budget {text!r} is neither `1%`, a percent of the reference's score, nor `1pt`, a percentage point"
            )
        return cls(float(match[1]), match[2] == "%")

    def __str__(self) -> str:
        return f"{self.amount:g}%" if self.relative else f"{self.amount:g}pt"

    @property
    def unit(self) -> str:
        """Return the unit of a loss, for people."""
        return "% of the reference" if self.relative else "percentage points"


@dataclass(frozen=True)
class Reference:
    """Outcome to compare with, and where it came from."""

    name: str
    units: Units
    data: str


def check(
    model: str | Path,
    task: Task,
    budget: Budget,
    *,
    against: str | Path | None = None,
    engine: str | None = None,
    confidence: float | None = None,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Measure a model on the dev split of `task` and compare it with a reference.

    Args:
        model: a model folder (or hub id), an exported folder, or a packed file.
        task: how to read the data; only its dev split is read.
        budget: the loss that is allowed.
        against: the reference: a model of the same task, or a certificate, FILE.json; None: the model's certificate.
        engine: to measure the model in; None: PyTorch, or the engine that the model is for.
        confidence: None: the loss itself decides. Else the upper bound of the loss does, one-sided, at this confidence.
        cache: folder that hub data is downloaded to.

    Returns:
        What `pruneonce check --json` prints, see docs/check.md. `within` is the outcome, `certificate` the content of a
        certificate.json of the model.

    Raises:
        UserError: a mistake in the models, the data or the arguments; there is no reference for these data.
    """
    known = _certificate(model, against)  # before anything is measured
    if known is not None:
        _must_be_read_alike(task, known[1])
    elif "labels" in type(task).model_fields and getattr(task, "labels", None) is None:
        _must_name_alike(model, str(against))
    measured = measure(model, task, splits=[SPLIT], cache=cache, engine=engine, names_of_model=True)[SPLIT]
    reference = _reference(known, against, task, measured, cache)
    return _judged(str(model), task, measured, reference, budget, engine, confidence)


def _certificate(model: str | Path, against: str | Path | None) -> tuple[str, dict[str, Any]] | None:
    """Return the certificate to compare with, and its place; None where the reference is a model."""
    if against is not None and Path(against).suffix != ".json":
        return None
    place = Path(model if against is None else against)
    content = read_certificate(place) if place.is_dir() or against is not None else None
    if content is None:
        lacking = f"{model} has no certificate" if against is None else f"there is no certificate at {against}"
        raise UserError(f"{lacking}; give the dense model, or a certificate.json, by --against")
    return str(place), content


def _must_be_read_alike(task: Task, content: dict[str, Any]) -> None:
    now, then = reading(task), content["task"]
    different = sorted(key for key in {*now, *then} if now.get(key) != then.get(key))
    if different:
        raise UserError(
            f"the certificate was taken with `{different[0]}` {then.get(different[0])!r}, not "
            f"{now.get(different[0])!r}; measure as it did, or give the dense model by --against"
        )


def _must_name_alike(model: str | Path, against: str | Path) -> None:
    """Refuse a reference whose classes are not those of the model, in their order, where the task names none."""
    names = []
    for place in (model, against):
        with as_folder(place) as folder:
            names.append(names_of(load_config(folder), str(place)))
    if names[0] != names[1]:
        raise UserError(
            f"{against} has the classes {listed(names[1])}, {model} has {listed(names[0])}; give their names in one "
            "order by --labels"
        )


def _reference(
    known: tuple[str, dict[str, Any]] | None,
    against: str | Path | None,
    task: Task,
    measured: Measured,
    cache: Path | None,
) -> Reference:
    if known is None:
        assert against is not None
        theirs = measure(against, task, splits=[SPLIT], cache=cache, names_of_model=True)[SPLIT]
        return Reference(str(against), theirs.units, theirs.data)
    place, content = known
    if content.get("data") != measured.data:
        raise UserError(
            f"the certificate of {place} was taken on other data than {task.dev}; give its data, or the dense model by "
            "--against"
        )
    units = reference_of(content, task, place, measured.units)
    return Reference(f"certificate of {place}", units, measured.data)


def _judged(
    model: str,
    task: Task,
    measured: Measured,
    reference: Reference,
    budget: Budget,
    engine: str | None,
    confidence: float | None,
) -> dict[str, Any]:
    kind, ours, theirs = kind_of(task), measured.units, reference.units
    everything = np.arange(len(ours))
    if budget.relative and not kind.resampled(theirs.values, everything) > 0:
        raise UserError(
            f"the reference's {task.metric} is not above 0, so there is no percentage of it; give the budget as "
            f"{budget.amount:g}pt"
        )
    compared = Comparison(kind.resampled, ours, theirs)

    def loss(index: Array) -> Array:
        difference = compared.difference(index)
        if not budget.relative:
            return -100 * difference / kind.full_score + 0.0  # nothing is not minus nothing
        whole = kind.resampled(theirs.values, index)
        # A resample in which the reference scores nothing has nothing to lose a share of.
        return np.where(whole > 0, -100 * difference / np.where(whole > 0, whole, 1.0), 0.0) + 0.0

    value, ends = float(loss(everything)), interval(loss, len(ours))
    decisive = value
    if confidence is not None:
        bound = interval(loss, len(ours), confidence, upper_only=True)
        if bound is None:
            raise UserError(f"{task.dev} has a single unit, which gives no bound; leave --confidence out")
        decisive = bound[1]
    certified = certificate(
        task, measured.data, ours, theirs, split=Path(task.dev).name, engine=engine, model=content_key(model)
    )
    return {
        "model": model,
        "engine": engine,
        "metric": task.metric,
        "data": task.dev,
        "examples": int(measured.scores["examples"]),
        "full_score": kind.full_score,
        "score": certified["score"],
        "reference": {"name": reference.name, **{end: certified["reference"][end] for end in ("value", "low", "high")}},
        "loss": {"value": value, "low": ends and ends[0], "high": ends and ends[1], "unit": budget.unit},
        "test": certified["difference"]["test"],
        "p": certified["difference"]["p"],
        "changes": certified["changes"],
        "budget": str(budget),
        "confidence": confidence,
        "decisive": decisive,
        "within": bool(decisive <= budget.amount + ROUNDING),
        "certificate": certified,
    }
