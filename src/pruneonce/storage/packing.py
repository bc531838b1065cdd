"""From model folders to a packed file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from pruneonce.errors import UserError
from pruneonce.models import PROVENANCE, grid, key_of, read_provenance
from pruneonce.storage import coding, sizes, source, unpacking
from pruneonce.storage.coding import Bools
from pruneonce.storage.container import SUFFIX, PackedFile, Writer
from pruneonce.storage.index import File, Member, Tensor
from pruneonce.storage.sizes import RoundingError, Sizes
from pruneonce.storage.source import Source
from pruneonce.storage.tensors import Content, encode, weights_hash
from pruneonce.system import durable

Values = Literal["fp32", "int8", "int4"]
Contents = dict[str, Content]

# With fewer zeros than this, a pattern beside the values saves nothing.
SPARSE = 0.1
# Kept weights that share a scale at 4 bits, about: at 90 % zeros, as many scales as for 64 neighbours would take
# more room than half of the values.
GROUP = 64
# Patterns of one parent differ by what fine-tuning or rounding made zero besides.
MAX_UNION = 1.1


def pack(models: Sequence[str | Path], output: str | Path, values: Values = "int8") -> Sizes:
    """Pack one model, or a family of them that shares a zero pattern, into the file `output`.

    Weights whose grid is recorded beside them (see `grid`) keep it, without loss. Otherwise `values` says how the
    encoder's Linear weights and the embedding tables are stored: `fp32` as they are, bit for bit; `int8` rounded to
    the nearest with a scale for every output channel (row); `int4` the same with 4 bits for the encoder, and a scale
    for about 64 kept weights of a channel. LayerNorm, biases and heads stay as they are. A kept weight that rounds to
    0 is a zero from then on.

    Args:
        models: model folders.
        output: `.pruneonce` file to write, which must not exist. What was written has been read back and compared.

    Raises:
        UserError: a folder is not a model or cannot be packed, `output` exists, or several models do not share a zero
            pattern.
    """
    folders, target = [Path(model) for model in models], Path(output)
    _check_target(target)
    names = source.member_names(folders)
    members = [source.read(folder) for folder in folders]
    report = Sizes(str(output), names, values)
    contents = [_contents(member, folder, values, report) for member, folder in zip(members, folders, strict=True)]
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
    """What to store of each tensor. Rounding is entered in the report, and in the model's provenance."""
    errors = {part: RoundingError() for part in report.errors}
    found = {}
    for name, numbers in member.tensors.items():
        try:
            if name in member.grids:
                found[name] = _on_grid(numbers, member.grids[name])
            elif values == "fp32" or member.parts[name] == "rest" or not numbers.size:
                found[name] = Content(numbers)
            else:
                found[name] = _rounded(numbers, member.parts[name], values, errors[member.parts[name]])
        except ValueError as error:
            raise UserError(f"cannot pack {name} of {folder}: {error}") from None
    if any(error.weights for error in errors.values()):
        _note_rounding(member.files, folder, values)
    for part, rounding in errors.items():
        report.errors[part] += rounding
    return found


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
    """In how many equal groups to part the inputs of a channel, so that a group has `GROUP` kept weights or more."""
    channels, inputs = numbers.shape
    wanted = np.count_nonzero(numbers) // (channels * GROUP)
    return max((n for n in range(1, wanted + 1) if inputs % n == 0), default=1)


def _note_rounding(files: dict[str, bytes], folder: Path, values: Values) -> None:
    """A rounded model is another model: its provenance says so, and has another key."""
    made = read_provenance(folder)
    if made and "key" in made:
        rounded = {"key": key_of(made["key"], "pack", values), "packed": {"values": values, "parent": made["key"]}}
        files[PROVENANCE] = (json.dumps({**made, **rounded}, indent=1) + "\n").encode()


def _patterns(members: Sequence[Source], contents: Sequence[Contents]) -> dict[str, Bools]:
    """The zero pattern of every sparse tensor of the encoder, by its name in the base model: what any member keeps.

    Raises:
        UserError: the members have patterns of their own.
    """
    union: dict[str, Bools] = {}
    kept = [0] * len(members)
    for number, (member, stored) in enumerate(zip(members, contents, strict=True)):
        for name, content in stored.items():
            if member.parts[name] == "encoder":
                key = _pattern_key(member, name)
                kept[number] += int(content.kept.sum())
                union[key] = union[key] | content.kept if key in union else content.kept
    together = sum(int(pattern.sum()) for pattern in union.values())
    if together > MAX_UNION * max(kept):
        raise UserError(
            f"the models do not share one zero pattern: the densest keeps {max(kept):,} weights of the encoder, and "
            f"together they keep {together:,}; a family has one sparse parent. Pack them one by one"
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
    files = []
    for name, text in member.files.items():
        data = coding.compress_text(text)
        stream, is_new = writer.add(data)
        report.files += len(data) * is_new
        files.append(File(name=name, size=len(text), stream=stream))
    unpacked = weights_hash({name: content.numbers for name, content in contents.items()})
    return Member(sha256=unpacked, tensors=tensors, files=files)


def _adder(writer: Writer, part: sizes.Part) -> Callable[[bytes, float], int]:
    """Stores streams and enters new ones in the account of a part."""

    def add(data: bytes, limit: float) -> int:
        stream, is_new = writer.add(data)
        if is_new:
            part.packed += len(data)
            part.limit += limit / 8
        return stream

    return add
