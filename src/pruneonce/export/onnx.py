"""Format ONNX: one file, which PyTorch's exporter writes (`pruneonce.export.graph`)."""

from __future__ import annotations

from pathlib import Path

from pruneonce.export.format import Format


def to_onnx(source: str | Path, folder: Path) -> Path:
    """Write `model.onnx` into `folder`.

    Args:
        source: any model folder (or hub id): dense, sparse or quantized; with a task head or without.

    Raises:
        UserError: there is no model, or the extra `onnx` is not installed.
    """
    FORMAT.require()
    from pruneonce.export.graph import program_of  # imports torch

    folder.mkdir(parents=True, exist_ok=True)
    program_of(source).save(folder / FORMAT.file)
    return folder / FORMAT.file


FORMAT = Format(
    name="onnx",
    files=("model.onnx",),
    extra="onnx",
    modules=("onnxscript",),
    libraries=("onnx",),
    write=to_onnx,
    # transformers.js asks for a file by `dtype`: https://huggingface.co/docs/transformers.js/guides/dtypes
    more_names={"int8": ("model_quantized.onnx", "model_int8.onnx"), "int4": ("model_q4.onnx",)},
)
