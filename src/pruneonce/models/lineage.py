"""Lineage of a model folder: the models that it was made from, as far as their folders or hub ids are known."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruneonce.config import safe_yaml
from pruneonce.errors import UserError
from pruneonce.models.provenance import key_as_found, read_provenance
from pruneonce.system.durable import read_json

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
FILES = re.compile(r".*\.(txt|jsonl?|csv|tsv|parquet|arrow|gz|zst|xz|bz2)")
MOST_ANCESTORS = 100
OURS = "made by pruneonce"  # how `maker` begins where pruneonce made the zeros
PRUNING = ("prune", "prune-one-shot", "one-shot")  # stages that make zeros


@dataclass(frozen=True)
class Lineage:
    """Models behind a model folder.

    Attributes:
        records: provenance of the folder and of its ancestors, the folder's own first.
        origin: folder of the first ancestor, which pruneonce did not make; None where it is not on this machine.
        hub_id: the first ancestor's name on the hub; None where it has none.
        folders: those of the ancestors, the nearest first, as far as they are unchanged.
    """

    records: tuple[dict[str, Any], ...]
    origin: Path | None
    hub_id: str | None
    folders: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Scored:
    """Task of a model in a run folder.

    Attributes:
        name: of the task.
        settings: of the task, in the run's recipe.
        corpus: source of the run's corpus; None where it has none.
        scores: {split: {metric: value}}; empty where the model is not measured.
    """

    name: str
    settings: Mapping[str, Any]
    corpus: str | None
    scores: Mapping[str, Mapping[str, float]]


def lineage_of(folder: Path) -> Lineage:
    """Follow the sources in the provenance of a model folder, up to an ancestor that is no longer the same."""
    records: list[dict[str, Any]] = []
    folders: list[Path] = []
    record = read_provenance(folder)
    while record is not None and len(records) < MOST_ANCESTORS:
        records.append(record)
        source, parent = str(record.get("source", "")), (record.get("parents") or [None])[0]
        if is_on_hub(record):
            return Lineage(tuple(records), None, source, tuple(folders))
        place = Path(source)
        if not source or not place.is_dir():
            return Lineage(tuple(records), None, None, tuple(folders))
        record = read_provenance(place)
        if record is None:
            return Lineage(tuple(records), place, cached_id(place), (*folders, place))
        if "key" not in record or key_as_found(place, record) != parent:
            break
        folders.append(place)
    return Lineage(tuple(records), None, None, tuple(folders))


def is_on_hub(record: Mapping[str, Any]) -> bool:
    """Return whether the source in a model's provenance is a hub id, and not a folder."""
    return record.get("parents", [])[:1] == [f"hub:{record.get('source')}"]


def is_from_elsewhere(record: Mapping[str, Any] | None) -> bool:
    """Return whether a model's provenance says that pruneonce did not make its zeros."""
    return record is None or record.get("stage") == "convert"


def maker(record: Mapping[str, Any] | None) -> str:
    """Return the maker of a model in words, from its provenance; a source that is a path is called by its name."""
    if record is None:
        return "not made by pruneonce"
    if isinstance(taken := record.get("taken"), dict):
        return str(taken.get("from"))
    if is_from_elsewhere(record):
        source = str(record.get("source", "unknown"))
        return f"not made by pruneonce, converted from {source if is_on_hub(record) else Path(source).name}"
    return f"{OURS} ({record.get('stage', 'unknown stage')})"


def zeros_from_elsewhere(records: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return what the sparse encoder behind a model was; None where pruneonce made its zeros, or nobody recorded them.

    Args:
        records: provenance of a model and of its ancestors, its own first.

    Returns:
        `from`, `zeros` and `pattern`, as provenance has them under `taken`.
    """
    for record in records:
        if isinstance(taken := record.get("taken"), dict):
            return None if str(taken.get("from")).startswith(OURS) else taken
        if record.get("stage") in PRUNING:
            return None
        if is_from_elsewhere(record):
            zeros = (record.get("sparsity") or {}).get("encoder", 0.0)
            return {"from": maker(record), "zeros": zeros, "pattern": record.get("pattern")} if zeros else None
    return None


def cached_id(folder: Path) -> str | None:
    """Return the hub id of a folder in the hub's cache; None for any other folder."""
    found = re.search(r"models--([^/\\]+?)--([^/\\]+)[/\\]snapshots[/\\]", str(folder.resolve()) + "/")
    return f"{found[1]}/{found[2]}" if found else None


def hub_data(source: Any) -> str | None:
    """Return a source of data if it is a hub id."""
    is_id = isinstance(source, str) and HUB_ID.fullmatch(source) and not FILES.fullmatch(source)
    return source if is_id and not Path(source).exists() else None


def task_of(folder: Path) -> Scored | None:
    """Read the task of a model that stands in a run folder, as `RUN/tasks/NAME/ARM` or `RUN/tasks/NAME/seed-N/ARM`."""
    place = folder.resolve()
    for run in list(place.parents)[2:4]:
        if (run / "recipe.yaml").is_file() and place.relative_to(run).parts[0] == "tasks":
            name = place.relative_to(run).parts[1]
            try:
                recipe = safe_yaml.read(run / "recipe.yaml")
                scores = read_json(place.with_name(f"{place.name}.json"))
                settings = recipe["tasks"][name]
                corpus = (recipe.get("corpus") or {}).get("source")
            except (UserError, KeyError, TypeError, AttributeError):
                return None
            return Scored(name, settings if isinstance(settings, dict) else {}, corpus, scores or {})
    return None
