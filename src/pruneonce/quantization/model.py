"""Quantization of whole models: training on the grid, fixing the scales, and saving them in the model folder.

A quantized model folder is a plain folder whose weights lie on the grid: transformers loads it without this package.
Beside the weights, `quantization.safetensors` holds their scales (see models/grid.py). If inputs are quantized,
`quantized_inputs.json` holds `{MODULE: {"scale": s, "zero_point": z}}`.
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
    """Replace each module to quantize by a LearningLinear or a LearningEmbedding.

    Args:
        model: changed in place.
        settings: bits, granularity and the choice of modules.
        averaging: constant of the inputs' moving average.

    Returns:
        The LearningLinears by name, which have ranges of inputs to learn.

    Raises:
        UserError: the architecture is not supported, or the groups do not divide the inputs.
    """
    check_fits(model, settings)
    linears = quantizable(model, settings.head)
    learning = {
        name: LearningLinear(linear, settings.bits, settings.granularity, settings.group_size, averaging)
        for name, linear in linears.items()
    }
    _replace(model, learning)
    if settings.embeddings:
        _replace(model, {name: LearningEmbedding(table) for name, table in tables(model).items()})
    return learning


def freeze(model: nn.Module) -> dict[str, Quantized]:
    """Fix the scales of the modules made by `insert`, and round their weights to the grid.

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
    frozen_modules: dict[str, Quantized] = {name: module.frozen() for name, module in learned.items()}
    _replace(model, frozen_modules)
    return frozen_modules


def unwrap(model: nn.Module) -> None:
    """Replace quantized modules by plain Linears and Embeddings with the same weights."""
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
    """Return whether a model folder records quantization grids."""
    return (Path(folder) / grid.FILE).is_file()


def weights_of(folder: str | Path) -> str:
    """Number format of the encoder's weights: `int8`, `int4`, ..., or `fp32` if the folder is not quantized."""
    if not is_quantized(folder):
        return "fp32"
    grids = grid.load(Path(folder))
    bits = {weights.bits for name, weights in grids.items() if "embeddings" not in name}
    return f"int{max(bits)}" if bits else "fp32"


def load(folder: str | Path) -> Any:
    """Load the fake-quantized model of a quantized folder, in evaluation mode, equal to the saved model.

    Raises:
        UserError: there is no quantized model in the folder.
    """
    if not is_quantized(folder):
        raise UserError(f"{folder} is not quantized: it has no {grid.FILE}")
    model = load_as_saved(folder)
    restore(model, folder)
    return model.eval()


def restore(model: nn.Module, folder: str | Path) -> None:
    """Turn the plain `model` of a quantized model folder into the fake-quantized model, in place.

    Raises:
        UserError: the files beside the model are damaged or of another model.
    """
    modules = dict(model.named_modules())
    inputs = durable.read_json(Path(folder) / INPUTS) or {}
    quantized: dict[str, Quantized] = {}
    for weight_name, weights in grid.load(Path(folder)).items():
        name = weight_name.removesuffix(".weight")
        module = modules.get(name)
        if not isinstance(module, (nn.Linear, nn.Embedding)) or not weights.fits(tuple(module.weight.shape)):
            raise UserError(
                f"{Path(folder) / grid.FILE} is of another model: {name} is not in this one, or of another size"
            )
        scale = torch.from_numpy(weights.scale).to(module.weight.device)
        if isinstance(module, nn.Linear):
            input_grid = _input_grid(inputs, name, folder)
            quantized[name] = QuantizedLinear(module, weights.bits, scale, input_grid)
        elif scale.shape == (module.num_embeddings,):
            quantized[name] = QuantizedEmbedding(module, scale, weights.bits)
        # A table with a grid of another shape, which this package never makes, keeps its values.
    _replace(model, quantized)


def _input_grid(inputs: Any, name: str, folder: str | Path) -> tuple[float, int] | None:
    """Check and return the scale and zero point of a module's inputs; None if they are not quantized."""
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
