"""Format ONNX: one file, which PyTorch's exporter writes (`pruneonce.export.graph`)."""

from __future__ import annotations

from pathlib import Path

from pruneonce.export.format import Format, Options


def to_onnx(source: str | Path, folder: Path, options: Options | None = None) -> Path:
    """Write `model.onnx` into `folder`.

    Args:
        source: any model folder (or hub id): dense, sparse or quantized; with a task head or without.
        options: None: the defaults.

    Raises:
        UserError: there is no model, an option does not suit it, or the extra `onnx` is not installed.
    """
    options = options or Options()
    FORMAT.require(options)
    from pruneonce.export.graph import program_of  # imports torch

    folder.mkdir(parents=True, exist_ok=True)
    program_of(source, options).save(folder / FORMAT.file)
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
    options=frozenset({"opset", "fp16", "single_output", "safe"}),
)
