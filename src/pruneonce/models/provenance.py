"""Provenance (the record, beside the weights, of how a model was made), and keys that identify inputs by content."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pruneonce.errors import UserError
from pruneonce.models import grid
from pruneonce.models.given_roles import changed_key
from pruneonce.models.source import CONFIG, weights_hash
from pruneonce.models.source import PROVENANCE as PROVENANCE
from pruneonce.system.durable import file_hash, read_json

METRICS = "metrics.json"
SHA256 = "sha256"  # of the weights, in provenance
CONFIGURATION = "configuration"  # hashes of the files of `SETTINGS`, in provenance
CERTIFICATE = "certificate.json"
# Files beside the weights that change what a model computes, as paths in its folder.
SETTINGS = re.compile(
    r"config\.json|quantized_inputs\.json|modules\.json|(config_)?sentence_[\w-]+\.json"
    r"|tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json|vocab\.json"
    r"|vocab\.txt|merges\.txt|[\w.-]+\.model|\d+_\w+/(config\.json|model\.safetensors)"
)
# Keys of such files that change no number: places, which packing and pushing shorten, and the writer's version.
PLACES = ("source", "_name_or_path", "name_or_path", "tokenizer_file", "special_tokens_map_file", "vocab_file")
NO_EFFECT = {*PLACES, "transformers_version"}
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
        return _with_roles(key_as_found(path, provenance), values)
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


def key_as_found(folder: Path, provenance: Mapping[str, Any]) -> str:
    """Key of a folder with provenance: the recorded key, or another one where its settings were edited afterwards."""
    key = str(provenance["key"])
    return key_of("edited", key, configuration_of(folder)) if edited(folder, provenance) else key


def edited(folder: Path, provenance: Mapping[str, Any]) -> list[str]:
    """Names of the files of `SETTINGS` that are not as this package wrote them; empty where no hashes were recorded."""
    recorded = provenance.get(CONFIGURATION)
    if not isinstance(recorded, dict):
        return []
    now = configuration_of(folder)
    return sorted(name for name in {*recorded, *now} if recorded.get(name) != now.get(name))


def configuration_of(folder: Path) -> dict[str, str]:
    """Hash (sha256) of each file of `SETTINGS` in a model folder, and of its quantization grids, by name."""
    files = {file.relative_to(folder).as_posix(): file for file in [*folder.glob("*"), *folder.glob("[0-9]*_*/*")]}
    found = {name: file.read_bytes() for name, file in files.items() if SETTINGS.fullmatch(name) and file.is_file()}
    return configuration_hashes(found, grid.load(folder))


def configuration_hashes(files: Mapping[str, bytes], grids: Mapping[str, grid.Grid]) -> dict[str, str]:
    """Hash (sha256) of each file of `SETTINGS`, by name; JSON counts by its content, without `NO_EFFECT`.

    Args:
        files: content of a folder's files, by name; others than those of `SETTINGS` do not count.
        grids: the quantization grids of the folder.
    """
    hashes = {name: _hash_of(content) for name, content in sorted(files.items()) if SETTINGS.fullmatch(name)}
    if grids:
        scales = [(name, one.bits, one.scale.shape, one.scale.tobytes().hex()) for name, one in sorted(grids.items())]
        hashes[grid.FILE] = key_of(scales)
    return hashes


def _hash_of(content: bytes) -> str:
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        return hashlib.sha256(content).hexdigest()
    if isinstance(values, dict):
        values = {name: value for name, value in values.items() if name not in NO_EFFECT}
    return key_of(values)


def rest_key(*sources: str | Path | None) -> str | None:
    """Key of the files that change what models from elsewhere compute, and that their `content_key` does not cover.

    These are vocabularies where there is no tokenizer.json, and the modules of sentence-transformers. Stages record it
    beside their key, so that the keys of finished stages stay as they are. None: there are no such files.
    """
    found = []
    for source in sources:
        if source is None or not Path(source).is_dir() or "key" in (read_provenance(source) or {}):
            continue
        folder = Path(source)
        has_tokenizer = (folder / "tokenizer.json").is_file()
        names = [file for file in folder.glob("*") if file.suffix in (".txt", ".model") and not has_tokenizer]
        files = sorted(file.relative_to(folder).as_posix() for file in [*names, *folder.glob("[0-9]*_*/*")])
        found += [(name, file_hash(folder / name)) for name in files if SETTINGS.fullmatch(name)]
    return key_of(found) if found else None


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
