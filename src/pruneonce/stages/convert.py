"""Conversion: a model folder of the files that another library wrote, with its zeros in the weights."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

from pruneonce.console import console
from pruneonce.models import save_model
from pruneonce.models.convert import Converted, find, read
from pruneonce.sparsity import inspect_module
from pruneonce.stages import keys
from pruneonce.stages.output import is_finished, unfinished
from pruneonce.system import distributed

SHOWN = 5  # names of tensors


def convert(source: str | Path, output: str | Path, *, config: str | Path | None = None) -> Path:
    """Make a model folder of another library's model.

    Args:
        source: folder, file of weights, or hub id. Weights are safetensors, `pytorch_model.bin` in one file or several,
            or a state dict, see `pruneonce.models.convert`.
        output: the model folder.
        config: folder or hub id of the configuration and the tokenizer; None: they are beside the weights.

    Raises:
        UserError: the files are damaged or hold more than tensors, weights are missing, or `output` holds something
            else.
    """
    output = Path(output)
    distributed.start()
    foreign = find(source, config)
    key = keys.convert(foreign.key)
    if is_finished(output, key):
        return output
    with unfinished(output, key) as begun:
        scratch = begun / "cache"

        def make() -> None:
            shutil.rmtree(scratch, ignore_errors=True)
            converted = read(foreign, scratch)
            _report(converted)
            zeros = inspect_module(converted.model)
            provenance = {
                "stage": "convert",
                "key": key,
                "source": foreign.name,
                "parents": [foreign.parent],
                "settings": {},
                "training": {"steps": 0, "tokens": 0, "seconds": 0.0},
                "pattern": zeros.pattern,
                "sparsity": {
                    "encoder": zeros.encoder,
                    "model": zeros.model,
                    "layers": [asdict(layer) | {"sparsity": layer.sparsity} for layer in zeros.layers],
                },
                "left_out": converted.left_out,
                "masks": converted.masks,
            }
            metrics: dict[str, object] = {"history": [], "final": {}}
            save_model(converted.model, output, source=scratch / "about", provenance=provenance, metrics=metrics)

        distributed.by_first(make)
    return output


def _report(converted: Converted) -> None:
    """Print what was applied and what was left out."""
    lines = []
    if converted.masks:
        lines.append(f"applied {converted.masks} masks")
    if converted.lacking:
        lines.append(f"the file has no head of {converted.lacking}, so the encoder alone is kept")
    if names := converted.left_out:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        lines.append(
            f"left out {len(names)} tensors, which this model has no place for: {', '.join(names[:SHOWN])}{more}"
        )
    for line in lines:
        console.print(f"  {line}", soft_wrap=True, markup=False, highlight=False)
