"""Engine OpenVINO, on the processor.

https://docs.openvino.ai/2026/openvino-workflow/running-inference/inference-devices-and-modes/cpu-device.html
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruneonce.config.openvino import SPARSE
from pruneonce.engines.engine import Engine

if TYPE_CHECKING:
    from pruneonce.engines.session import Array, Outputs, Session

# A thread that is pinned to a core waits for other programs there; the other engines do not pin their threads.
SETTINGS = {"PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
# With this key, integers are multiplied as the fp32 numbers that they stand for. Results are right, and no slower on
# processors whose products of int8 overflow (benchmarks/results/without_vnni.md). There is no public key for it; this
# one is `ov::internal` in OpenVINO's source.
WITHOUT_VNNI = {"LP_TRANSFORMS_MODE": False}
ZEROS = "zeros skipped"  # results are equal; whether it is faster depends on the model
PRECISIONS = {"f32": "fp32", "f16": "fp16"}


@cache
def core() -> Any:
    """Return the one core of the process, which is never given up.

    Each core of OpenVINO 2026.4 moves the signal stack of its thread to memory of its own. If two cores do not go in
    the order in which they came, the second one restores a stack that is gone, and the next signal ends the process.
    """
    import openvino

    return openvino.Core()


def open_model(file: str | Path, threads: int | None, exact: bool) -> Session:
    """Open an .xml file with its .bin beside it; the arguments are those of `pruneonce.engines.open_engine`."""
    return _open(file, threads, EXACT if exact else {})


def alternatives(file: str | Path, threads: int | None) -> dict[str, Session]:
    """Open the file with the kernel for zeros, if the processor has AMX."""
    from pruneonce.system import machine

    return {ZEROS: _open(file, threads, SPARSE)} if "amx_int8" in machine.instruction_sets() else {}


def _open(file: str | Path, threads: int | None, more: dict[str, Any]) -> Session:
    import torch

    from pruneonce.engines.session import Session, in_one_line
    from pruneonce.system import machine

    threads = threads or torch.get_num_threads()
    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, **SETTINGS}
    settings |= more | (WITHOUT_VNNI if machine.overflows_int8() else {})
    with in_one_line(f"OpenVINO cannot open {file}"):
        model = core().compile_model(file, "CPU", settings)
        precision = model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        inputs = [value.get_any_name() for value in model.inputs]

    def run(batch: dict[str, Array]) -> Outputs:
        with in_one_line(f"OpenVINO cannot run {file}"):
            outputs = model(batch)
            return {value.get_any_name(): outputs[value] for value in model.outputs}

    return Session(ENGINE.name, inputs, PRECISIONS.get(precision, precision), threads, run)


ENGINE = Engine(
    name="openvino",
    title="OpenVINO",
    library="openvino",
    open=open_model,
    format="openvino",
    extra="openvino",
    alternatives=alternatives,
)
