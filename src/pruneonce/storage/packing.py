"""Packing of model folders into a packed file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import numpy.typing as npt

from pruneonce.errors import UserError
from pruneonce.models import PROVENANCE, grid, key_of, read_provenance
from pruneonce.models.provenance import CONFIGURATION, SHA256, configuration_hashes, edited, key_as_found
from pruneonce.storage import coding, sizes, source, unpacking
from pruneonce.storage.coding import Bools
from pruneonce.storage.container import SUFFIX, PackedFile, Writer
from pruneonce.storage.index import MEMBER_NAME, File, Member, Tensor
from pruneonce.storage.sizes import RoundingError, Sizes
from pruneonce.storage.source import Source
from pruneonce.storage.tensors import Content, encode, weights_hash
from pruneonce.system import durable

Values = Literal["fp32", "int8", "int4"]
Contents = dict[str, Content]

# Share of zeros below which a pattern beside the values saves nothing.
SPARSE = 0.1
# Kept weights that share a scale at 4 bits, about. At 90 % zeros, a scale for every 64 neighbours would take more room
# than half of the values.
GROUP = 64
# Bound of the union of patterns: those of one parent differ only by the zeros of fine-tuning and rounding.
MAX_UNION = 1.1


def pack(models: Sequence[str | Path], output: str | Path, values: Values = "int8") -> Sizes:
    """Pack one model, or a family of models with one zero pattern, into the file `output`.

    Weights whose grid is recorded beside them (see `grid`) keep it, without loss. LayerNorm, biases and heads stay
    unchanged. The written file is read back and compared.

    Args:
        models: model folders, each a path or NAME=PATH. A packed file among them adds its members, bit for bit and
            under their names.
        output: `.pruneonce` file to write, which must not exist.
        values: storage of the encoder's Linear weights and the embedding tables. `fp32`: unchanged, bit for bit.
            `int8`: rounded to the nearest, with a scale for every output channel (row). `int4`: the encoder with 4 bits
            and a scale for about 64 kept weights of a channel, the tables as in `int8`. A weight that rounds to 0
            becomes a zero.

    Raises:
        UserError: a folder is not a model or cannot be packed, `output` exists, or several models do not share a zero
            pattern.
    """
    target = Path(output)
    _check_target(target)
    with TemporaryDirectory() as scratch:
        return _pack(_folders(models, Path(scratch), values), target, values)


@dataclass(frozen=True)
class _Folder:
    """Folder to pack: its place, the member's name, and how to store its weights."""

    place: Path
    name: str
    values: Values


def _folders(models: Sequence[str | Path], scratch: Path, values: Values) -> list[_Folder]:
    """Return the folders of `models`: those of packed files, which are unpacked into `scratch`, first."""
    kept, named, others = [], {}, []
    for number, model in enumerate(models):
        path = Path(model)
        if len(models) > 1 and path.suffix == SUFFIX and path.is_file():
            unpacked = scratch / str(number)
            names = list(PackedFile(path).index.members)
            places = unpacking.unpack(path, unpacked)
            kept += [_Folder(place, name, "fp32") for place, name in zip(places, names, strict=True)]
            continue
        name, equals, place = str(model).partition("=")
        if equals and not path.exists() and re.fullmatch(MEMBER_NAME, name):
            named[path := Path(place)] = name
        others.append(path)
    unnamed = [path for path in others if path not in named]
    found = dict(zip(unnamed, source.member_names(unnamed), strict=True)) if unnamed else {}
    folders = [*kept, *(_Folder(path, {**found, **named}[path], values) for path in others)]
    names = [folder.name for folder in folders]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"two members would be called {twice!r}; give the new one a name of its own: NAME={others[-1]}")
    return folders


