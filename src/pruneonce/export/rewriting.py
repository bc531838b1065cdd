"""Rewriting of an ONNX graph, in place, for engines: older operators, 16-bit storage, and faster forms.

Graphs are `onnx_ir.Graph`, models `onnx_ir.Model`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pruneonce.errors import UserError

FP16_MOST = float(np.finfo(np.float16).max)


def keep_layer_norms(graph: Any) -> None:
    """Write the sum before a LayerNormalization as `Sum`, which means the same as `Add` for two tensors.

    ONNX Runtime 1.32 makes SkipLayerNormalization of `Add` and LayerNormalization, whose kernel is slower than the two
    (benchmarks/results/exports.md); it does not look for `Sum`.
    """
    for node in graph.all_nodes():
        if node.op_type == "LayerNormalization":
            added = node.inputs[0].producer()
            if added is not None and added.op_type == "Add":
                added.op_type = "Sum"


def store_fp16(graph: Any) -> None:
    """Store fp32 matrices in 16 bits, each with a Cast to fp32 behind it.

    Vectors and scales stay fp32: they are small, and the grid of integers depends on them.

    Raises:
        UserError: there are no such matrices, or a number is beyond the range of fp16.
    """
    import onnx_ir

    before = len(graph)

    for name, value in list(graph.initializers.items()):
        if value.dtype != onnx_ir.DataType.FLOAT or len(value.shape) != 2 or name.endswith("_scale"):
            continue
        array = value.const_value.numpy()
        if np.abs(array).max(initial=0) > FP16_MOST:
            raise UserError(f"{name} has numbers beyond {FP16_MOST:.0f}, the most of fp16; export it without --fp16")
        tensor = onnx_ir.tensor(array.astype(np.float16), name=f"{name}.fp16")
        stored = onnx_ir.Value(
            name=tensor.name, shape=value.shape, type=onnx_ir.TensorType(onnx_ir.DataType.FLOAT16), const_value=tensor
        )
        uses = list(value.uses())
        graph.register_initializer(stored)
        cast = onnx_ir.node("Cast", [stored], {"to": onnx_ir.DataType.FLOAT})
        cast.outputs[0].name = f"{name}.fp32"
        cast.outputs[0].dtype, cast.outputs[0].shape = onnx_ir.DataType.FLOAT, value.shape
        graph.insert_before(graph[0], cast)
        for node, index in uses:
            node.replace_input_with(index, cast.outputs[0])
        del graph.initializers[name]
    if len(graph) == before:
        raise UserError("the model has no fp32 matrices to store in 16 bits; export it without --fp16")


def lower(model: Any, opset: int) -> None:
    """Express a model in an older opset.

    Raises:
        UserError: an operator of the model has no such form there.
    """
    import onnx_ir
    from onnx import defs

    if onnx_ir.DataType.INT4 in [value.dtype for value in model.graph.initializers.values()]:
        raise UserError(f"opset {opset} has no 4-bit integers with grouped scales; export it without --opset")
    for node in list(model.graph.all_nodes()):
        if node.op_type == "Gelu" and opset < 20:
            _decompose_gelu(node, model.graph)
        elif node.op_type == "Split" and opset < 18:
            node.attributes.pop("num_outputs", None)  # equal parts are the default
    for node in model.graph.all_nodes():
        schema = defs.get_schema(node.op_type, opset, node.domain)
        allowed = schema.inputs[-1].option == defs.OpSchema.FormalParameterOption.Variadic
        unknown = set(node.attributes) - set(schema.attributes)
        if unknown or (len(node.inputs) > len(schema.inputs) and not allowed):
            raise UserError(f"opset {opset} cannot express {node.op_type} of this model; choose a newer --opset")
        node.version = None
    model.opset_imports[""] = opset


def _decompose_gelu(node: Any, graph: Any) -> None:
    """Write Gelu as `x (1 + erf(x / sqrt(2))) / 2`, or its approximation by tanh, in the forms that engines fuse.

    https://onnx.ai/onnx/operators/onnx__Gelu.html
    """
    import onnx_ir

    (x,) = node.inputs
    result = node.outputs[0]
    added: list[Any] = []

    def constant(number: float) -> Any:
        name = f"{result.name}.{number:.6g}"
        tensor = onnx_ir.tensor(np.float32(number), name=name)
        kind = onnx_ir.TensorType(onnx_ir.DataType.FLOAT)
        value = onnx_ir.Value(name=name, shape=onnx_ir.Shape([]), type=kind, const_value=tensor)
        graph.register_initializer(value)
        return value

    def step(operator: str, *inputs: Any) -> Any:
        added.append(onnx_ir.node(operator, list(inputs)))
        value = added[-1].outputs[0]
        value.name = f"{result.name}.{operator}{len(added)}"
        value.dtype, value.shape = onnx_ir.DataType.FLOAT, result.shape
        return value

    one, half = constant(1.0), constant(0.5)
    if "approximate" in node.attributes and node.attributes["approximate"].as_string() == "tanh":
        cube = step("Mul", constant(0.044715), step("Mul", x, step("Mul", x, x)))
        bounded = step("Tanh", step("Mul", constant(math.sqrt(2 / math.pi)), step("Add", x, cube)))
    else:
        bounded = step("Erf", step("Div", x, constant(math.sqrt(2))))
    last = step("Mul", step("Mul", x, step("Add", bounded, one)), half)
    graph.insert_before(node, added)
    name = result.name
    for user, index in list(result.uses()):
        user.replace_input_with(index, last)
    graph.remove(node)
    last.name = name
