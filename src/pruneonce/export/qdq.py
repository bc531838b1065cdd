"""Quantized modules in ONNX: integer weights, and QuantizeLinear and DequantizeLinear around the inputs of Linears.

https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.onnx import ops

from pruneonce.export.format import OPSETS
from pruneonce.quantization import QuantizedEmbedding, QuantizedLinear, quantize_weight

OPSET = OPSETS[-1]  # of the nodes made here; `rewriting.lower` gives the graph an older one
INT4_WEIGHT, INT8_WEIGHT = "weight_int4", "weight_int8"


class QDQLinear(nn.Module):
    """Linear for export only, which adds its nodes itself, since the exporter would leave fp32 weights in the file.

    The weight is stored as MatMul takes it, [in, out], so that nothing lies between it and its DequantizeLinear. Inputs
    of 4-bit weights are fp32: ONNX Runtime and OpenVINO have fast kernels for that, and OpenVINO 2026.4 cannot compile
    uint8 inputs to grouped weights in bf16.
    """

    weight_scale: Tensor
    input_scale: Tensor | None
    input_zero_point: Tensor | None

    def __init__(self, linear: QuantizedLinear):
        super().__init__()
        self.weight_name = INT4_WEIGHT if linear.bits == 4 else INT8_WEIGHT
        integers = quantize_weight(linear.weight, linear.weight_scale, linear.bits)
        self.register_buffer(self.weight_name, integers.T.contiguous())
        weight_scale = linear.weight_scale
        self.layout: dict[str, Any] = {}
        if weight_scale.dim() == 2:
            self.layout = {"axis": 0, "block_size": linear.in_features // weight_scale.shape[1]}
            weight_scale = weight_scale.T.contiguous()
        elif weight_scale.numel() > 1:
            self.layout = {"axis": 1}
        else:
            weight_scale = weight_scale.squeeze(0)
        self.register_buffer("weight_scale", weight_scale)
        scale, zero_point = linear.input_grid or (None, None)
        self.register_buffer("input_scale", None if scale is None else torch.tensor(scale))
        self.register_buffer("input_zero_point", None if scale is None else torch.tensor(zero_point, dtype=torch.uint8))
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        if self.input_scale is not None:
            grid = (self.input_scale, self.input_zero_point)
            integers = ops.symbolic("QuantizeLinear", (x, *grid), dtype=torch.uint8, shape=x.shape, version=OPSET)
            x = ops.symbolic("DequantizeLinear", (integers, *grid), dtype=torch.float32, shape=x.shape, version=OPSET)
        stored = getattr(self, self.weight_name)
        weight = ops.symbolic(
            "DequantizeLinear",
            (stored, self.weight_scale),
            attrs=self.layout,
            dtype=torch.float32,
            shape=stored.shape,
            version=OPSET,
        )
        product = x @ weight
        return product if self.bias is None else product + self.bias


class IntegerEmbedding(nn.Module):
    """Embedding for export only, which looks up integers and scales, and multiplies them.

    In this order nothing is constant but the integers, so that no engine makes fp32 of the whole table before it runs.
    """

    weight_int8: Tensor
    weight_scale: Tensor

    def __init__(self, table: QuantizedEmbedding):
        super().__init__()
        self.register_buffer("weight_int8", quantize_weight(table.weight, table.weight_scale, table.bits))
        self.register_buffer("weight_scale", table.weight_scale.unsqueeze(1))

    def forward(self, input: Tensor) -> Tensor:
        return F.embedding(input, self.weight_int8).float() * F.embedding(input, self.weight_scale)


def with_nodes(model: nn.Module) -> nn.Module:
    """Put a module for export in the place of each quantized one, in place, and return `model`.

    A table that a vocabulary head multiplies by stays fp32: the file holds it once, and not in int8 besides.
    """
    multiplied = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    replacements: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLinear):
            replacements[name] = QDQLinear(module)
        elif isinstance(module, QuantizedEmbedding) and id(module.weight) not in multiplied:
            replacements[name] = IntegerEmbedding(module)
    for name, module in replacements.items():
        model.set_submodule(name, module)
    return model


def add_zero_points(graph: Any) -> None:
    """Give int8 weights with a scale per channel their zero points, all 0, in place.

    If ONNX Runtime 1.32 is asked to make uint8 of int8 weights (see engines/onnxruntime.py), it adds a scalar of its
    own where no zero point is given, and then refuses it. Nor may two weights share their zero points, as they would if
    the exporter wrote them: it stores equal tensors once.

    Args:
        graph: `onnx_ir.Graph`.
    """
    import onnx_ir

    for node in graph.all_nodes():
        if node.op_type != "DequantizeLinear" or not node.inputs[0].name.endswith(f".{INT8_WEIGHT}"):
            continue
        weight, scale = node.inputs
        if len(scale.shape) == 1:
            name = f"{weight.name.removesuffix(INT8_WEIGHT)}weight_zero_point"
            shape = onnx_ir.Shape(scale.const_value.shape)
            zeros = onnx_ir.tensor(np.zeros(shape.numpy(), dtype=np.int8), name=name)
            value = onnx_ir.Value(name=name, shape=shape, type=onnx_ir.TensorType(zeros.dtype), const_value=zeros)
            graph.register_initializer(value)
            node.resize_inputs(3)
            node.replace_input_with(2, value)


def pack_int4(graph: Any) -> None:
    """Store 4-bit weights in 4 bits, in place: PyTorch has no such type, so they came as int8.

    Args:
        graph: `onnx_ir.Graph`.
    """
    import onnx_ir

    for name, value in list(graph.initializers.items()):
        if name.endswith(f".{INT4_WEIGHT}"):
            integers = np.asarray(value.const_value.numpy(), dtype=onnx_ir.DataType.INT4.numpy())
            value.const_value = onnx_ir.Tensor(integers, dtype=onnx_ir.DataType.INT4, name=name)
            value.dtype = onnx_ir.DataType.INT4