def _pack(folders: Sequence[_Folder], target: Path, values: Values) -> Sizes:
    names = [folder.name for folder in folders]
    members = [source.read(folder.place) for folder in folders]
    report = Sizes(str(target), names, values)
    contents = [
        _contents(member, folder.place, folder.values, report) for member, folder in zip(members, folders, strict=True)
    ]
    patterns = _patterns(members, contents)
    writer = Writer()
    index = {
        name: _member(member, content, patterns, writer, report)
        for name, member, content in zip(names, members, contents, strict=True)
    }
    aside = durable.partial(target)
    try:
        writer.write(index, aside)
        written = PackedFile(aside)
        for name in index:
            unpacking.read_member(written, name)
        report.total = aside.stat().st_size
        durable.publish(aside, target)
    finally:
        aside.unlink(missing_ok=True)
    return report


def _check_target(target: Path) -> None:
    if target.suffix != SUFFIX:
        raise UserError(f"{target} is to be the packed file and must end in {SUFFIX}: pack MODEL... OUTPUT{SUFFIX}")
    if target.exists():
        raise UserError(f"{target} exists; choose another file")
    if not target.parent.is_dir():
        raise UserError(f"no folder {target.parent} to write {target.name} to")


def _contents(member: Source, folder: Path, values: Values, report: Sizes) -> Contents:
    """The content to store of each tensor. Rounding is entered in the report and in the model's provenance."""
    errors = {part: RoundingError() for part in report.errors}
    contents = {}
    for name, numbers in member.tensors.items():
        try:
            if name in member.grids:
                contents[name] = _on_grid(numbers, member.grids[name])
            elif values == "fp32" or member.parts[name] == "rest" or not numbers.size:
                contents[name] = Content(numbers)
            else:
                contents[name] = _rounded(numbers, member.parts[name], values, errors[member.parts[name]])
        except ValueError as error:
            raise UserError(f"cannot pack {name} of {folder}: {error}") from None
    _note_edit(member.files, folder)
    if any(error.weights for error in errors.values()):
        _note_rounding(member.files, folder, values)
    grids = {name: content.grid for name, content in contents.items() if content.grid is not None}
    _note_configuration(member.files, grids)
    for part, rounding in errors.items():
        report.errors[part] += rounding
    return contents


def _on_grid(numbers: npt.NDArray, recorded: grid.Grid) -> Content:
    if numbers.dtype != np.float32 or not recorded.fits(numbers.shape):
        raise ValueError(f"the grid in {grid.FILE} does not fit its type or shape")
    content = Content(recorded.quantize(numbers), recorded)
    if not np.array_equal(content.numbers, numbers):
        raise ValueError(f"it does not lie on the grid in {grid.FILE}; remove that file to round it anew")
    return content


def _rounded(numbers: npt.NDArray, part: str, values: Values, error: RoundingError) -> Content:
    if numbers.dtype != np.float32:
        raise ValueError(f"it is {numbers.dtype}, and rounding takes float32; pack with --values fp32")
    if not np.isfinite(numbers).all():
        raise ValueError("it has infinite or undefined weights; pack with --values fp32")
    is_narrow = values == "int4" and part == "encoder"
    fitted = grid.fit(numbers, 4, _groups(numbers)) if is_narrow else grid.fit(numbers, 8)
    content = Content(fitted.quantize(numbers), fitted)
    error.add(numbers, content.numbers)  # type: ignore[arg-type]
    return content


def _groups(numbers: npt.NDArray) -> int:
    """Number of equal groups of a channel's inputs, so that a group has at least `GROUP` kept weights."""
    channels, inputs = numbers.shape
    most = np.count_nonzero(numbers) // (channels * GROUP)
    return max((n for n in range(1, most + 1) if inputs % n == 0), default=1)


def _note_rounding(files: dict[str, bytes], folder: Path, values: Values) -> None:
    """Record the rounding in a model's provenance, with another key, since a rounded model is another model."""
    record = read_provenance(folder)
    if record and "key" in record:
        key = key_as_found(folder, record)
        rounded = {"key": key_of(key, "pack", values), "packed": {"values": values, "parent": key}}
        files[PROVENANCE] = source.without_places((json.dumps({**record, **rounded}, indent=1) + "\n").encode())


