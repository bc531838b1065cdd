"""Models in PyTorch, in fp32. A quantized one runs as fake quantization: right in value, but no faster than fp32."""

from __future__ import annotations

from inspect import signature
from pathlib import Path

import torch
from torch import Tensor

from pruneonce import quantization
from pruneonce.engines.engine import Array, Engine, Outputs
from pruneonce.models import load_as_saved, load_tokenizer


def open_model(folder: str | Path, threads: int | None) -> Engine:
    """As `open_engine`; it is always exact."""
    model = quantization.load(folder) if quantization.is_quantized(folder) else load_as_saved(folder).eval()
    taken = signature(model.forward).parameters
    inputs = [name for name in load_tokenizer(folder).model_input_names if name in taken]
    if threads is not None:
        torch.set_num_threads(threads)

    @torch.inference_mode()
    def run(batch: dict[str, Array]) -> Outputs:
        found = model(**{name: torch.from_numpy(value) for name, value in batch.items()})
        return {name: value.numpy() for name, value in found.items() if isinstance(value, Tensor)}

    return Engine("torch", inputs, "fp32", torch.get_num_threads(), run)
