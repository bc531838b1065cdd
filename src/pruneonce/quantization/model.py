"""Making a model learn on the grid, fixing it there, and keeping its scales beside it in the model folder.

A quantized model folder is a plain one whose weights lie on the grid: transformers loads it without this package.
Beside them, `quantization.safetensors` holds the scales that make integers of them (see storage/grid.py), and
`quantized_inputs.json`, where inputs are quantized, `{MODULE: {"scale": s, "zero_point": z}}`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pruneonce.errors import UserError
from pruneonce.models import grid, load_as_saved
from pruneonce.quantization.embedding import LearningEmbedding, QuantizedEmbedding
from pruneonce.quantization.functions import ACTIVATION_MAX
from pruneonce.quantization.linear import LearningLinear, QuantizedLinear
from pruneonce.quantization.selection import check_fits, quantizable, tables
from pruneonce.recipe import Quantization
from pruneonce.system import durable

INPUTS = "quantized_inputs.json"

Quantized = QuantizedLinear | QuantizedEmbedding


def insert(model: nn.Module, settings: Quantization, averaging: float = 0.01) -> dict[str, LearningLinear]:
    """Put a LearningLinear or a LearningEmbedding in the place of each module that is to be quantized.

    Args:
        averaging: constant of the inputs' moving average.

    Returns:
        The Linears by name: what has ranges to learn.

    Raises:
        UserError: the architecture is not supported, or the groups do not fit.
    """
    check_fits(model, settings)
    linears = quantizable(model, settings.head)
    made = {
        name: LearningLinear(linear, settings.bits, settings.granularity, settings.group_size, averaging)
        for name, linear in linears.items()
    }
    _replace(model, made)
    if settings.embeddings:
        _replace(model, {name: LearningEmbedding(table) for name, table in tables(model).items()})
    return made


def freeze(model: nn.Module) -> dict[str, Quantized]:
    """Fix the scales of what `insert` made, and put the weights on the grid.

    Raises:
        UserError: no input ever reached one of the modules.
    """
    learned = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (LearningLinear, LearningEmbedding))
    }
    unseen = [
        name
        for name, module in learned.items()
        if isinstance(module, LearningLinear) and module.input_low is not None and module.input_low.isinf()
    ]
    if unseen:
        raise UserError(
            f"no input reached {', '.join(unseen)}, so there is no range to quantize with; train or calibrate"
        )
    made: dict[str, Quantized] = {name: module.frozen() for name, module in learned.items()}
    _replace(model, made)
    return made


def unwrap(model: nn.Module) -> None:
    """Plain Linears and Embeddings again, with the weights as they are."""
    quantized = {name: module for name, module in model.named_modules() if isinstance(module, Quantized)}
    _replace(model, {name: module.plain() for name, module in quantized.items()})


def save(quantized: dict[str, Quantized], folder: Path) -> None:
    """Write the grids of the weights and of the inputs to the model folder."""
    grid.save(
        folder,
        {
            f"{name}.weight": grid.Grid(module.bits, module.weight_scale.cpu().numpy())
            for name, module in quantized.items()
        },
    )
    inputs = {
        name: {"scale": module.input_grid[0], "zero_point": module.input_grid[1]}
        for name, module in quantized.items()
        if isinstance(module, QuantizedLinear) and module.input_grid is not None
    }
    durable.write_json(inputs, folder / INPUTS)


def is_quantized(folder: str | Path) -> bool:
    return (Path(folder) / grid.FILE).is_file()


def weights_of(folder: str | Path) -> str:
    """What numbers the encoder's weights are: `int8`, `int4`, ..., or `fp32` where the folder is not quantized."""
    if not is_quantized(folder):
        return "fp32"
    grids = grid.load(Path(folder))
    bits = {weights.bits for name, weights in grids.items() if "embeddings" not in name}
    return f"int{max(bits)}" if bits else "fp32"


def load(folder: str | Path) -> Any:
    """The fake-quantized model of a quantized model folder, in evaluation mode: equal to the one that was saved.

    Raises:
        UserError: there is no quantized model in the folder.
    """
    if not is_quantized(folder):
        raise UserError(f"{folder} is not quantized: it has no {grid.FILE}")
    model = load_as_saved(folder)
    restore(model, folder)
    return model.eval()


def restore(model: nn.Module, folder: str | Path) -> None:
    """Make the plain `model` of a quantized model folder the fake-quantized one, in place."""
    modules = dict(model.named_modules())
    inputs = durable.read_json(Path(folder) / INPUTS) or {}
    made: dict[str, Quantized] = {}
    for weight_name, weights in grid.load(Path(folder)).items():
        name = weight_name.removesuffix(".weight")
        module = modules.get(name)
        if not isinstance(module, (nn.Linear, nn.Embedding)) or not weights.fits(tuple(module.weight.shape)):
            raise UserError(
                f"{Path(folder) / grid.FILE} is of another model: {name} is not in this one, or of another size"
            )
        scale = torch.from_numpy(weights.scale).to(module.weight.device)
        if isinstance(module, nn.Linear):
            of_inputs = _input_grid(inputs, name, folder)
            made[name] = QuantizedLinear(module, weights.bits, scale, of_inputs)
        elif scale.shape == (module.num_embeddings,):
            made[name] = QuantizedEmbedding(module, scale, weights.bits)
        # A table on a grid of another shape, which nothing here makes, is looked up as it is.
    _replace(model, made)


def _input_grid(inputs: Any, name: str, folder: str | Path) -> tuple[float, int] | None:
    """Scale and zero point of a module's inputs as read, if they are quantized."""
    try:
        if name not in inputs:
            return None
        scale, zero_point = float(inputs[name]["scale"]), int(inputs[name]["zero_point"])
    except (KeyError, TypeError, ValueError, OverflowError):
        scale, zero_point = 0.0, 0
    if not (0 < scale < math.inf and 0 <= zero_point <= ACTIVATION_MAX):
        raise UserError(f"{Path(folder) / INPUTS} is damaged: no scale and zero point for {name}")
    return scale, zero_point


def _replace(model: nn.Module, modules: Any) -> None:
    for name, module in modules.items():
        model.set_submodule(name, module)
