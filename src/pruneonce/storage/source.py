"""Content of a model folder for a packed file: tensors, grids, and small files."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from pruneonce.errors import UserError
from pruneonce.models import grid
from pruneonce.models.grid import Grid
from pruneonce.models.provenance import CERTIFICATE, METRICS, PLACES, PROVENANCE, is_as_written
from pruneonce.models.source import PICKLE, has_files, not_finite, unwrapped, weight_files
from pruneonce.storage.container import SUFFIX
from pruneonce.storage.index import DTYPES, MAX_FILE, MEMBER_NAME, is_file_name
from pruneonce.storage.skeleton import Skeleton

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
# Files with names of places.
WITH_PLACES = (CONFIG, "tokenizer_config.json", PROVENANCE)
# The log of training, and the certificate, which tells the size of the packed file.
LEFT_OUT = (METRICS, CERTIFICATE)


@dataclass(frozen=True, eq=False)
class Source:
    """Content of a model folder; `parts` and `short` (names in the base model) have a key for every tensor."""

    tensors: dict[str, npt.NDArray[np.generic]]
    grids: dict[str, Grid]
    files: dict[str, bytes]
    parts: dict[str, str]
    short: dict[str, str]


def read(folder: Path) -> Source:
    """Read a model folder.

    Raises:
        UserError: there is no model folder, or its weights are not in one safetensors file of types that can be packed.
    """
    if folder.suffix == SUFFIX and folder.is_file():
        raise UserError(f"{folder} is packed already; `pruneonce unpack` makes a model folder of it")
    if not (folder / CONFIG).is_file():
        raise UserError(f"no model folder at {folder}: it would have a {CONFIG}")
    tensors = _read_tensors(folder / WEIGHTS)
    is_as_written(folder)
    files = _read_files(folder)
    try:
        shapes = {name: numbers.shape for name, numbers in tensors.items() if numbers.dtype.kind == "f"}
        skeleton = Skeleton(files[CONFIG], shapes)
        parts = skeleton.parts(list(tensors))
    except UserError as error:
        raise UserError(f"cannot pack {folder}: {error}") from error
    grids = grid.load(folder)
    if unknown := sorted(grids.keys() - tensors.keys()):
        raise UserError(f"{folder / grid.FILE} has a grid for {unknown[0]}, which is not in {WEIGHTS}")
    return Source(tensors, grids, files, parts, {name: skeleton.relative(name) for name in tensors})


def _read_tensors(file: Path) -> dict[str, npt.NDArray[np.generic]]:
    if not file.is_file():
        if has_files(file.parent, PICKLE):
            weight_files(file.parent)  # which refuses the folder, and names the remedy
        raise UserError(f"no {file}: packing needs the weights in one safetensors file; save the model anew")
    try:
        with safe_open(file, framework="np") as opened:
            for name in opened.keys():  # noqa: SIM118
                if (dtype := opened.get_slice(name).get_dtype()) not in DTYPES:
                    raise UserError(f"{name} in {file} has type {dtype}; save the model in float32")
            names = unwrapped(opened.keys(), str(file.parent))
            tensors = {name: opened.get_tensor(stored) for name, (stored, _) in names.items()}
            for name, (_, mask) in names.items():
                if mask is not None:
                    tensors[name] = _masked(tensors[name], opened.get_tensor(mask), file, mask)
    except SafetensorError as error:
        raise UserError(f"{file} is damaged: {error}") from None

    for name, numbers in tensors.items():
        if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
            raise not_finite(file.parent, name)
    return tensors


def _masked(
    numbers: npt.NDArray[np.generic], mask: npt.NDArray[np.generic], file: Path, name: str
) -> npt.NDArray[np.generic]:
    if numbers.shape != mask.shape:
        raise UserError(f"{file} is damaged: {name} has another shape than its weight")
    return (numbers * mask).astype(numbers.dtype)  # type: ignore[operator]


def _read_files(folder: Path) -> dict[str, bytes]:
    """Read configuration, tokenizer, provenance, card, and the modules of a sentence-transformers model."""
    if pickled := sorted(folder.glob("[0-9]*_*/*.bin")):
        raise UserError(f"{pickled[0]} is pickled; save the model anew with a recent sentence-transformers")
    files = {}
    for file in sorted([*folder.glob("*"), *folder.glob("[0-9]*_*/*")]):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and is_file_name(name) and name not in LEFT_OUT:
            if file.stat().st_size > MAX_FILE:
                raise UserError(f"{file} is too large to be packed ({MAX_FILE >> 20} MiB at most)")
            files[name] = without_places(file.read_bytes()) if name in WITH_PLACES else file.read_bytes()
    return files


def without_places(text: bytes) -> bytes:
    """Content of a JSON file with the last part alone of absolute paths, which are of the maker's machine."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return text
    found = {key: values[key] for key in PLACES if isinstance(values, dict) and isinstance(values.get(key), str)}
    shortened = {key: re.split(r"[/\\]", path.rstrip("/\\"))[-1] for key, path in found.items() if _is_absolute(path)}
    return (json.dumps({**values, **shortened}, indent=1) + "\n").encode() if shortened else text


def _is_absolute(path: str) -> bool:
    return path.startswith("~") or PurePosixPath(path).is_absolute() or PureWindowsPath(path).is_absolute()


def member_names(folders: Sequence[Path]) -> list[str]:
    """Name each model by the last part of its path that differs from the other models' paths.

    `tasks/sst2/sparse` and `tasks/sick/sparse` become `sst2` and `sick`.

    Raises:
        UserError: no part of the paths distinguishes the models.
    """
    parts = [[_safe(part) for part in reversed(folder.resolve().parts[1:])] for folder in folders]
    if len(parts) == 1:
        return parts[0][:1]
    for names in zip(*parts, strict=False):
        if len(set(names)) == len(names):
            return list(names)
    raise UserError("the same model is named twice, or folder names do not tell the models apart; rename the folders")


def _safe(folder: str) -> str:
    """Make a member's name, which unpacking uses as a folder's name, from a folder's name."""
    name = re.sub(r"[^A-Za-z0-9_. -]", "_", folder)[:99]
    return name if re.fullmatch(MEMBER_NAME, name) else f"_{name}"
