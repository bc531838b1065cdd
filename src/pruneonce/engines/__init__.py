"""Engines that run a model on the processor, each called the same way: PyTorch, ONNX Runtime and OpenVINO."""

from __future__ import annotations

from pathlib import Path

from pruneonce.engines import onnxruntime, openvino, pytorch
from pruneonce.engines.engine import Engine
from pruneonce.errors import UserError
from pruneonce.export import files
from pruneonce.export.onnx import need

__all__ = ["ENGINES", "Engine", "engine_of", "open_engine", "open_file", "require"]

ENGINES = ("torch", "onnxruntime", "openvino")
EXTRAS = {"onnxruntime": "onnx", "openvino": "openvino"}  # what has to be installed, and the format that they read
FILES = {engine: files.FILES[format][0] for engine, format in EXTRAS.items()}
WEIGHTS = "*.safetensors"


def open_engine(folder: str | Path, engine: str, threads: int | None = None, *, exact: bool = False) -> Engine:
    """Open a model in an engine.

    Args:
        folder: for torch a model folder (or hub id), which runs as fake quantization where it is quantized; for
            onnxruntime and openvino a folder that `pruneonce export` made for it.
        engine: one of ENGINES.
        threads: of the processor; None: as many as PyTorch has. PyTorch's own number is the process's, and is set.
        exact: with activations in fp32, to compare engines with each other. Without it an engine rounds as it does
            by default: OpenVINO to bf16 on processors that have it, both to int8 before 4-bit weights.

    Raises:
        UserError: there is no such engine or model, the engine is not installed, or it cannot open the model; a file
            of an export is not what was written.
    """
    require(engine)
    if engine in FILES and not (Path(folder) / FILES[engine]).is_file():
        raise UserError(
            f"{folder} has no {FILES[engine]}, which {engine} needs; `pruneonce export MODEL --output FOLDER "
            f"--format {EXTRAS[engine]}` makes one"
        )
    if engine == "torch":
        return pytorch.open_model(folder, threads)
    files.must_be_whole(Path(folder), EXTRAS[engine])
    return open_file(Path(folder) / FILES[engine], engine, threads, exact=exact)


def open_file(file: Path, engine: str, threads: int | None = None, *, exact: bool = False) -> Engine:
    """As `open_engine`, of a file that this process has just written: nothing is compared."""
    opener = onnxruntime.open_model if engine == "onnxruntime" else openvino.open_model
    return opener(file, threads, exact)


def engine_of(folder: str | Path) -> str | None:
    """The one engine that an exported folder is for; None for a model folder, which can be exported for any."""
    if list(Path(folder).glob(WEIGHTS)):
        return None
    return next((engine for engine, file in FILES.items() if (Path(folder) / file).is_file()), None)


def require(engine: str) -> None:
    """
    Raises:
        UserError: there is no such engine, or it is not installed.
    """
    if engine not in ENGINES:
        raise UserError(f"no engine {engine!r}; there are {', '.join(ENGINES)}")
    if engine in EXTRAS:
        need(engine, EXTRAS[engine])
