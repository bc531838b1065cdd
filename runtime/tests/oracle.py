"""Tiny models of every architecture, packed by the main package, and PyTorch's fake quantization to compare with."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pruneonce import quantization, storage
from pruneonce.models.architectures import prunable_weights
from pruneonce.recipe import Quantization
from shared.models import CONFIGS, WORDS, make_tokenizer
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from pruneonce_runtime.architectures import build
from pruneonce_runtime.configuration import Configuration
from pruneonce_runtime.file import PackedFile
from pruneonce_runtime.reference import ReferenceEngine, logits

HEADS = {
    "sequence": AutoModelForSequenceClassification,
    "tokens": AutoModelForTokenClassification,
    "answers": AutoModelForQuestionAnswering,
}
# What the weights of the file are: as they are, rounded by `pack`, or quantized with their inputs by calibration.
KINDS = ("fp32", "int8", "int4", "calibrated", "calibrated per tensor", "calibrated int4")
QUANTIZATIONS = {
    "calibrated": Quantization(),
    "calibrated per tensor": Quantization(granularity="tensor"),
    "calibrated int4": Quantization(bits=4, granularity="group", group_size=16),
}


def random_model(auto: Any, architecture: str, seed: int = 0, **config: Any) -> Any:
    """A model whose encoder counts for something, 80 % of its weights zero."""
    torch.manual_seed(seed)
    values = json.loads(CONFIGS[architecture].to_json_string())
    model = auto.from_config(type(CONFIGS[architecture])(**{**values, **config})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        for weight in prunable_weights(model).values():
            weight[weight.abs() <= weight.abs().flatten().kthvalue(int(0.8 * weight.numel())).values] = 0
            weight *= 3
    return model


def batch(seed: int = 0, lengths: tuple[int, ...] = (12, 1, 30, 3)) -> list[np.ndarray]:
    """Token ids; [PAD] and [UNK] among them, as text may have them."""
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 5 + len(WORDS), length).astype(np.int32) for length in lengths]


@dataclass
class Case:
    """A packed file, and the model that the main package makes of it."""

    file: Path
    model: Any


def packed(folder: Path, model: Any, kind: str, name: str = "model") -> Case:
    """`model` as `folder`/NAME.pruneonce."""
    source = folder / name
    source.mkdir(parents=True)
    if settings := QUANTIZATIONS.get(kind):
        learning = quantization.insert(model, settings, 1.0)
        for layer in learning.values():
            layer.train()
        with torch.no_grad():
            for ids in batch(seed=1):
                model(input_ids=torch.from_numpy(ids)[None].long())
        fixed = quantization.freeze(model.eval())
        quantization.save(fixed, source)
        quantization.unwrap(model)
    model.save_pretrained(source)
    make_tokenizer().save_pretrained(source)
    return pack_folder(source, kind if kind in ("fp32", "int4") else "int8")


def pack_folder(source: Path, values: str = "int8") -> Case:
    file = source.with_name(f"{source.name}.pruneonce")
    storage.pack([source], file, values)
    (back,) = storage.unpack(file, source.with_name(f"{source.name}-back"))
    quantized = quantization.is_quantized(back)
    return Case(file, quantization.load(back) if quantized else storage.load(file).eval())


class Following(ReferenceEngine):
    """Compares what goes into the Linears that quantize their inputs with PyTorch's inputs, and goes on from these.

    An input that float32's rounding puts on the other side of a step is a whole step away, and what follows with it:
    PyTorch's own kernels differ among themselves by such steps. From equal inputs, all is equal.
    """

    def __init__(self, network: Any, inputs: list[np.ndarray], tolerance: float = 1e-5) -> None:
        super().__init__(network)
        self.inputs = inputs
        self.tolerance = tolerance

    def linear(self, linear: Any, x: Any) -> Any:
        if linear.input_scale is not None:
            theirs = self.inputs.pop(0)
            np.testing.assert_allclose(x, theirs, rtol=0, atol=self.tolerance * np.abs(theirs).max())
            x = theirs
        return super().linear(linear, x)


def network_of(file: Path, member: str | None = None) -> Any:
    found = PackedFile(file).member(member)
    return build(found, Configuration(found))


def run(engine: Any, texts: list[np.ndarray], types: np.ndarray | None = None) -> np.ndarray:
    """Logits of a ragged batch."""
    offsets = np.cumsum([0, *map(len, texts)]).astype(np.int32)
    hidden = engine.forward(np.concatenate(texts), offsets, types)
    return logits(engine.network, engine, hidden, offsets)


@torch.no_grad()
def torch_logits(model: Any, ids: np.ndarray, types: np.ndarray | None = None) -> np.ndarray:
    """Of one text: [1, labels] or [tokens, labels]."""
    given = {"input_ids": torch.from_numpy(ids)[None].long()}
    if types is not None:
        given["token_type_ids"] = torch.from_numpy(types)[None].long()
    found = model(**given)
    if "start_logits" in found:
        return torch.stack([found.start_logits[0], found.end_logits[0]], dim=-1).numpy()
    return (found.logits if found.logits.dim() == 2 else found.logits[0]).numpy()
