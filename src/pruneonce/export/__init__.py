"""Models in the formats of inference engines: ONNX and OpenVINO."""

from pruneonce.export.onnx import to_onnx
from pruneonce.export.openvino import to_openvino

__all__ = ["to_onnx", "to_openvino"]
