"""Provenance: the record, beside the weights, of what made a model; and keys, which identify inputs by content."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pruneonce.errors import UserError
from pruneonce.system.durable import file_hash, read_json

PROVENANCE = "pruneonce.json"
METRICS = "metrics.json"
LIBRARIES = ("pruneonce", "torch", "transformers")


def content_key(source: str | Path) -> str:
    """What identifies a model as an input: its provenance key, a hash of its weights' bytes, or the hub id."""
    path = Path(source)
    if not path.is_dir():
        return f"hub:{source}"
    made = read_provenance(path)
    if made and "key" in made:
        return str(made["key"])
    files = sorted([*path.glob("*.safetensors"), *path.glob("*.json")])
    return key_of([(file.name, file_hash(file)) for file in files])


def key_of(*parts: Any) -> str:
    """A hash of JSON-able parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def read_provenance(folder: str | Path) -> dict[str, Any] | None:
    """
    Raises:
        UserError: the file is damaged.
    """
    file = Path(folder) / PROVENANCE
    made = read_json(file)
    if made is not None and not isinstance(made, dict):
        raise UserError(f"{file} is damaged: it is not an object")
    return made
