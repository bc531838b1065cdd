"""Engine ONNX Runtime.

Session options and their meanings:
https://github.com/microsoft/onnxruntime/blob/main/include/onnxruntime/core/session/onnxruntime_session_options_config_keys.h
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pruneonce.engines.engine import Engine

if TYPE_CHECKING:
    from pruneonce.engines.session import Array, Outputs, Session

# Otherwise idle threads go on spinning and take the processor from the work that follows.
# The fusion makes SkipLayerNormalization, whose kernel is slower than those of Add and LayerNormalization.
SETTINGS = {
    "session.force_spinning_stop": "1",
    "optimization.disable_specified_optimizers": "SkipLayerNormFusion",
}
# Products of uint8 and uint8: slower, but right where products of uint8 and int8 overflow.
WITHOUT_VNNI = {"session.x64quantprecision": "1"}
EXACT = {"session.qdq_matmulnbits_accuracy_level": "1"}  # otherwise inputs of 4-bit weights are rounded to int8


def open_model(file: str | Path, threads: int | None, exact: bool) -> Session:
    """Open a .onnx file; the arguments are those of `pruneonce.engines.open_engine`."""
    import onnxruntime
    import torch

    from pruneonce.engines.session import Session, in_one_line
    from pruneonce.system import machine

    threads = threads or torch.get_num_threads()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    settings = SETTINGS | (EXACT if exact else {}) | (WITHOUT_VNNI if machine.overflows_int8() else {})
    for key, value in settings.items():
        options.add_session_config_entry(key, value)
    with in_one_line(f"ONNX Runtime cannot open {file}"):
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    outputs = [value.name for value in session.get_outputs()]

    def run(batch: dict[str, Array]) -> Outputs:
        with in_one_line(f"ONNX Runtime cannot run {file}"):
            return dict(zip(outputs, session.run(None, batch), strict=True))

    return Session(ENGINE.name, [value.name for value in session.get_inputs()], "fp32", threads, run)


ENGINE = Engine(
    name="onnxruntime", title="ONNX Runtime", library="onnxruntime", open=open_model, format="onnx", extra="onnx"
)
