"""Certificate of a task model: its score and its loss against the dense model, with their uncertainty.

docs/check.md describes certificate.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pruneonce.errors import UserError
from pruneonce.metrics import comparison
from pruneonce.metrics.comparison import Comparison, interval
from pruneonce.metrics.units import Units
from pruneonce.models import CERTIFICATE, key_of
from pruneonce.models.card import CARD, refresh_card
from pruneonce.recipe import Task
from pruneonce.system import durable
from pruneonce.tasks import kind_of

VERSION = 1
AGAIN = "make it anew by `pruneonce check --against DENSE --certify`"
# Keys of a task that say where its data are, or how a run trains: not how an example is read and scored.
ELSEWHERE = {
    *("source", "subset", "train", "dev", "test", "held_out", "unlabelled"),
    *("teacher", "transfer", "quantize", "teacher_model", "train_text", "examples", "labels"),
    *("embedding_weight", "similarity_weight"),
}


def certificate(task: Task, data: str, ours: Units, theirs: Units, **circumstances: Any) -> dict[str, Any]:
    """Return a model's certificate.

    Args:
        task: of both models.
        data: hash of the rows that both were measured on.
        ours: the outcome of the model.
        theirs: the outcome of the reference.
        circumstances: further entries: `arm`, `split`, `engine`, `bytes`, `speed`, `processor`.
    """
    kind, everything = kind_of(task), np.arange(len(ours))
    compared = Comparison(kind.resampled, ours, theirs)
    test, p_value = compared.p_value()
    outcome = theirs.to_json()
    return {
        "version": VERSION,
        "task": reading(task),
        "data": data,
        "units": len(ours),
        "unit": kind.unit,
        "full_score": kind.full_score,
        "score": score(task, ours),
        "reference": {**score(task, theirs), "outcome": outcome, "sha256": key_of(outcome)},
        "difference": {
            "value": float(compared.difference(everything)),
            **_ends(interval(compared.difference, len(ours))),
            "test": test,
            "p": p_value,
        },
        "changes": compared.changes(),
        "interval": {
            "method": "percentile bootstrap",
            "confidence": comparison.CONFIDENCE,
            "resamples": comparison.RESAMPLES,
            "seed": comparison.SEED,
        },
        **circumstances,
    }


def score(task: Task, units: Units) -> dict[str, Any]:
    """Return the task's metric of an outcome with its interval: `value`, `low` and `high`; null for a single unit."""
    resampled = kind_of(task).resampled
    value = float(resampled(units.values, np.arange(len(units))))
    return {"value": value, **_ends(interval(lambda index: resampled(units.values, index), len(units)))}


def reading(task: Task) -> dict[str, Any]:
    """Return the settings by which an example of a task is read and scored."""
    return task.model_dump(mode="json", exclude=ELSEWHERE)


def key_of_outcomes(task: Task, ours: Units, theirs: Units) -> str:
    """Return the key of all numbers of a certificate that follow from the outcomes."""
    return key_of(VERSION, reading(task), ours.to_json(), theirs.to_json(), comparison.RESAMPLES, comparison.SEED)


def write_certificate(content: dict[str, Any], folder: Path) -> None:
    """Write a certificate into a model folder, and its block into the model card."""
    durable.write_json(content, folder / CERTIFICATE)
    if (folder / CARD).is_file():
        refresh_card(folder)


def read_certificate(file: Path) -> dict[str, Any] | None:
    """Read a certificate, a file or that of a model folder; None where there is none.

    Raises:
        UserError: it is damaged, or of another version.
    """
    file = file / CERTIFICATE if file.is_dir() else file
    content = durable.read_json(file)
    if content is None:
        return None
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise UserError(f"{file} is not a certificate of this version; {AGAIN}")
    for name in ("task", "score", "reference", "difference", "changes"):
        if not isinstance(content.get(name), dict):
            raise UserError(f"{file} is damaged: it has no `{name}`; {AGAIN}")
    return content


def reference_of(content: Mapping[str, Any], task: Task, place: str, like: Units) -> Units:
    """Return the outcome of a certificate's reference.

    Args:
        content: of the certificate.
        task: by which its score is computed.
        place: of the certificate, for messages.
        like: an outcome on the same rows.

    Raises:
        UserError: the outcome is not the one that was measured: its hash differs, it does not fit the rows, or its
            score is not the certificate's. A certificate of an earlier version has no hash.
    """
    reference = content["reference"]
    outcome = reference.get("outcome") or {}
    units = Units.from_json(outcome)
    alike = (len(units), units.values.keys(), len(units.decisions), units.noun) == (
        *(len(like), like.values.keys(), len(like.decisions), like.noun),
    )
    if not alike or reference.get("sha256", key_of(outcome)) != key_of(outcome) or not _scores(task, units, reference):
        raise UserError(
            f"the certificate of {place} is damaged: its outcomes are not those that were measured; {AGAIN}"
        )
    return units


def _scores(task: Task, units: Units, reference: Mapping[str, Any]) -> bool:
    """Return whether an outcome has the score that a certificate says it has."""
    try:
        value = float(kind_of(task).resampled(units.values, np.arange(len(units))))
        return bool(np.isclose(value, float(reference["value"]), rtol=0, atol=1e-9))
    except (ValueError, IndexError, KeyError, TypeError):
        return False


def _ends(ends: tuple[float, float] | None) -> dict[str, float | None]:
    low, high = ends or (None, None)
    return {"low": low, "high": high}
