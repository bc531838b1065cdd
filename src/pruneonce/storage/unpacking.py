"""Unpacking of a packed file to model folders, or to a model in memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pruneonce.errors import UserError
from pruneonce.models import grid, load_config, load_reporting
from pruneonce.models.grid import Grid
from pruneonce.models.loading import build, class_of, whole
from pruneonce.storage import coding
from pruneonce.storage.coding import DamagedError
from pruneonce.storage.container import SUFFIX, PackedFile, is_a_family, place_of
from pruneonce.storage.index import File, Member, Tensor
from pruneonce.storage.skeleton import Skeleton
from pruneonce.storage.source import CONFIG, WEIGHTS
from pruneonce.storage.tensors import WeightsHash, decode
from pruneonce.system import durable, locks
from pruneonce.wording import first_line

ALIGNMENT = 8  # bytes of a safetensors header
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
        UserError: the file is of another kind or damaged, has no such member, `folder` exists, or another process
            unpacks to it.
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
    content = aside / "content"
    with durable.writing(target), locks.scope():
        aside.mkdir(parents=True, exist_ok=True)
        locks.take(aside)
        try:
            shutil.rmtree(content, ignore_errors=True)  # of an unpacking that was killed
            for name, place in places.items():
                _write_member(packed, name, content / place)
            durable.publish(content, target)
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
        return whole(model, missing, path)
    packed = PackedFile(Path(path))
    name = _chosen(packed, member)
    skeleton = _skeleton(packed, name)
    shapes = packed.index.members[name].shapes

    def read() -> dict[str, torch.Tensor]:
        return {key: torch.from_numpy(numbers) for key, numbers in read_member(packed, name)[0].items()}

    try:
        model, missing = build(skeleton.model_class, skeleton.config, shapes, read, str(path))
    except UserError:
        raise
    except Exception as error:  # settings of a configuration other than shapes can fail in any way
        raise UserError(f"{path} cannot be loaded: {first_line(error)}") from error
    return whole(model, missing, path)


def read_member(packed: PackedFile, name: str) -> tuple[Tensors, dict[str, Grid]]:
    """Read the weights of a member, and the grids of its quantized weights.

    Raises:
        UserError: the weights are not those that were packed.
    """
    member = packed.index.members[name]
    tensors, grids = {}, {}
    for tensor, numbers, recorded in _contents(packed, member):
        tensors[tensor.name] = numbers
        if recorded:
            grids[tensor.name] = recorded
    return tensors, grids


def _contents(packed: PackedFile, member: Member) -> Iterator[tuple[Tensor, npt.NDArray[np.generic], Grid | None]]:
    """Decode the tensors of a member one after another, in the order of names, and compare their hash at the end.

    Raises:
        UserError: the weights are not those that were packed.
    """
    digest = WeightsHash()
    try:
        for tensor in sorted(member.tensors, key=lambda tensor: tensor.name):
            content = decode(tensor, packed)
            numbers = content.numbers
            digest.add(tensor.name, numbers)
            yield tensor, numbers, content.grid
        if digest.hexdigest() != member.sha256:
            raise DamagedError("the weights are not those that were packed")
    except DamagedError as error:
        raise UserError(f"{packed.path} is damaged: {error}") from None


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
    config = next((file for file in member.files if file.name == CONFIG), None)
    if config is None:
        raise UserError(f"{packed.path} is damaged: it has no {CONFIG}")
    try:
        return Skeleton(_file(packed, config), member.shapes)
    except UserError as error:
        raise UserError(f"{packed.path} is damaged: {error}") from error


def _file(packed: PackedFile, file: File) -> bytes:
    try:
        return coding.decompress(packed.stream(file.stream), file.size)
    except DamagedError as error:
        raise UserError(f"{packed.path} is damaged: {error}") from None


def _write_member(packed: PackedFile, name: str, folder: Path) -> None:
    _skeleton(packed, name)
    folder.mkdir(parents=True)
    grids = _write_weights(packed, packed.index.members[name], folder / WEIGHTS)
    if grids:
        grid.save(folder, grids)
    for file in packed.index.members[name].files:
        (folder / file.name).parent.mkdir(exist_ok=True)
        (folder / file.name).write_bytes(_file(packed, file))


def _write_weights(packed: PackedFile, member: Member, file: Path) -> dict[str, Grid]:
    """Write the weights of a member, tensor by tensor, so that one at a time is in memory; return their grids.

    The layout is that of safetensors, https://github.com/huggingface/safetensors#format, whose own writer takes all
    tensors at once.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in sorted(member.tensors, key=lambda tensor: tensor.name):
        begin, end = end, end + tensor.bytes
        header[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    grids = {}
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for tensor, numbers, recorded in _contents(packed, member):
            stream.write(np.ascontiguousarray(numbers).reshape(-1).view(np.uint8).data)
            if recorded:
                grids[tensor.name] = recorded
    return grids
