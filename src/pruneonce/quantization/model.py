"""Making a model learn on the grid, fixing it there, and keeping its scales beside it in the model folder.

A quantized model folder is a plain one whose weights lie on the grid: transformers loads it without this package.
The file `quantization.safetensors` beside holds what makes integers of them: for each quantized weight NAME
`NAME.scale`, float32 [out], [1] or [out, groups]; for its module MODULE, where its inputs are quantized,
`MODULE.input.scale`, float32 [1], and `MODULE.input.zero_point`, uint8 [1]; in its metadata `bits` and `granularity`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from pruneonce import modelfolder
from pruneonce.errors import UserError
from pruneonce.quantization.linear import LearningLinear, QuantizedLinear
from pruneonce.quantization.selection import check_groups, quantizable
from pruneonce.recipe import Quantization

FILE = "quantization.safetensors"


def insert(model: nn.Module, settings: Quantization, averaging: float = 0.01) -> dict[str, LearningLinear]:
    """Put a LearningLinear in the place of each Linear that is to be quantized.

    Args:
        averaging: constant of the inputs' moving average.

    Raises:
        UserError: the architecture is not supported, or the groups do not fit.
    """
    linears = quantizable(model, settings.head)
    if settings.granularity == "group":
        check_groups(linears, settings.group_size)
    made = {
        name: LearningLinear(linear, settings.bits, settings.granularity, settings.group_size, averaging)
        for name, linear in linears.items()
    }
    _replace(model, made)
    return made


def freeze(model: nn.Module) -> dict[str, QuantizedLinear]:
    """Fix the scales of what `insert` made, and put the weights on the grid.

    Raises:
        UserError: no input ever reached one of the modules.
    """
    learned = {name: module for name, module in model.named_modules() if isinstance(module, LearningLinear)}
    unseen = [name for name, module in learned.items() if module.input_low is not None and module.input_low.isinf()]
    if unseen:
        raise UserError(
            f"no input reached {', '.join(unseen)}, so there is no range to quantize with; train or calibrate"
        )
    made = {name: QuantizedLinear.of(module) for name, module in learned.items()}
    _replace(model, made)
    return made


def unwrap(model: nn.Module) -> None:
    """Plain Linears again, with the weights as they are."""
    plain = {}
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLinear):
            plain[name] = nn.Linear(module.in_features, module.out_features, module.bias is not None, device="meta")
            plain[name].weight, plain[name].bias = module.weight, module.bias
            plain[name].train(module.training)
    _replace(model, plain)


def save(quantized: dict[str, QuantizedLinear], settings: Quantization, folder: Path) -> None:
    """Write the scales to the model folder."""
    tensors = {}
    for name, module in quantized.items():
        tensors[f"{name}.weight.scale"] = module.weight_scale
        if module.input_grid is not None:
            scale, zero_point = module.input_grid
            tensors[f"{name}.input.scale"] = torch.tensor([scale])
            tensors[f"{name}.input.zero_point"] = torch.tensor([zero_point], dtype=torch.uint8)
    save_file(tensors, folder / FILE, {"bits": str(settings.bits), "granularity": settings.granularity})


def is_quantized(folder: str | Path) -> bool:
    return (Path(folder) / FILE).is_file()


def load(folder: str | Path) -> Any:
    """The fake-quantized model of a quantized model folder, in evaluation mode: equal to the one that was saved.

    Raises:
        UserError: there is no quantized model in the folder.
    """
    if not is_quantized(folder):
        raise UserError(f"{folder} is not quantized: it has no {FILE}")
    model = modelfolder.load_as_saved(folder)
    restore(model, folder)
    return model.eval()


def restore(model: nn.Module, folder: str | Path) -> None:
    """Make the plain `model` of a quantized model folder the fake-quantized one, in place."""
    with safe_open(Path(folder) / FILE, framework="pt") as file:
        bits = int(file.metadata()["bits"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    made = {}
    for scale_name in (name for name in tensors if name.endswith(".weight.scale")):
        name = scale_name.removesuffix(".weight.scale")
        if name not in linears:
            raise UserError(f"{Path(folder) / FILE} is of another model: {name} is not in this one")
        grid = None
        if f"{name}.input.scale" in tensors:
            grid = (tensors[f"{name}.input.scale"].item(), int(tensors[f"{name}.input.zero_point"]))
        weight_scale = tensors[scale_name].to(linears[name].weight.device)
        made[name] = QuantizedLinear(linears[name], bits, weight_scale, grid)
    _replace(model, made)


def _replace(model: nn.Module, modules: Any) -> None:
    for name, module in modules.items():
        model.set_submodule(name, module)
