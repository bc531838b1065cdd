"""Content of a model folder for a packed file: tensors, grids, and small files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from pruneonce.errors import UserError
from pruneonce.models import grid
from pruneonce.models.grid import Grid
from pruneonce.models.provenance import CERTIFICATE, METRICS
from pruneonce.storage.container import SUFFIX
from pruneonce.storage.index import DTYPES, MAX_FILE, MEMBER_NAME, is_file_name
from pruneonce.storage.skeleton import Skeleton

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
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
    files = _read_files(folder)
    try:
        skeleton = Skeleton(files[CONFIG], {name: numbers.shape for name, numbers in tensors.items()})
        parts = skeleton.parts(list(tensors))
    except UserError as error:
        raise UserError(f"cannot pack {folder}: {error}") from error
    grids = grid.load(folder)
    if unknown := sorted(grids.keys() - tensors.keys()):
        raise UserError(f"{folder / grid.FILE} has a grid for {unknown[0]}, which is not in {WEIGHTS}")
    return Source(tensors, grids, files, parts, {name: skeleton.relative(name) for name in tensors})


def _read_tensors(file: Path) -> dict[str, npt.NDArray[np.generic]]:
    if not file.is_file():
        raise UserError(f"no {file}: packing needs the weights in one safetensors file; save the model anew")
    try:
        with safe_open(file, framework="np") as opened:
            for name in opened.keys():  # noqa: SIM118
                if (dtype := opened.get_slice(name).get_dtype()) not in DTYPES:
                    raise UserError(f"{name} in {file} has type {dtype}; save the model in float32")
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{file} is damaged: {error}") from None


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
            files[name] = file.read_bytes()
    return files


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
