"""Engine PyTorch, in fp32. A quantized model runs as fake quantization: right in value, but no faster than fp32."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING

from pruneonce.engines.engine import Engine

if TYPE_CHECKING:
    from pruneonce.engines.session import Array, Outputs, Session


def open_model(folder: str | Path, threads: int | None, exact: bool) -> Session:
    """Open a model folder, always exactly; the arguments are those of `pruneonce.engines.open_engine`."""
    import torch

    from pruneonce import quantization
    from pruneonce.engines.session import Session
    from pruneonce.models import load_as_saved, load_tokenizer

    model = quantization.load(folder) if quantization.is_quantized(folder) else load_as_saved(folder).eval()
    parameters = signature(model.forward).parameters
    inputs = [name for name in load_tokenizer(folder).model_input_names if name in parameters]
    if threads is not None:
        torch.set_num_threads(threads)

    @torch.inference_mode()
    def run(batch: dict[str, Array]) -> Outputs:
        outputs = model(**{name: torch.from_numpy(value) for name, value in batch.items()})
        return {name: value.numpy() for name, value in outputs.items() if isinstance(value, torch.Tensor)}

    return Session(ENGINE.name, inputs, "fp32", torch.get_num_threads(), run)


ENGINE = Engine(name="torch", title="PyTorch", library="torch", open=open_model, runs_integers=False)
