"""Models in ONNX Runtime.

Session options, with what they mean:
https://github.com/microsoft/onnxruntime/blob/main/include/onnxruntime/core/session/onnxruntime_session_options_config_keys.h
"""

from __future__ import annotations

from pathlib import Path

import torch

from pruneonce.engines.engine import Array, Engine, Outputs, told_as
from pruneonce.system.machine import overflows_int8

# Idle threads would go on spinning and take the processor from whatever runs next.
SETTINGS = {"session.force_spinning_stop": "1"}
# Products of uint8 and uint8, slower and right, where those of uint8 and int8 overflow.
WITHOUT_VNNI = {"session.x64quantprecision": "1"}
EXACT = {"session.qdq_matmulnbits_accuracy_level": "1"}  # else the inputs of 4-bit weights are rounded to int8


def open_model(file: Path, threads: int | None, exact: bool) -> Engine:
    """As `open_engine`, of a .onnx file."""
    import onnxruntime

    threads = threads or torch.get_num_threads()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    settings = SETTINGS | (EXACT if exact else {}) | (WITHOUT_VNNI if overflows_int8() else {})
    for key, value in settings.items():
        options.add_session_config_entry(key, value)
    with told_as(f"ONNX Runtime cannot open {file}"):
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    outputs = [value.name for value in session.get_outputs()]

    def run(batch: dict[str, Array]) -> Outputs:
        with told_as(f"ONNX Runtime cannot run {file}"):
            return dict(zip(outputs, session.run(None, batch), strict=True))

    return Engine("onnxruntime", [value.name for value in session.get_inputs()], "fp32", threads, run)
