"""Engines that run a model on the processor, each called the same way.

Each engine is a file of this package, with an `ENGINE` that declares it. The import is light: torch and the engines'
libraries are imported when a model is opened.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pruneonce.engines import onnxruntime, openvino, pytorch, runtime
from pruneonce.engines.engine import Engine
from pruneonce.errors import UserError
from pruneonce.export import FORMATS
from pruneonce.wording import listed

if TYPE_CHECKING:
    from pruneonce.engines.session import Session

__all__ = ["ENGINES", "Engine", "engine_of", "library_of", "open_engine", "open_file", "require", "title_of"]

# Every engine by its name, in the order of timing; every list of engines is made from this table.
ENGINES: dict[str, Engine] = {
    one.name: one for one in (pytorch.ENGINE, onnxruntime.ENGINE, openvino.ENGINE, runtime.ENGINE)
}
WEIGHTS = "*.safetensors"


def open_engine(folder: str | Path, engine: str, threads: int | None = None, *, exact: bool = False) -> Session:
    """Open a model in an engine.

    Args:
        folder: for torch a model folder (or hub id), which runs as fake quantization where it is quantized; for an
            engine that reads a format, a folder that `pruneonce export` made in that format; for pruneonce a model
            folder (or hub id), a packed file, or a model of a family as FILE.pruneonce/MEMBER.
        engine: a name in ENGINES.
        threads: of the processor; None: as many as PyTorch has. PyTorch's own number is the process's, and is set.
        exact: with activations in fp32, to compare engines with each other. Without it an engine rounds as it does
            by default: OpenVINO to bf16 on processors that have it, OpenVINO and ONNX Runtime to int8 before 4-bit
            weights.

    Raises:
        UserError: there is no such engine or model, the engine is not installed, or it cannot open the model; a file
            of an export is damaged.
    """
    declared = require(engine)
    if declared.format is None:
        return declared.open(folder, threads, exact)
    file = FORMATS[declared.format].file
    if not (Path(folder) / file).is_file():
        raise UserError(
            f"{folder} has no {file}, which {engine} needs; `pruneonce export MODEL --output FOLDER "
            f"--format {declared.format}` makes one"
        )
    from pruneonce.export import files  # imports torch

    files.must_be_whole(Path(folder), declared.format)
    return declared.open(Path(folder) / file, threads, exact)


def open_file(file: Path, engine: str, threads: int | None = None, *, exact: bool = False) -> Session:
    """Open a file that this process has just written, as `open_engine` but without comparing hashes."""
    return require(engine).open(file, threads, exact)


def engine_of(folder: str | Path) -> str | None:
    """Return the engine that an exported folder or a packed file is for; None for a model folder, which fits any.

    Raises:
        UserError: the folder has no weights, only exports in folders of their own, as `export --into` makes it.
    """
    from pruneonce.storage.container import place_of  # imports torch

    if place_of(folder):
        return next(name for name, one in ENGINES.items() if one.opens_packed)
    if list(Path(folder).glob(WEIGHTS)):
        return None
    reading = {name: FORMATS[engine.format].file for name, engine in ENGINES.items() if engine.format is not None}
    own = next((name for name, file in reading.items() if (Path(folder) / file).is_file()), None)
    inside = [f"{folder}/{name}" for name, one in FORMATS.items() if (Path(folder) / name / one.file).is_file()]
    if own is None and inside:
        raise UserError(f"{folder} holds exports and no weights; give {listed(inside, 'or')}")
    return own


def require(engine: str) -> Engine:
    """Return the declaration of an engine that can run here.

    Raises:
        UserError: there is no such engine, or it is not installed.
    """
    if engine not in ENGINES:
        raise UserError(f"no engine {engine!r}; there are {', '.join(ENGINES)}")
    ENGINES[engine].require()
    return ENGINES[engine]


def library_of(engine: str) -> str:
    """Return the name of an engine's library; the plain name for an engine that no longer exists."""
    return ENGINES[engine].library if engine in ENGINES else engine


def title_of(engine: str) -> str:
    """Return an engine's name for people; the plain name for an engine that no longer exists, as in an old summary."""
    return ENGINES[engine].title if engine in ENGINES else engine