def _note_edit(files: dict[str, bytes], folder: Path) -> None:
    """Record the key of a model whose settings were edited, see `key_as_found`."""
    record = read_provenance(folder)
    if record and "key" in record and edited(folder, record):
        changed = {**record, "key": key_as_found(folder, record)}
        files[PROVENANCE] = source.without_places((json.dumps(changed, indent=1) + "\n").encode())


def _note_configuration(files: dict[str, bytes], grids: Mapping[str, grid.Grid]) -> None:
    """Record the hashes of the unpacked settings in a model's provenance, where it has some."""
    record = json.loads(files.get(PROVENANCE, b"{}"))
    if isinstance(record, dict) and CONFIGURATION in record:
        changed = {**record, CONFIGURATION: configuration_hashes(files, grids)}
        if changed != record:
            files[PROVENANCE] = (json.dumps(changed, indent=1) + "\n").encode()


def _note_hash(files: dict[str, bytes], unpacked: str) -> None:
    """Record the hash of the unpacked weights in a model's provenance, where it has one of the weights before."""
    record = json.loads(files.get(PROVENANCE, b"{}"))
    if isinstance(record, dict) and record.get(SHA256, unpacked) != unpacked:
        files[PROVENANCE] = (json.dumps({**record, SHA256: unpacked}, indent=1) + "\n").encode()


def _patterns(members: Sequence[Source], contents: Sequence[Contents]) -> dict[str, Bools]:
    """Union over the members of the kept weights of every sparse encoder tensor, by its name in the base model.

    Raises:
        UserError: the members do not share a zero pattern.
    """
    union: dict[str, Bools] = {}
    kept = [0] * len(members)
    for number, (member, stored) in enumerate(zip(members, contents, strict=True)):
        for name, content in stored.items():
            if member.parts[name] == "encoder":
                key = _pattern_key(member, name)
                kept[number] += int(content.kept.sum())
                union[key] = union[key] | content.kept if key in union else content.kept
    union_size = sum(int(pattern.sum()) for pattern in union.values())
    if union_size > MAX_UNION * max(kept):
        raise UserError(
            f"the models do not share one zero pattern: the densest keeps {max(kept):,} weights of the encoder, and "
            f"together they keep {union_size:,}; a family has one sparse parent. Pack them one by one"
        )
    return {key: pattern for key, pattern in union.items() if 1 - pattern.mean() >= SPARSE}


def _pattern_key(member: Source, name: str) -> str:
    return f"{member.short[name]} {member.tensors[name].shape}"


def _member(member: Source, contents: Contents, patterns: Mapping[str, Bools], writer: Writer, report: Sizes) -> Member:
    tensors: list[Tensor] = []
    for name, content in contents.items():
        part = report.parts[member.parts[name]]
        part.weights += content.stored.size
        part.dense += member.tensors[name].nbytes
        pattern = patterns.get(_pattern_key(member, name)) if member.parts[name] == "encoder" else None
        tensors.append(encode(name, content, pattern, _adder(writer, part)))
    unpacked = weights_hash({name: content.numbers for name, content in contents.items()})
    _note_hash(member.files, unpacked)
    files = []
    for name, text in member.files.items():
        data = coding.compress_text(text)
        stream, is_new = writer.add(data)
        report.files += len(data) * is_new
        files.append(File(name=name, size=len(text), stream=stream))
    return Member(sha256=unpacked, tensors=tensors, files=files)


def _adder(writer: Writer, part: sizes.Part) -> Callable[[bytes, float], int]:
    """Function that stores streams and adds the sizes of new streams to a part."""

    def add(data: bytes, limit: float) -> int:
        stream, is_new = writer.add(data)
        if is_new:
            part.packed += len(data)
            part.limit += limit / 8
        return stream

    return add
