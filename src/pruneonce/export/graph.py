"""ONNX program of a model, by PyTorch's exporter; of a quantized model a QDQ graph with integer weights.

The inputs of the graph are those of the tokenizer, with dynamic batch and sequence, and the outputs those of the model,
under the same names. Nothing in it is this package's.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.onnx import OnnxExporterError

from pruneonce import quantization
from pruneonce.errors import UserError
from pruneonce.export import rewriting, saturation
from pruneonce.export.format import Options
from pruneonce.export.qdq import OPSET, add_zero_points, pack_int4, with_nodes
from pruneonce.models import load_as_saved, load_tokenizer


class _Positional(nn.Module):
    """Model with its inputs in order and its outputs as a tuple."""

    def __init__(self, model: nn.Module, inputs: list[str], outputs: list[str]):
        super().__init__()
        self.model = model
        self.inputs = inputs
        self.outputs = outputs

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model(**dict(zip(self.inputs, values, strict=True)))
        return tuple(outputs[name] for name in self.outputs)


HIDDEN = "last_hidden_state"  # of bare encoders


def program_of(source: str | Path, options: Options) -> torch.onnx.ONNXProgram:
    """Return the ONNX program of a model folder (or hub id), as `pruneonce.export.to_onnx` writes it.

    Raises:
        UserError: there is no model, or an option does not suit it.
    """
    tokenizer = load_tokenizer(source)
    is_quantized = quantization.is_quantized(source)
    model = quantization.load(source) if is_quantized else load_as_saved(source).eval()
    model.set_attn_implementation("eager")  # plain MatMul and Softmax, which engines can fuse
    example = _example(model, tokenizer)
    with torch.no_grad():
        outputs = [name for name, value in model(**example).items() if isinstance(value, Tensor)]
    if options.single_output:
        outputs = _single(outputs, source)
    if options.safe:
        if not saturation.counts(model)["layers"]:
            raise UserError(f"{source} has no int8 layers; export it without --safe")
        saturation.fit(model)
    if is_quantized:
        with_nodes(model)
    graph = _Positional(model, list(example), outputs).eval()
    with _quiet(), torch.no_grad():
        try:
            program = torch.onnx.export(
                graph,
                tuple(example.values()),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(example),
                output_names=outputs,
                dynamic_shapes=(tuple({0: Dim.DYNAMIC, 1: Dim.DYNAMIC} for _ in example),),
                verbose=False,
            )
        except OnnxExporterError as error:  # the code of some architectures depends on the length of the texts
            raise UserError(
                f"{source}, a {model.config.model_type}, cannot be exported: PyTorch's exporter does not follow the "
                "code of this architecture in transformers; use it in PyTorch, as a model folder or a packed file"
            ) from error
    assert program is not None
    for value in program.model.graph.inputs:
        assert value.shape is not None
        program.rename_axes(dict(zip(value.shape, ("batch", "sequence"), strict=True)))  # type: ignore[arg-type]
    add_zero_points(program.model.graph)
    pack_int4(program.model.graph)
    rewriting.keep_layer_norms(program.model.graph)
    if options.fp16:
        rewriting.store_fp16(program.model.graph)
    if options.opset < OPSET:
        rewriting.lower(program.model, options.opset)
    _strip(program.model)
    return program


def _single(outputs: list[str], source: str | Path) -> list[str]:
    """Return the one output of a model; of a bare encoder the hidden states, without the pooler's output."""
    if len(outputs) == 1 or outputs[0] == HIDDEN:
        return outputs[:1]
    raise UserError(f"{source} needs all of its outputs: {', '.join(outputs)}; export it without --single-output")


def _example(model: Any, tokenizer: Any) -> dict[str, Tensor]:
    """Return a padded batch of pairs, with the inputs that tokenizer and model agree on."""
    names = signature(model.forward).parameters
    batch = tokenizer(["a", "a b c"], ["b", "c d e"], padding=True, return_tensors="pt")
    return {name: value for name, value in batch.items() if name in names}


@contextmanager
def _quiet() -> Generator[None, None, None]:
    """Silence two messages of PyTorch 2.13 that no argument of ours would change; nothing else.

    `torch.export` copies its own graph, and thereby makes a `LeafSpec`, a class that it has deprecated. The exporter
    lists the operators that it knows, and reports for those of torchvision, one by one, that it is not installed.
    """
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    logger.addFilter(_is_no_torchvision)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            yield
    finally:
        logger.removeFilter(_is_no_torchvision)


def _is_no_torchvision(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("torchvision is not installed")


def _strip(model: Any) -> None:
    """Remove the exporter's notes for debugging, such as stack traces with this machine's paths."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()
