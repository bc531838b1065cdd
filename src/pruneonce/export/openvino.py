"""Format of OpenVINO, its intermediate representation, by way of ONNX.

OpenVINO's own PyTorch frontend traces with `torch.jit`, which is deprecated.
"""

from __future__ import annotations

from pathlib import Path

from pruneonce.export.format import Format


def convert(onnx: str | Path, folder: Path) -> Path:
    """Write an ONNX file as OpenVINO's `openvino_model.xml` and `openvino_model.bin`; integer weights stay integers."""
    import openvino

    folder.mkdir(parents=True, exist_ok=True)
    openvino.save_model(openvino.convert_model(onnx), folder / FORMAT.file, compress_to_fp16=False)
    return folder / FORMAT.file


FORMAT = Format(
    name="openvino",
    files=("openvino_model.xml", "openvino_model.bin"),  # as optimum-intel names them
    extra="openvino",
    modules=("onnxscript", "openvino"),
    libraries=("onnx", "openvino"),
    write=convert,
    made_from="onnx",
)
