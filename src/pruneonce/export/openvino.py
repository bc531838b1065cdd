"""Format of OpenVINO, its intermediate representation, by way of ONNX.

OpenVINO's own PyTorch frontend traces with `torch.jit`, which is deprecated.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pruneonce.export.format import Format, Options
from pruneonce.system.packages import need

TOKENIZER = ("openvino_tokenizer.xml", "openvino_tokenizer.bin")  # as OpenVINO GenAI names them


def convert(onnx: str | Path, folder: Path, options: Options | None = None) -> Path:
    """Write an ONNX file as OpenVINO's `openvino_model.xml` and `openvino_model.bin`; integer weights stay integers.

    Args:
        options: with which the ONNX file was written; None: the defaults.
    """
    import openvino

    folder.mkdir(parents=True, exist_ok=True)
    model = openvino.convert_model(onnx)
    transpose_weights(model)
    if options and options.fp16:
        restore_fp16(model)
    openvino.save_model(model, folder / FORMAT.file, compress_to_fp16=False)
    return folder / FORMAT.file


def transpose_weights(model: Any) -> None:
    """Store int8 weights as [out, in], in place, as NNCF does: OpenVINO's kernels for zeros take no other layout.

    https://docs.openvino.ai/2026/openvino-workflow/running-inference/inference-devices-and-modes/cpu-device.html

    Args:
        model: `openvino.Model`, whose integer weights are [in, out] with scales [1, out] or of one element.
    """
    import numpy as np
    import openvino
    from openvino import opset13 as ops

    transposed: dict[str, Any] = {}
    for product in model.get_ordered_ops():
        if product.get_type_name() != "MatMul" or product.get_attributes()["transpose_b"]:
            continue
        weight = product.input_value(1).get_node()
        kinds = [node.get_type_name() for node in (weight, *_sources(weight))]
        if kinds != ["Multiply", "Convert", "Constant"]:
            continue
        widened, scale = _sources(weight)
        (integers,) = _sources(widened)
        if integers.get_element_type() != openvino.Type.i8 or len(integers.shape) != 2:
            continue
        if weight.get_name() not in transposed:
            stored = [ops.constant(np.ascontiguousarray(node.data.T)) for node in (integers, scale)]
            for new, old in zip(stored, (integers, scale), strict=True):
                new.set_friendly_name(old.get_friendly_name())
            transposed[weight.get_name()] = ops.multiply(ops.convert(stored[0], "f32"), stored[1])
        product.set_argument(1, transposed[weight.get_name()].output(0))
        product.set_attribute("transpose_b", True)
    model.validate_nodes_and_infer_types()


def restore_fp16(model: Any) -> None:
    """Store the fp32 matrices that fp16 holds without loss in 16 bits, in place: conversion has widened them."""
    import numpy as np
    from openvino import opset13 as ops

    for constant in model.get_ops():
        if constant.get_type_name() != "Constant" or len(constant.shape) != 2 or min(constant.shape) == 1:
            continue
        if constant.get_element_type().to_string() != "f32":
            continue
        matrix = constant.data
        halves = matrix.astype(np.float16)
        if not np.array_equal(halves.astype(np.float32), matrix):
            continue
        stored = ops.constant(halves)
        stored.set_friendly_name(constant.get_friendly_name())
        users = list(constant.output(0).get_target_inputs())
        widened = ops.convert(stored, "f32").output(0)
        for user in users:
            user.replace_source_output(widened)
    model.validate_nodes_and_infer_types()


def _sources(node: Any) -> list[Any]:
    return [value.get_node() for value in node.input_values()]


def write_tokenizer(source: str | Path, folder: Path) -> None:
    """Write the tokenizer of a model as an OpenVINO model, `TOKENIZER`, which OpenVINO GenAI's pipelines read.

    Raises:
        UserError: the extra `openvino-tokenizer` is not installed, or has no such tokenizer.
    """
    need("openvino_tokenizers", "openvino-tokenizer")
    import openvino
    from openvino_tokenizers import convert_tokenizer

    from pruneonce.errors import UserError
    from pruneonce.models import load_tokenizer

    try:
        model = convert_tokenizer(load_tokenizer(source), with_detokenizer=False)
    except Exception as error:  # of no class in common
        raise UserError(f"OpenVINO cannot convert the tokenizer of {source}: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    openvino.save_model(model, folder / TOKENIZER[0], compress_to_fp16=False)


FORMAT = Format(
    name="openvino",
    files=("openvino_model.xml", "openvino_model.bin"),  # as optimum-intel names them
    extra="openvino",
    modules=("onnxscript", "openvino"),
    libraries=("onnx", "openvino"),
    write=convert,
    made_from="onnx",
    optional_files=TOKENIZER,
    options=frozenset({"fp16", "single_output", "tokenizer", "safe"}),
)
