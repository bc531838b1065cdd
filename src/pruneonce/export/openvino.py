"""Model folders to OpenVINO's intermediate representation, by way of ONNX: its own PyTorch frontend traces with
`torch.jit`, which is deprecated."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from pruneonce.export.onnx import need, to_onnx

FILE, WEIGHTS = "openvino_model.xml", "openvino_model.bin"  # as optimum-intel names them


def to_openvino(source: str | Path, folder: Path) -> Path:
    """Write `openvino_model.xml` and `openvino_model.bin` into `folder`.

    Args:
        source: any model folder (or hub id), as for `to_onnx`.

    Raises:
        UserError: there is no model, or the extra `openvino` is not installed.
    """
    need("openvino", "openvino")
    with TemporaryDirectory() as scratch:
        return convert(to_onnx(source, Path(scratch)), folder)


def convert(onnx: Path, folder: Path) -> Path:
    """An ONNX file as OpenVINO's; integer weights stay integers."""
    import openvino

    folder.mkdir(parents=True, exist_ok=True)
    openvino.save_model(openvino.convert_model(onnx), folder / FILE, compress_to_fp16=False)
    return folder / FILE
