"""What a run made: all of it, without the clock, to compare it with another run; and whether it is whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import safe_open

from pruneonce import storage
from pruneonce.export import FORMATS, files
from pruneonce.models import read_provenance
from pruneonce.training import checkpoints

# What differs between any two runs. A packed file holds times too, so of its sizes those of its tensors are compared.
CLOCK = ("seconds", "created", "bytes", "files_bytes", "index_bytes")
CLOCK += ("milliseconds", "low", "high", "per_second", "runs", "speedup", "busy")
# Made anew from what is compared, or of no consequence.
LEFT_OUT = ("cache", "tensorboard", "report.html", "README.md", "lock")


def content(run: Path) -> dict[str, Any]:
    """All that a run made, without the clock, by name: tensors and exports as bytes, records as JSON."""
    return {f"{file.relative_to(run)}{name}": value for file in _finished(run) for name, value in _read(run, file)}


def unreadable(run: Path) -> list[str]:
    """What is under a final name and not whole."""
    bad = [
        f"{path}: {checkpoints.damage(path)}"
        for path in run.rglob("checkpoint-*")
        if path.suffix != ".partial" and not _is_on_its_way_out(run, path) and checkpoints.damage(path)
    ]
    for file in _finished(run):
        try:
            for _ in _read(run, file):
                pass
            # In the folder of a sweep are those that lost, too, and half of one is only on its way out.
            is_model = file.name == "config.json" and ".sweep/" not in str(file)
            if is_model and read_provenance(file.parent) is None:
                bad.append(f"{file.parent}: no provenance")
            for format in FORMATS.values():
                if file.name == format.file:
                    files.must_be_whole(file.parent, format.name)
        except Exception as error:
            bad.append(f"{file}: {error}")
    return bad


def _finished(run: Path) -> list[Path]:
    """The files under a final name."""
    found = (path for path in run.rglob("*") if path.is_file())
    return sorted(
        file
        for file in found
        if ".partial" not in str(file.relative_to(run))
        and not {*file.relative_to(run).parts} & {*LEFT_OUT}
        and not _is_on_its_way_out(run, file)
    )


def _is_on_its_way_out(run: Path, path: Path) -> bool:
    """Return whether a path is scratch of a finished folder, which is removed bit by bit and never read."""
    place = path.relative_to(run)
    return bool({"checkpoints", "head"} & {*place.parts}) and ".partial" not in str(place)


def _read(run: Path, file: Path) -> Iterator[tuple[str, Any]]:
    """What is in a file, part by part."""
    if file.suffix == ".safetensors":
        with safe_open(file, framework="np") as opened:
            for name in opened.keys():  # noqa: SIM118
                yield f": {name}", opened.get_tensor(name).tobytes()
    elif file.suffix == ".json":
        yield "", _without_clock(json.loads(file.read_text().replace(str(run), "RUN")))
    elif file.suffix == storage.SUFFIX:
        with TemporaryDirectory() as scratch:
            storage.unpack(file, Path(scratch) / "model")
            for inside in _finished(Path(scratch)):
                yield from ((f"/{inside.name}{name}", value) for name, value in _read(run, inside))
    else:
        yield "", file.read_bytes().replace(str(run).encode(), b"RUN")


def _without_clock(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_clock(inside) for key, inside in value.items() if key not in CLOCK}
    return [_without_clock(inside) for inside in value] if isinstance(value, list) else value
