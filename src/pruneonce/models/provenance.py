"""Provenance (the record, beside the weights, of how a model was made), and keys that identify inputs by content."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pruneonce.errors import UserError
from pruneonce.models.given_roles import changed_key
from pruneonce.models.source import CONFIG, weights_hash
from pruneonce.system.durable import file_hash, read_json

PROVENANCE = "pruneonce.json"
METRICS = "metrics.json"
SHA256 = "sha256"  # of the weights, in provenance
CERTIFICATE = "certificate.json"
LIBRARIES = ("pruneonce", "torch", "transformers")


def content_key(source: str | Path) -> str:
    """Key of a model as an input: its provenance key, a hash of its weights and JSON files, or the hub id.

    Roles that a user gives of a model that was not made with them are part of it.

    Raises:
        UserError: as `is_as_written`.
    """
    path = Path(source)
    if not path.is_dir():
        return _with_roles(f"hub:{source}", {})
    config = read_json(path / CONFIG)
    values = config if isinstance(config, dict) else {}
    provenance = read_provenance(path)
    if provenance and "key" in provenance:
        is_as_written(path)
        return _with_roles(str(provenance["key"]), values)
    files = sorted([*path.glob("*.safetensors"), *path.glob("*.json")])
    files = [file for file in files if file.name != CERTIFICATE]
    return _with_roles(key_of([(file.name, file_hash(file)) for file in files]), values)


def _with_roles(key: str, config: dict[str, Any]) -> str:
    changed = changed_key(key, config)
    return key if changed == key else key_of(changed)


def is_as_written(folder: Path) -> bool:
    """Return whether the weights of a folder are those that this package wrote; False where no hash says so.

    Earlier versions recorded no hash. Exported folders have hashes of their own.

    Raises:
        UserError: there is a hash, and the weights are others.
    """
    recorded = (read_provenance(folder) or {}).get(SHA256)
    if recorded is None:
        return False
    if recorded != weights_hash(folder):
        raise UserError(
            f"the weights of {folder} are not those that pruneonce wrote, so its {PROVENANCE} says nothing about them; "
            f"put them back, or remove {PROVENANCE} to use the folder as a model from elsewhere"
        )
    return True


def key_of(*parts: Any) -> str:
    """Hash (sha256) of parts that JSON can hold; other values count as their text."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def read_provenance(folder: str | Path) -> dict[str, Any] | None:
    """Read the provenance of a model folder; return None if there is none.

    Raises:
        UserError: the file is damaged.
    """
    file = Path(folder) / PROVENANCE
    provenance = read_json(file)
    if provenance is not None and not isinstance(provenance, dict):
        raise UserError(f"{file} is damaged: it is not an object")
    return provenance
