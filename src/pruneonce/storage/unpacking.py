"""Unpacking of a packed file to model folders, or to a model in memory."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save_file

from pruneonce.errors import UserError
from pruneonce.models import grid, load_config, load_reporting
from pruneonce.models.grid import Grid
from pruneonce.storage import coding
from pruneonce.storage.coding import DamagedError
from pruneonce.storage.container import SUFFIX, PackedFile, is_a_family, place_of
from pruneonce.storage.index import Member
from pruneonce.storage.skeleton import Skeleton, class_of, first_line
from pruneonce.storage.source import CONFIG, WEIGHTS
from pruneonce.storage.tensors import decode, weights_hash
from pruneonce.system import durable

Tensors = dict[str, npt.NDArray[np.generic]]


def unpack(file: str | Path, folder: str | Path, member: str | None = None) -> list[Path]:
    """Write the model of a packed file to `folder`; of a family, write every member to `folder/NAME`.

    The weights equal the packed weights bit for bit, after rounding if there was any. Their quantization grids are
    recorded beside them (see `grid`), so that packing the folder again is lossless.

    Args:
        file: the packed file.
        folder: the folder to write, which must not exist.
        member: the only member of a family to write, to `folder` itself.

    Returns:
        The model folders.

    Raises:
        UserError: the file is of another kind or damaged, has no such member, or `folder` exists.
    """
    target = Path(folder)
    if target.exists():
        raise UserError(f"{target} exists; choose another folder")
    packed = PackedFile(Path(file))
    if member is None and len(packed.index.members) > 1:
        places = {name: name for name in packed.index.members}
    else:
        places = {_chosen(packed, member): ""}
    aside = durable.partial(target)
    if aside.exists():
        raise UserError(f"{aside} is in the way; remove it")
    try:
        for name, place in places.items():
            _write_member(packed, name, aside / place)
        durable.publish(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return [target / place for place in places.values()]


@contextmanager
def as_folder(path: str | Path) -> Iterator[str | Path]:
    """A model folder while the context lasts: of a packed model its unpacked files, else `path` itself.

    Args:
        path: FILE.pruneonce, FILE.pruneonce/MEMBER, or any model folder or hub id.

    Raises:
        UserError: as `unpack`, or a file with several models is given without a member.
    """
    place = place_of(path)
    if place is None:
        yield path
        return
    file, member = place
    with TemporaryDirectory() as scratch:
        folders = unpack(file, Path(scratch) / (member or file.stem), member)
        if len(folders) > 1:
            raise is_a_family(file, [folder.name for folder in folders])
        yield folders[0]


def load(path: str | Path, member: str | None = None) -> Any:
    """Load a model, of the class that was saved, from a packed file or from a model folder (or hub id).

    Args:
        path: packed file, model folder or hub id.
        member: name of the model in a family.

    Raises:
        UserError: there is no model, or it is damaged; or the file holds a family and `member` is missing.
    """
    if Path(path).is_dir() or not (Path(path).is_file() or str(path).endswith(SUFFIX)):
        if member is not None:
            raise UserError(f"{path} is not a packed file and has no members")
        model, missing = load_reporting(class_of(load_config(path)), path)
        return _complete(model, missing, path)
    packed = PackedFile(Path(path))
    name = _chosen(packed, member)
    skeleton = _skeleton(packed, name)
    state = {key: torch.from_numpy(numbers) for key, numbers in read_member(packed, name)[0].items()}
    try:
        model, info = skeleton.model_class.from_pretrained(
            None, config=skeleton.config, state_dict=state, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # settings of a configuration other than shapes can fail in any way
        raise UserError(f"{path} cannot be loaded: {first_line(error)}") from error
    return _complete(model, set(info["missing_keys"]), path)


def read_member(packed: PackedFile, name: str) -> tuple[Tensors, dict[str, Grid]]:
    """Read the weights of a member, and the grids of its quantized weights.

    Raises:
        UserError: the weights are not those that were packed.
    """
    member = packed.index.members[name]
    tensors, grids = {}, {}
    try:
        for tensor in member.tensors:
            content = decode(tensor, packed)
            tensors[tensor.name] = content.numbers
            if content.grid:
                grids[tensor.name] = content.grid
        if weights_hash(tensors) != member.sha256:
            raise DamagedError("the weights are not those that were packed")
    except DamagedError as error:
        raise UserError(f"{packed.path} is damaged: {error}") from None
    return tensors, grids


def _chosen(packed: PackedFile, member: str | None) -> str:
    names = list(packed.index.members)
    if member is None and len(names) == 1:
        return names[0]
    if member not in names:
        problem = "is a family: choose a member" if member is None else f"has no member {member!r}"
        raise UserError(f"{packed.path} {problem}; it holds {', '.join(names)}")
    return member


def _skeleton(packed: PackedFile, name: str) -> Skeleton:
    """The member's architecture; checks the declared shapes against it before memory is allocated for them."""
    member = packed.index.members[name]
    config = _files(packed, member, (CONFIG,)).get(CONFIG)
    if config is None:
        raise UserError(f"{packed.path} is damaged: it has no {CONFIG}")
    try:
        return Skeleton(config, {tensor.name: tensor.shape for tensor in member.tensors})
    except UserError as error:
        raise UserError(f"{packed.path} is damaged: {error}") from error


def _files(packed: PackedFile, member: Member, only: tuple[str, ...] = ()) -> Mapping[str, bytes]:
    try:
        return {
            file.name: coding.decompress(packed.stream(file.stream), file.size)
            for file in member.files
            if not only or file.name in only
        }
    except DamagedError as error:
        raise UserError(f"{packed.path} is damaged: {error}") from None


def _write_member(packed: PackedFile, name: str, folder: Path) -> None:
    _skeleton(packed, name)
    tensors, grids = read_member(packed, name)
    folder.mkdir(parents=True)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    if grids:
        grid.save(folder, grids)
    for file, content in _files(packed, packed.index.members[name]).items():
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_bytes(content)


def _complete(model: Any, missing: set[str], path: str | Path) -> Any:
    """Drop a pooler without saved weights, which would be random, and refuse any other missing weight."""
    if lacking := sorted(name for name in missing if "pooler." not in name):
        raise UserError(f"{path} has no weights for {lacking[0]}")
    if missing:
        getattr(model, model.base_model_prefix, model).pooler = None
    return model
